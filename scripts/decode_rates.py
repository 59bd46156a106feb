"""Measures how fast a host decodes images and cuts their views.

    python scripts/decode_rates.py [--cores 2] [--repeats 5] [--views-per-second 3600]

Prints a Markdown table of images per second through `item_jax.pipeline`: reading,
decoding, the whole view and three object crops at 224 pixels. First one core, by its
CPU time, which other work on the machine hardly changes; then, by the clock, threads on
all cores and processes on all cores. The last column says how many cores an accelerator
needs. Figures are medians of repeats; the images are cut from two photographs that come
with scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from item_jax import Object, Record, config, pipeline
from item_jax.datasets.dataset import RecordList

SIZES = ((256, 256), (500, 375), (512, 512), (1024, 1024))
OBJECTS = (
    Object("left", (0.05, 0.1, 0.45, 0.9)),
    Object("middle", (0.3, 0.3, 0.7, 0.7)),
    Object("right", (0.5, 0.2, 0.95, 0.8)),
)
VIEWS = 1 + len(OBJECTS)


def write_photos(folder: Path, size: tuple[int, int], suffix: str) -> list[Record]:
    """Writes sixteen files, cut from two photographs; returns their records."""
    records = []
    for i in range(16):
        photo = Image.fromarray(load_sample_images().images[i % 2])
        side = 300 + 7 * i
        part = photo.crop((i, i, i + side, i + round(side * size[1] / size[0])))
        key = f"{size[0]}x{size[1]}-{i:02d}{suffix}"
        options = {"quality": 90} if suffix == ".jpg" else {}
        part.resize(size, Image.Resampling.BICUBIC).save(folder / key, **options)
        records.append(Record(key, caption="a photo", objects=OBJECTS))
    return records


def core_rate(folder: Path, records: list[Record], seconds: float) -> float:
    """Returns images per second of CPU time of one core."""
    c = config.default()
    dataset = RecordList(records, folder)
    start, count = time.thread_time(), 0
    while time.thread_time() - start < seconds:
        check(pipeline.load(dataset, count % len(records), config=c, image_size=224))
        count += 1
    return count / (time.thread_time() - start)


def clock_rate(
    folder: Path, records: list[Record], seconds: float, *, threads: int, workers: int
) -> float:
    """Returns images per second by the clock, once the pipeline is running."""
    c = config.default()
    c.embed.threads, c.embed.workers = threads, workers
    # The same files over and over; the system keeps them in memory.
    order = [i % len(records) for i in range(1_000_000)]
    items = pipeline.stream(
        RecordList(records, folder), config=c, image_size=224, order=order
    )
    # What was decoded ahead of the start does not count.
    for _ in range(4 * threads * max(workers, 1) + 8):
        next(items)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        check(next(items))
        count += 1
    found = count / (time.perf_counter() - start)
    items.close()
    return found


def check(item: pipeline.ImageViews) -> None:
    """Stops when an image failed.

    Raises:
      RuntimeError: naming it.
    """
    if item.error or len(item.views) != VIEWS:
        raise RuntimeError(f"{item.record.key}: {item.error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one repeat")
    parser.add_argument("--views-per-second", type=float, default=3600)
    arguments = parser.parse_args()
    cores, seconds = arguments.cores, arguments.seconds
    titles = ["file", "KB", "one core", f"{cores} threads", f"{cores} processes"]
    print(f"| {' | '.join([*titles, 'cores needed'])} |")
    print("|---|" + "--:|" * len(titles))
    rates: dict[tuple, list] = {}
    kilobytes = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        kinds = [(s, size) for s in (".jpg", ".png") for size in SIZES]
        records = {kind: write_photos(folder, kind[1], kind[0]) for kind in kinds}
        for kind, own in records.items():
            sizes = [(folder / r.key).stat().st_size / 1000 for r in own]
            kilobytes[kind] = statistics.mean(sizes)
        # Rounds are the outer loop, so that other work on the machine meets all kinds.
        for _ in range(arguments.repeats):
            for kind, own in records.items():
                rates.setdefault(kind, []).append(
                    (
                        core_rate(folder, own, seconds),
                        clock_rate(folder, own, seconds, threads=cores, workers=0),
                        clock_rate(folder, own, seconds, threads=1, workers=cores),
                    )
                )
    for (suffix, size), rounds in rates.items():
        figures = [statistics.median(column) for column in zip(*rounds)]
        cells = [
            f"{suffix[1:].replace('jpg', 'jpeg').upper()} {size[0]} x {size[1]}",
            f"{kilobytes[suffix, size]:.0f}",
            *(f"{r:.0f}" for r in figures),
            f"{arguments.views_per_second / VIEWS / figures[0]:.1f}",
        ]
        print(f"| {' | '.join(cells)} |")
    needed = arguments.views_per_second
    print(
        f"\nImages per second, {VIEWS} views each. Cores needed: for {needed:g} views "
        f"per second ({needed / VIEWS:g} images), at the rate of one core."
    )


if __name__ == "__main__":
    main()
