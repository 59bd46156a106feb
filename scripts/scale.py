"""What many images cost: chips, host cores, hours, disk, from measured and other rates.

    python scripts/scale.py > scripts/scale.md          # the page as it stands
    python scripts/scale.py --images 3e7 --objects 5 --file "JPEG 1024 x 1024"

Every rate says whether it was measured, estimated by a compiler, or is an assumption.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).parent / "benchmark_results"

TOWER = "ViT-L-14"
WIDTH = 768  # D of ViT-L/14
GFLOP = 162.03  # of one view: open_clip, docs/model_profile.csv
H100_TFLOPS = 989  # bfloat16, dense, NVIDIA's data sheet
SHARE = 0.4  # of it
CAPTIONS = 100  # a second

# Images a second on one core, each decoded and cut into four views, and KB a file:
# item_jax/datasets/README.md, measured with version 0.1 on an AMD EPYC.
DECODING = {
    "JPEG 256 x 256": (473, 20),
    "JPEG 500 x 375": (361, 42),
    "JPEG 512 x 512": (292, 62),
    "JPEG 1024 x 1024": (71, 165),
    "PNG 256 x 256": (288, 108),
    "PNG 512 x 512": (117, 355),
    "PNG 1024 x 1024": (30, 986),
}
ROW_BYTES = 600  # a line of a cache's rows with a caption and a few objects


class Chip(NamedTuple):
    """Something that embeds views, `rate` of them a second."""

    name: str
    rate: float
    kind: str
    source: str


def chips() -> list[Chip]:
    """Returns what is known of ViT-L/14's image tower on chips and cores."""
    best: dict[str, tuple[float, str]] = {}
    for path in sorted((RESULTS / "compiled").glob("*.json")):
        for row in json.loads(path.read_text())["suites"]["compiled"]:
            rate = row.get("estimated rows/s a chip")
            if rate and row["program"] == f"{TOWER} image" and ":" not in row["target"]:
                this = rate, f"`benchmark_results/compiled/{path.name}`"
                best[row["target"]] = max(this, best.get(row["target"], this))
    known = [_cores("cpu.json", "measured, version 0.1"), _cores("intel.json")]
    for target, (rate, source) in sorted(best.items(), key=lambda pair: pair[1]):
        known.append(
            Chip(f"TPU {target}, bfloat16", rate, "compiler's estimate", source)
        )
    known.append(
        Chip(
            "H100, bfloat16",
            SHARE * H100_TFLOPS * 1000 / GFLOP,
            "assumption",
            f"{SHARE:.0%} of {H100_TFLOPS} TFLOP/s at {GFLOP} GFLOP a view; not run",
        )
    )
    return known


def _cores(name: str, known: str = "measured") -> Chip:
    """Returns what a file of results says of the CPU that it was measured on."""
    results = json.loads((RESULTS / name).read_text())
    machine = results["machine"]
    (own,) = [r for r in results["suites"]["embedding"] if r["towers"] == TOWER]
    return Chip(
        f"{machine['cores']} cores, {machine['device']}, {own['dtype']}",
        own["ours views/s"],
        known,
        f"`benchmark_results/{name}`, with texts and decoding",
    )


