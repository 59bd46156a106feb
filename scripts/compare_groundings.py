"""Compares two files of objects phrase by phrase: do two grounders agree?

    python scripts/compare_groundings.py glip/objects.jsonl mm/objects.jsonl \\
        --threshold-a 0.5 --threshold-b 0.3

For each phrase that both files have, it takes the best box above the threshold of
either side. The two agree when both have a box and the IoU of these is at least --iou,
or when neither has one. There are two thresholds because the scores of two models have
different meanings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

try:
    import item_sidecars  # noqa: F401
except ModuleNotFoundError:  # a checkout that is not installed
    import sidecars  # noqa: F401  (takes the name item_sidecars)

from item_jax import choices, files, records
from item_sidecars.boxes import iou
from item_sidecars.run import guarded

Phrase = tuple[str, int, int]  # key, start, end
# Status of a row; files written before schema item-sidecar/2 say the second word.
DONE, NOT_DONE = ("done", "ok"), ("failed", "error", "skipped")


def best_boxes(path: str | Path, threshold: float) -> dict[Phrase, list[float] | None]:
    """Returns the best box of every phrase of a file, None where there is none.

    Rows that failed or were skipped are omitted.

    Args:
      path: an `objects.jsonl`.
      threshold: the lowest score that counts, in [0, 1].

    Raises:
      ValueError: naming file, line and field, for a row without phrases or objects, or
        with a bad span or box.
    """
    found: dict[Phrase, list[float] | None] = {}
    for number, row in files.read_json_lines(path):
        where = f"{path}, line {number}"
        status = row.get("status", "done")
        if status in NOT_DONE:
            continue
        if status not in DONE:
            allowed = choices.nearest(status, (*DONE, *NOT_DONE))
            raise ValueError(f"{where}: unknown status {status!r}; {allowed}")
        key = records.normalise_key(files.field(row, "key", str, where))
        for phrase in files.field(row, "phrases", list, where):
            found[(key, *_span(phrase, where))] = None
        things = []
        for thing in files.field(row, "objects", list, where):
            span = _span(thing, where)
            try:
                box = records.object_from_json(thing)
            except ValueError as e:
                raise ValueError(f"{where}: {e}") from e
            if box.score >= threshold:
                things.append((box.score, span, list(box.box)))
        for _, span, corners in sorted(things, key=lambda t: t[0]):
            found[(key, *span)] = corners
    return found


def _span(row: Any, where: str) -> tuple[int, int]:
    span = files.field(row, "span", list, where)
    if len(span) != 2 or not all(type(i) is int for i in span):
        raise ValueError(f"{where}: 'span' is {span!r}; expected [start, end]")
    return span[0], span[1]


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
      least: the lowest IoU at which two boxes count as equal.

    Returns:
      `phrases` = `both` + `only_a` + `only_b` + `neither`; of `both`, how many `agree`;
      `agreement`, (agree + neither) / phrases; `iou_mean` and `iou_median` over `both`;
      `unmatched`, phrases that only one of the files has. Figures over no phrase are
      None.
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
    """Returns the comparison as text."""

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


def compare_files(arguments: argparse.Namespace) -> int:
    """Compares and prints; returns 1 when the files share no phrase, else 0."""
    result = compare(
        best_boxes(arguments.a, arguments.threshold_a),
        best_boxes(arguments.b, arguments.threshold_b),
        least=arguments.iou,
    )
    print(table(result, arguments.iou))
    if arguments.json:
        files.write_json(arguments.json, result)
    return 0 if result["phrases"] else 1


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
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
            help="lowest score of a box; default: %(default)s",
        )
    p.add_argument("--iou", type=float, default=0.5, help="default: %(default)s")
    p.add_argument("--json", help="write the numbers to this file as well")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The program: parses the command line, compares, returns the exit status."""
    return guarded(compare_files, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
