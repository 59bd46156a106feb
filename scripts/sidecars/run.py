"""The run loop of all sidecars: shards of images through a model, safely.

One process per GPU, and no communication between them: process r of n takes every n-th
shard. After a kill at any moment, the same command continues, and the result has the
same bytes as without.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from item_jax import files, images, perturb
from item_jax.datasets import folder
from item_jax.progress import progress
from item_sidecars import shards
from item_sidecars.batches import AdapterError, Job, Loader, Runner, Step, ahead
from item_sidecars.models import DTYPES, versions
from item_sidecars.ranks import Ranks, ranks

LONG_RUN = 10_000  # images from which a run without a canary gets a reminder

_EXPECTED = (
    *(ValueError, OSError, RuntimeError, ImportError, LookupError, MemoryError),
    AdapterError,
)


# ----------------------------------------------------------------------- command line


def add_flags(parser: argparse.ArgumentParser, *, batch_size: int) -> None:
    """Adds the options that all sidecars have."""
    run = parser.add_argument_group("run")
    run.add_argument("--out", required=True, type=Path, help="folder; resumes there")
    run.add_argument("--dtype", default="auto", choices=DTYPES)
    run.add_argument(
        "--batch-size", type=positive, default=batch_size, help="default: %(default)s"
    )
    run.add_argument(
        "--shard-size",
        type=positive,
        help="images per shard; default: the whole batches in 2,000",
    )
    run.add_argument(
        "--workers",
        type=positive,
        default=min(os.cpu_count() or 1, 8),
        help="decoding threads; default: %(default)s",
    )
    run.add_argument("--perturb", metavar="NAME:SEVERITY", help="such as jpeg:2")
    run.add_argument(
        "--canary",
        metavar="FILE=WORD",
        help="checked before the run: this image must yield this word",
    )
    many = parser.add_argument_group("many processes (torchrun and SLURM set these)")
    many.add_argument("--rank", type=int, help="number of this process, from 0")
    many.add_argument("--world-size", type=int, help="number of processes")
    many.add_argument(
        "--merge", action="store_true", help="only join the finished shards"
    )


def positive(text: str) -> int:
    """Reads a whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


class Terminated(BaseException):
    """The process received SIGTERM."""