def page(counts: list[int], objects: float, file: str) -> str:
    """Returns the page as Markdown.

    Args:
      counts: numbers of images.
      objects: an image, so that it has 1 + `objects` views.
      file: a key of `DECODING`.
    """
    per_core, kilobytes = DECODING[file]
    views = 1 + objects
    cache = 2 * views * WIDTH * 4 + ROW_BYTES
    head, growth = _cpu_rates()
    lines = [
        "# What many images cost",
        "",
        "Made by `python scripts/scale.py`, which takes `--images`, `--objects` and "
        "`--file`:",
        f"{objects:g} objects an image, files as {file}, {TOWER}, one pass over all "
        "images. **A rate",
        "that was not measured is no promise: run `scripts/benchmark.py` and "
        "`scripts/decode_rates.py`",
        "on your machine first.** Texts are left out on chips: a caption of 16 tokens "
        "is about 2% of a",
        "view's operations, and equal phrases are embedded once.",
        "",
        "## Embedding",
        "",
        "| on | views/s | this rate is | cores that feed one | "
        + " | ".join(f"hours of one, {_count(n)}" for n in counts)
        + " |",
        "| --- | --: | --- | --: |" + " --: |" * len(counts),
    ]
    for chip in chips():
        hours = [_hours(n * views / chip.rate) for n in counts]
        feed = chip.rate / views / per_core
        lines.append(
            f"| {chip.name} | {_digits(chip.rate)} | {chip.kind}: {chip.source} | "
            f"{max(1, round(feed + 0.5)) if feed > 0.05 else 'its own'} | "
            f"{' | '.join(hours)} |"
        )
    lines += [
        "",
        "Divide by the number of chips: shards are embedded without talking to each "
        "other. *Cores that",
        f"feed one*: at {per_core} images a second and core (measured, version 0.1, "
        "one core of an AMD EPYC);",
        "how far the threads of one process scale beyond two cores was not measured.",
        "",
        "## Everything else",
        "",
        "| | " + " | ".join(map(_count, counts)) + " | this is |",
        "| --- |" + " --: |" * len(counts) + " --- |",
    ]

    def row(name: str, values: list[str], kind: str) -> None:
        lines.append(f"| {name} | {' | '.join(values)} | {kind} |")

    row(
        "image files",
        [_size(n * kilobytes * 1000) for n in counts],
        f"computed: {kilobytes} KB a file",
    )
    row(
        "cache",
        [_size(n * cache) for n in counts],
        f"computed: {cache / 1000:.1f} KB an image, float32, "
        f"{ROW_BYTES} bytes of them a row of text",
    )
    row(
        "decoding, core-hours",
        [_hours(n / per_core) for n in counts],
        "measured rate of one core",
    )
    row(
        "captions by BLIP-2 2.7B, hours of one A100",
        [_hours(n / CAPTIONS) for n in counts],
        f"assumption: {CAPTIONS} a second, from accounts of 50 to 150; not run",
    )
    row("boxes", ["?"] * len(counts), "not measured, and no figure to go by")
    row(
        "a head, 50 epochs, hours of two cores",
        [_hours(n * head) for n in counts],
        "measured with version 0.1 and 80,000 images, taken as linear",
    )
    row(
        "`evaluate`, hours of two cores",
        [_hours(n * growth) for n in counts],
        "measured with version 0.1 and a million rows, taken as linear",
    )
    lines += [
        "",
        "Training needs D of all images in memory, "
        f"{WIDTH * 4 / 1000:.1f} KB each: {_size(max(counts) * WIDTH * 4)} at "
        f"{_count(max(counts))}. The",
        "papers train on 80,000; nobody has trained on more with this package. What "
        "the host reads is",
        "the bottleneck first: see [the decoding rates]"
        "(../item_jax/datasets/README.md#how-many-cores-feed-an-accelerator).",
        "",
    ]
    return "\n".join(lines)


def _cpu_rates() -> tuple[float, float]:
    """Seconds an image of training (50 epochs) and of `evaluate`, on two cores."""
    suites = json.loads((RESULTS / "cpu.json").read_text())["suites"]
    (one,) = [row for row in suites["head"] if row["heads"] == 1]
    largest = max(
        (row for row in suites["growth"] if row["stage"] == "evaluate"),
        key=lambda row: row["rows"],
    )
    return one["ours s / 50 epochs"] / one["rows"], largest["seconds"] / largest["rows"]


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.3g}"


def _count(n: int) -> str:
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if n >= size:
            return f"{n / size:g} {unit}"
    return str(n)


def _hours(seconds: float) -> str:
    return _digits(seconds / 3600)


def _size(count: float) -> str:
    for size, unit in ((1e12, "TB"), (1e9, "GB")):
        if count >= size:
            return f"{_digits(count / size)} {unit}"
    return f"{_digits(count / 1e6)} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", nargs="+", type=float, default=[1e6, 1e8], metavar="N"
    )
    parser.add_argument("--objects", type=float, default=3.0, help="an image")
    parser.add_argument("--file", choices=DECODING, default="JPEG 500 x 375")
    arguments = parser.parse_args()
    if min(arguments.images) < 1 or arguments.objects < 0:
        parser.error("--images are 1 or more, --objects 0 or more")
    print(
        page([int(n) for n in arguments.images], arguments.objects, arguments.file),
        end="",
    )


if __name__ == "__main__":
    main()
