"""Compares two object files phrase by phrase: do two grounders find the same things?

    python scripts/compare_groundings.py glip/objects.jsonl mm/objects.jsonl \\
        --threshold-a 0.5 --threshold-b 0.3

For each phrase of each image both files have, the best box of either side above its
threshold. A phrase is agreed upon when both have a box and the two overlap with an IoU
of at least --iou, or when neither has one. The scores of two detectors mean different
things, hence two thresholds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import sidecar_run as sidecar
from boxes import iou
from item_jax import records

Phrase = tuple[str, int, int]  # key, start, end


def best_boxes(path: str | Path, threshold: float) -> dict[Phrase, list[float] | None]:
    """Returns the best box of every phrase of a file, None where there is none.

    Rows that failed or were skipped are left out.

    Raises:
      ValueError: naming file and line, for a row without phrases or with a bad box.
    """
    found: dict[Phrase, list[float] | None] = {}
    for number, row in records.read_json_lines(path):
        try:
            if row.get("status", "ok") != "ok":
                continue
            key = records.normalise_key(row["key"])
            for phrase in row["phrases"]:
                found[(key, *phrase["span"])] = None
            objects = [o for o in row["objects"] if o["score"] >= threshold]
            for thing in sorted(objects, key=lambda o: o["score"]):
                box = records.object_from_json(thing).box
                found[(key, *thing["span"])] = list(box)
        except (KeyError, TypeError, ValueError) as e:
            raise ValueError(f"{path}, line {number}: {e!r} in {row}") from e
    return found


def compare(
    a: dict[Phrase, list[float] | None],
    b: dict[Phrase, list[float] | None],
    *,
    least: float = 0.5,
) -> dict[str, Any]:
    """Counts how often two grounders agree.

    Args:
      a: of `best_boxes`.
      b: of the other file.
      least: IoU from which two boxes show the same thing.

    Returns:
      `phrases` = `both` + `only_a` + `only_b` + `neither`; of `both`, how many `agree`;
      `agreement`, (agree + neither) / phrases; `iou_mean` and `iou_median` over `both`;
      `unmatched`, phrases that one file has and the other has not. Fractions are None
      where there is nothing to divide.
    """
    shared = sorted(set(a) & set(b))
    overlaps = [
        float(iou(np.array(a[p]), np.array([b[p]]))[0]) for p in shared if a[p] and b[p]
    ]
    only_a = sum(bool(a[p]) and not b[p] for p in shared)
    only_b = sum(bool(b[p]) and not a[p] for p in shared)
    neither = len(shared) - len(overlaps) - only_a - only_b
    agree = sum(o >= least for o in overlaps)
    return {
        "images": len({p[0] for p in shared}),
        "phrases": len(shared),
        "both": len(overlaps),
        "agree": agree,
        "only_a": only_a,
        "only_b": only_b,
        "neither": neither,
        "agreement": (agree + neither) / len(shared) if shared else None,
        "iou_mean": float(np.mean(overlaps)) if overlaps else None,
        "iou_median": float(np.median(overlaps)) if overlaps else None,
        "unmatched": len(set(a) ^ set(b)),
    }


def table(result: dict[str, Any], least: float) -> str:
    """Returns the comparison for people."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.1%}"

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    r = result
    return (
        f"{r['phrases']:,} phrases in {r['images']:,} images both files have "
        f"({r['unmatched']:,} phrases only in one of them)\n"
        f"  both grounders have a box   {r['both']:8,}\n"
        f"    with IoU >= {least:<4}          {r['agree']:8,}\n"
        f"    mean IoU {number(r['iou_mean'])}, median {number(r['iou_median'])}\n"
        f"  only the first has one      {r['only_a']:8,}\n"
        f"  only the second has one     {r['only_b']:8,}\n"
        f"  neither has one             {r['neither']:8,}\n"
        f"agreement {share(r['agreement'])}"
    )


def main(arguments: argparse.Namespace) -> int:
    """Compares and prints; status 1 when the files share no phrase."""
    result = compare(
        best_boxes(arguments.a, arguments.threshold_a),
        best_boxes(arguments.b, arguments.threshold_b),
        least=arguments.iou,
    )
    print(table(result, arguments.iou))
    if arguments.json:
        records.write_json(arguments.json, result)
    return 0 if result["phrases"] else 1


def parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("a", help="an objects.jsonl")
    p.add_argument("b", help="another")
    for side in "ab":
        p.add_argument(
            f"--threshold-{side}",
            type=float,
            default=0.3,
            help="least score of a box; default: %(default)s",
        )
    p.add_argument("--iou", type=float, default=0.5, help="default: %(default)s")
    p.add_argument("--json", help="write the numbers to this file as well")
    return p


if __name__ == "__main__":
    sys.exit(sidecar.guarded(main, parser().parse_args()))
