"""How fast a host decodes images and cuts their views, and what an accelerator needs.

    python scripts/decode_rates.py [--cores 2] [--repeats 5] [--views-per-second 3600]

Prints a Markdown table of images a second through `item_jax.pipeline`: read, decoded,
whole view and three object crops at 224 pixels. First a core alone, by its own time,
which other work on the machine hardly changes; then, by the clock, threads on all cores
and processes on all cores, in turn. Figures are medians of repeats; the pictures are
cut from two photographs that come with scikit-learn.
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
    """Images a second of one core's own time."""
    c = config.default()
    start, count = time.thread_time(), 0
    while time.thread_time() - start < seconds:
        record = records[count % len(records)]
        check(pipeline.load(record, root=folder, config=c, image_size=224))
        count += 1
    return count / (time.thread_time() - start)


def clock_rate(
    folder: Path, records: list[Record], seconds: float, *, threads: int, workers: int
) -> float:
    """Images a second by the clock, once the pipeline runs."""
    c = config.default()
    c.embed.threads, c.embed.workers = threads, workers
    order = range(10_000_000)
    items = pipeline.stream(
        Endless(records), root=folder, config=c, image_size=224, order=order
    )
    # What was decoded ahead while the clock stood still does not count.
    for _ in range(4 * threads * max(workers, 1) + 8):
        next(items)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        check(next(items))
        count += 1
    found = count / (time.perf_counter() - start)
    items.close()
    return found


class Endless(list):
    """Records over and over; the system keeps the files in memory."""

    def __getitem__(self, number: int) -> Record:
        return super().__getitem__(number % len(self))


def check(item: pipeline.Item) -> None:
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
        # Rounds outside, so that what else the machine does meets all kinds alike.
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
        f"\nImages a second, {VIEWS} views each. Cores needed: for {needed:g} views a "
        f"second, {needed / VIEWS:g} images, at the rate of one core."
    )


if __name__ == "__main__":
    main()