def guarded(main: Callable[[Any], int], arguments: Any) -> int:
    """Runs a program and turns what goes wrong into a message and an exit status.

    Args:
      main: returns an exit status.
      arguments: its argument.

    Returns:
      The status of `main`; 2 after an error, 130 after Ctrl-C, 141 when the reader of
      a pipe went away, 143 after SIGTERM. With the environment variable
      ITEM_JAX_TRACEBACK set, errors are raised instead.
    """

    def terminate(*_: Any) -> None:
        raise Terminated

    program = Path(sys.argv[0]).name
    # Python sets signal handlers in the main thread only.
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        before = signal.signal(signal.SIGTERM, terminate)
    try:
        return main(arguments)
    except BrokenPipeError:  # the reader of a pipe went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except _EXPECTED as e:
        if os.environ.get("ITEM_JAX_TRACEBACK"):
            raise
        print(f"{program}: {e}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Terminated) as e:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        return 143 if isinstance(e, Terminated) else 130
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


# ---------------------------------------------------------------------------- images


def find_ranks(arguments: argparse.Namespace) -> Ranks:
    """Finds out which process this is; see `ranks.ranks`.

    Raises:
      ValueError: as `ranks.ranks`; for a damaged `run.json`.
    """
    path = arguments.out / "run.json"
    begun = files.read_json(path).get("slurm_array") if path.is_file() else None
    return ranks(os.environ, arguments.rank, arguments.world_size, begun=begun)


def list_images(image_root: str | Path) -> list[Job]:
    """Returns the images below a folder that `item-jax index` finds, sorted by key.

    Raises:
      ValueError: when the folder does not exist or holds no image.
    """
    found = folder.tree(image_root)
    for path, fault in sorted(found.faults.items())[:5]:
        say(f"  {files.printable(path)}: {fault}")
    if len(found.faults) > 5:
        say(f"  ... and {len(found.faults) - 5} more")
    if not found.sizes:
        raise ValueError(
            f"no image below {image_root}; suffixes looked for: "
            f"{', '.join(folder.SUFFIXES)}"
        )
    return [Job(key) for key in found.sizes]


def check_unique(keys: Sequence[str], where: str) -> None:
    """Refuses duplicated keys.

    Args:
      keys: sorted.
      where: the file they come from.

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
      step: what to do with each image.
      jobs: all images of all ranks, sorted by key.
      arguments: of `add_flags`, and `images`, the folder.
      place: of `ranks`.
      settings: what the rows depend on, besides what is added here.

    Returns:
      The exit status: 0, also when images failed, because torchrun would stop the other
      processes on any other. Failures are counted, and each has its row.

    Raises:
      ValueError: for settings that contradict each other, or the run that began in
        --out.
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
    image_root = Path(arguments.images)
    _check_canary(step, arguments, len(jobs))
    beside = {"images": str(image_root.resolve()), "slurm_array": place.array}
    shards.claim(arguments.out, settings, **beside)
    mine = parts[place.rank :: place.world]
    say(
        f"{len(jobs):,} images in {len(parts)} shards; rank {place.rank} of "
        f"{place.world} ({place.source}) takes {len(mine)}"
    )
    load = Loader(step, image_root, perturbation)
    runner = Runner(step, load.blank, arguments.batch_size)
    pool = ThreadPoolExecutor(arguments.workers)
    try:
        with progress(step.stage, sum(len(p.keys) for p in mine), "img") as bar:
            for part in mine:
                if part.done():
                    _advance_resumed(bar, len(part.keys))
                    continue
                own = jobs[part.number * size :][:size]
                _run_shard(part, own, load, runner, pool, bar)
    finally:
        # After an error or Ctrl-C, what is queued is not worth waiting for.
        pool.shutdown(cancel_futures=True)
    if runner.limit < arguments.batch_size:
        say(
            f"memory ran out: batches of {arguments.batch_size} ran in parts of "
            f"{runner.limit}; only --batch-size {runner.limit} makes a run that "
            "resumes to the same bytes"
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
    """Joins the finished shards and prints the counts; returns the exit status."""
    counts, reasons = shards.merge(arguments.out, step.output)
    for reason, count in reasons.most_common(5):
        say(f"{count:8,} {files.printable(reason)}")
    say(
        f"{counts['rows']:,} images = {counts['done']:,} done + {counts['failed']:,} "
        f"failed + {counts['skipped']:,} skipped; wrote {arguments.out / step.output}"
    )
    return 0


def shard_size(arguments: argparse.Namespace) -> int:
    """Returns `--shard-size`, or the whole batches in 2,000 images."""
    batch = max(arguments.batch_size, 1)
    return arguments.shard_size or max(2000 // batch, 1) * batch


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def _advance_resumed(bar: tqdm, count: int) -> None:
    bar.update(count)
    bar.initial += count  # the rate and the time left are of this run only


def _run_shard(
    part: shards.Shard,
    jobs: Sequence[Job],
    load: Loader,
    runner: Runner,
    pool: ThreadPoolExecutor,
    bar: tqdm,
) -> None:
    written = part.open()
    _advance_resumed(bar, len(written))
    so_far = list(written)
    try:
        for batch in ahead(pool, load, jobs[len(written) :], part.batch_size):
            rows = runner.rows(batch)
            part.append(rows)
            so_far += rows
            runner.step.check(so_far)
            runner.failed += sum(row["status"] == "failed" for row in rows)
            bar.set_postfix(failed=runner.failed, refresh=False)
            bar.update(len(rows))
        runner.step.check(so_far)  # also when nothing was left to do
        part.finish()
    finally:
        part.close()


def _check_canary(step: Step, arguments: argparse.Namespace, count: int) -> None:
    if not arguments.canary:
        if count >= LONG_RUN and step.words:
            say(
                "no --canary: an image whose caption you know would show within "
                "seconds that this model and these versions work"
            )
        return
    path, _, word = arguments.canary.rpartition("=")
    if not path or not word:
        raise ValueError(f"--canary {arguments.canary!r} is not FILE=WORD")
    file = Path(path)
    found = step.canary(images.read_image(file.parent, file.name), word)
    if not re.search(rf"\b{re.escape(word.lower())}", found.lower()):
        raise ValueError(
            f"the canary {path} should yield {word!r} and yielded {found!r}. The "
            "model, its revision or the versions are not what they should be; nothing "
            "was run"
        )
    say(f"the canary yields {found!r}")
