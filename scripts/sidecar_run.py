"""The run loop of both sidecars: shards of images through a model, safely.

One process a GPU and no talk between them: process r of n takes every n-th shard.
Killed at any moment, the same command goes on, and the result has the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sidecar_shards as shards
from item_jax import images, perturb
from item_jax.datasets import folder
from item_jax.progress import progress
from sidecar_batches import Job, Loader, Runner, Step, ahead
from sidecar_models import DTYPES, versions
from sidecar_ranks import Ranks

LONG_RUN = 10_000  # images from which a run without a canary is spoken about


_EXPECTED = (ValueError, OSError, RuntimeError, ImportError, LookupError, MemoryError)


# ----------------------------------------------------------------------------- flags


def add_flags(parser: argparse.ArgumentParser, *, batch_size: int) -> None:
    """Adds the flags both sidecars have."""
    run = parser.add_argument_group("run")
    run.add_argument("--out", required=True, type=Path, help="folder; resumes there")
    run.add_argument("--dtype", default="auto", choices=DTYPES)
    run.add_argument(
        "--batch-size", type=int, default=batch_size, help="default: %(default)s"
    )
    run.add_argument(
        "--shard-size",
        type=int,
        help="images a shard; default: the whole batches in 2,000",
    )
    run.add_argument(
        "--workers",
        type=int,
        default=min(os.cpu_count() or 1, 8),
        help="decoding threads; default: %(default)s",
    )
    run.add_argument("--perturb", metavar="NAME:SEVERITY", help="such as jpeg:2")
    run.add_argument(
        "--canary",
        metavar="FILE=WORD",
        help="before the run, this picture must yield this word",
    )
    many = parser.add_argument_group("many processes (torchrun and SLURM set these)")
    many.add_argument("--rank", type=int, help="which process this is, from 0")
    many.add_argument("--world-size", type=int, help="how many there are")
    many.add_argument(
        "--merge", action="store_true", help="only join the finished shards"
    )


def guarded(main: Callable[[argparse.Namespace], int], arguments) -> int:
    """Runs `main`; what goes wrong becomes a message and status 2."""
    try:
        return main(arguments)
    except _EXPECTED as e:
        if os.environ.get("ITEM_JAX_TRACEBACK"):
            raise
        print(f"{Path(sys.argv[0]).name}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


# ---------------------------------------------------------------------------- images


def list_images(root: str | Path) -> list[Job]:
    """Returns the images below `root` that `item-jax index` finds, sorted by key.

    Raises:
      ValueError: when there is no such folder, or no image in it.
    """
    found = folder.tree(root)
    for path, what in sorted(found.faults.items())[:5]:
        say(f"  {path}: {what}")
    if not found.sizes:
        raise ValueError(
            f"no image below {root}; suffixes looked for: {folder.SUFFIXES}"
        )
    return [Job(key) for key in found.sizes]


def check_unique(keys: Sequence[str], where: str) -> None:
    """Refuses keys that stand there twice.

    Raises:
      ValueError: naming the first.
    """
    for one, other in zip(keys, keys[1:]):
        if one == other:
            raise ValueError(
                f"{where} has two rows with the key {one!r} (names that differ only in "
                "their Unicode form have the same key)"
            )


# ------------------------------------------------------------------------------- run


def run(
    step: Step,
    jobs: list[Job],
    arguments: argparse.Namespace,
    place: Ranks,
    settings: dict[str, Any],
) -> int:
    """Runs a step over the shards of this rank, and merges when all are finished.

    Args:
      step: what to do.
      jobs: all images of all ranks, sorted by key.
      arguments: of `add_flags`, and `images`, the folder.
      place: of `ranks`.
      settings: what the rows depend on besides what is added here.

    Returns:
      The exit status: 0, also when images failed, since torchrun would end the other
      processes on any other. The failures are counted and stand in the rows.

    Raises:
      ValueError: for settings that do not fit together or to what was begun in --out.
    """
    keys = [job.key for job in jobs]
    size = shard_size(arguments)
    perturbation = perturb.label(*perturb.parse(arguments.perturb or "none"))
    parts = shards.shards(arguments.out, keys, size, arguments.batch_size)
    settings = {
        "schema": shards.SCHEMA,
        "stage": step.stage,
        **settings,
        "perturbation": perturbation,
        "images": {"count": len(keys), "sha256": shards.keys_digest(keys)},
        "batch_size": arguments.batch_size,
        "shard_size": size,
        "versions": versions(),
    }
    root = Path(arguments.images)
    _canary(step, arguments, len(jobs))
    shards.claim(arguments.out, settings, images=str(root.resolve()))
    mine = parts[place.rank :: place.world]
    say(
        f"{len(jobs):,} images in {len(parts)} shards; rank {place.rank} of "
        f"{place.world} ({place.source}) takes {len(mine)}"
    )
    load = Loader(step, root, perturbation)
    runner = Runner(step, load.blank, arguments.batch_size)
    with ThreadPoolExecutor(max(arguments.workers, 1)) as pool:
        with progress(step.stage, sum(len(p.keys) for p in mine), "img") as bar:
            for part in mine:
                if part.done():
                    bar.update(len(part.keys))
                    bar.initial += len(part.keys)
                    continue
                own = jobs[part.number * size :][:size]
                _run_shard(part, own, load, runner, pool, bar)
    if runner.limit < arguments.batch_size:
        say(
            f"memory was short: batches of {arguments.batch_size} ran in parts of "
            f"{runner.limit}; --batch-size {runner.limit} would be exact to resume"
        )
    waiting = sum(not part.done() for part in parts)
    if waiting:
        say(
            f"rank {place.rank} is finished; {waiting} shards of other ranks are not. "
            "The last rank to finish merges"
        )
        return 0
    return merge(step, arguments)


def merge(step: Step | type[Step], arguments: argparse.Namespace) -> int:
    """Joins the finished shards and says what they hold."""
    counts, reasons = shards.merge(arguments.out, step.output)
    for reason, count in reasons.most_common(5):
        say(f"{count:8,} {reason}")
    say(
        f"{counts['rows']:,} images = {counts['ok']:,} ok + {counts['error']:,} failed "
        f"+ {counts['skipped']:,} skipped; wrote {arguments.out / step.output}"
    )
    return 0


def shard_size(arguments: argparse.Namespace) -> int:
    """Returns `--shard-size`, or the whole batches in 2,000 images."""
    batch = max(arguments.batch_size, 1)
    return arguments.shard_size or max(2000 // batch, 1) * batch


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def _run_shard(part, jobs, load, runner, pool, bar) -> None:
    count = part.open()
    bar.update(count)
    bar.initial += count  # the rate and the time left speak of this run only
    try:
        for batch in ahead(pool, load, jobs[count:], part.batch_size):
            rows = runner.rows(batch)
            part.append(rows)
            runner.failed += sum(row["status"] == "error" for row in rows)
            bar.set_postfix(failed=runner.failed, refresh=False)
            bar.update(len(rows))
        part.finish()
    finally:
        part.close()


def _canary(step: Step, arguments: argparse.Namespace, count: int) -> None:
    if not arguments.canary:
        if count >= LONG_RUN:
            say(
                "no --canary: a picture whose caption you know would show within "
                "seconds that this model and these versions work"
            )
        return
    path, _, word = arguments.canary.rpartition("=")
    if not path or not word:
        raise ValueError(f"--canary {arguments.canary!r} is not FILE=WORD")
    file = Path(path)
    seen = step.canary(images.read_image(file.parent, file.name), word)
    if not re.search(rf"\b{re.escape(word.lower())}", seen.lower()):
        raise ValueError(
            f"the canary {path} should yield {word!r} and yielded {seen!r}. The model, "
            "its revision or the versions are not what they should be; nothing was run"
        )
    say(f"the canary yields {seen!r}")
