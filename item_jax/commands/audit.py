"""`item-jax audit`."""

from __future__ import annotations

import argparse

from item_jax import files
from item_jax.commands import LAYOUT, configured, find_images, option, say

HELP = (
    "Say what the files of real and fake images give away by formats, sizes, headers "
    "and pixel statistics, and how far a classifier gets with that alone."
)
EXAMPLE = (
    "item-jax audit data/CNN_synth_testset --benchmark forensynths\n"
    "  item-jax audit data --config.neutralise.quality=96 "
    "--config.neutralise.size=256"
)
OPTIONS = (
    option("root", metavar="ROOT", help="folder of the images"),
    *LAYOUT,
    option("--records", help="records.jsonl; instead of reading the folder"),
    option(
        "--no-pixels",
        action="store_true",
        help="headers alone: nothing is decoded, which is much faster",
    ),
    option("--json", help="write everything found to this file"),
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax.audit import audit
    from item_jax.audit_report import text

    c = configured(arguments)
    if arguments.records:
        from item_jax.datasets.dataset import facts, open_dataset, records

        data = open_dataset(arguments.records, arguments.root)
        found, sources = list(records(data)), facts(data)["real_sources"]
    else:
        index = find_images(arguments.root, arguments)
        found, sources = index.records, index.real_sources
    result = audit(
        found,
        arguments.root,
        real_sources=sources,
        quality=c.neutralise.quality,
        size=c.neutralise.size,
        pixels=not arguments.no_pixels,
        threads=c.embed.threads,
        max_pixels=c.data.max_pixels,
    )
    say(text(result))
    if arguments.json:
        files.write_json(arguments.json, result)
    return 1 if result["failures"] else 0
