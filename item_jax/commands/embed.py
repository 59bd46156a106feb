"""`item-jax embed`."""

from __future__ import annotations

import argparse
import time

from item_jax.commands import (
    CACHE,
    DISTRIBUTED,
    WORKDIR,
    configured,
    option,
    say,
    say_failures,
)
from item_jax.workdir import Workdir

HELP = "Embed the images, captions and objects of records; a stopped run goes on."
EXAMPLE = "item-jax embed --config=item_vitl14 --workdir run --config.dtype=bfloat16"
OPTIONS = (
    WORKDIR,
    CACHE,
    option("--split", default="", help="embed only this one; default: all images"),
    option(
        "--outputs",
        default="",
        metavar="NAMES",
        help="also store these outputs of the image tower: pooled, class_tokens, "
        "block_tokens; same as --config.embed.outputs=NAMES",
    ),
    option(
        "--retry-failed",
        action="store_true",
        help="make the shards again in which an image could not be read",
    ),
    DISTRIBUTED,
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax.datasets.dataset import facts, open_dataset, said
    from item_jax.datasets.selection import of_split

    if arguments.outputs:
        arguments.overrides.append(("embed.outputs", arguments.outputs))
    c = configured(arguments)
    workdir = Workdir(arguments.workdir)
    folder = workdir.cache(arguments.cache)
    data = open_dataset(c.data.records or workdir.records, c.data.images or None)
    for line in said(facts(data)):
        say(line)
    if arguments.split:
        data = of_split(data, arguments.split)

    from item_jax.embed import (
        check_perturbation,
        embed_records,
        geometry_notice,
        outputs_cost,
    )
    from item_jax.sharding import (
        barrier,
        enable_compilation_cache,
        is_main_process,
    )
    from item_jax.towers.towers import load_towers

    notices = check_perturbation(facts(data), c)
    enable_compilation_cache()
    towers = load_towers(c.tower, c.dtype, family=c.tower_family)
    notices += geometry_notice(towers, c)
    if c.embed.outputs and is_main_process():
        say(outputs_cost(towers.output_shapes(c.embed.outputs), len(data)))
    start = time.perf_counter()
    cache = embed_records(
        data, towers, c, folder=folder, retry_failed=arguments.retry_failed
    )
    seconds = time.perf_counter() - start
    barrier("embedded")
    if not is_main_process():
        return 0
    counts, failures = cache.summary()
    rate = counts["in"] / max(seconds, 1e-9)
    say(
        f"{counts['in']} images = {counts['done']} embedded + {counts['failed']} "
        f"failed, {seconds:.1f} s ({rate:.1f} img/s); {folder}"
    )
    say_failures(failures)
    for notice in notices:
        say(f"note: {notice}")
    return 1 if counts["failed"] else 0
