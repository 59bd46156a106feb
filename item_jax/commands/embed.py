"""`item-jax embed`."""

from __future__ import annotations

import argparse
import time
from typing import Any

from item_jax import files
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

HELP = (
    "Embed the images, captions and objects of records; a stopped run goes on, and "
    "damaged shards are made again."
)
MOST = 5
"""So many repaired shards are named."""
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

    from jax import process_count

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
    towers = load_towers(
        c.tower, c.dtype, family=c.tower_family, text_cleaning=c.texts.clean
    )
    notices += geometry_notice(towers, c)
    if c.embed.outputs and is_main_process():
        say(outputs_cost(towers.output_shapes(c.embed.outputs), len(data)))
    start = time.perf_counter()
    cache = embed_records(
        data, towers, c, folder=folder, retry_failed=arguments.retry_failed
    )
    seconds = time.perf_counter() - start
    _say_repaired(cache)
    barrier("embedded")
    if not is_main_process():
        return 0
    counts, failures = cache.summary()
    say(
        f"{counts['in']} images = {counts['done']} embedded + {counts['failed']} "
        f"failed, {_made(cache, seconds, process_count())}; {folder}"
    )
    say_failures(failures)
    if cache.extra:
        notices.append(
            f"{cache.extra[0].name} is beyond the last shard; nothing reads it"
            if len(cache.extra) == 1
            else f"{len(cache.extra)} files such as {cache.extra[0].name} are beyond "
            "the last shard; nothing reads them"
        )
    for notice in notices:
        say(f"note: {notice}")
    return 1 if counts["failed"] else 0


def _say_repaired(cache: Any) -> None:
    """Says which shards were damaged; every process does so of its own."""
    repaired = {n: why for n, why in cache.made.items() if why is not None}
    if not repaired:
        return
    say(f"{len(repaired)} shard{'s' * (len(repaired) > 1)} repaired:")
    for shard, why in list(repaired.items())[:MOST]:
        say(f"  {cache.path(shard).name}: {files.printable(why)}")
    if len(repaired) > MOST:
        say(f"  ... and {len(repaired) - MOST} more")


def _made(cache: Any, seconds: float, processes: int) -> str:
    """Says how fast images were embedded, and how many shards were there already."""
    total = cache.manifest["shards"]
    if not cache.made and processes == 1:
        return "all shards were there"
    images = sum(map(cache.count, cache.made))
    rate = f"{seconds:.1f} s ({images / max(seconds, 1e-9):.1f} img/s"
    if processes > 1:
        return f"{rate} in this process)"
    resumed = len(cache.made) < total
    return f"{rate}){f', {len(cache.made)} of {total} shards' * resumed}"
