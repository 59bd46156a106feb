"""The join: an index of a folder and its sidecar files become records.

Standard library only, as `item_jax.records`. An index (`item_jax.datasets`) is joined
with two sidecar files:

    captions.jsonl   {key, sha256, width, height, caption, status, error}
    objects.jsonl    {key, sha256, phrases: [{phrase, span}],
                      objects: [{phrase, span, box, score}], status, error}

A line about one image that cannot be used does not stop a run: it becomes the
`error` of its record, and later a failure row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from item_jax.records import (
    Object,
    Record,
    normalise_key,
    object_from_json,
    read_json_lines,
)


@dataclasses.dataclass
class JoinReport:
    """What a join found. `images` = `captioned` + `failed` + `without_caption`.

    Attributes:
      images: records joined.
      captioned, failed, without_caption: of those; `failed` in a sidecar.
      words, shortest, longest: of the captions: all words, and the extremes.
      grounded: records with a good line of objects; `not_grounded` have none at all.
      objects: candidates of the grounded ones, and how many of those are `sure`, with
        a score of at least `threshold`.
      without_objects, without_sure: grounded records that have no such object.
      unused_lines: sidecar lines that belong to no record.
      threshold: the reader's, 0.3 unless told otherwise (`config.data`).
    """

    images: int = 0
    captioned: int = 0
    failed: int = 0
    without_caption: int = 0
    words: int = 0
    shortest: int = 0
    longest: int = 0
    grounded: int = 0
    not_grounded: int = 0
    objects: int = 0
    sure: int = 0
    without_objects: int = 0
    without_sure: int = 0
    unused_lines: int = 0
    threshold: float = 0.3

    def add_caption(self, caption: str) -> None:
        """Counts a caption."""
        words = len(caption.split())
        self.shortest = min(self.shortest, words) if self.captioned else words
        self.longest = max(self.longest, words)
        self.words += words
        self.captioned += 1

    def add_objects(self, objects: Sequence[Object]) -> None:
        """Counts the objects of one grounded image."""
        sure = sum(o.score >= self.threshold for o in objects)
        self.grounded += 1
        self.objects += len(objects)
        self.sure += sure
        self.without_objects += not objects
        self.without_sure += not sure

    def text(self) -> str:
        """Returns the report as lines for people."""
        lines = [
            f"{self.images} images = {self.captioned} captioned + {self.failed} failed "
            f"in a sidecar + {self.without_caption} without a caption"
        ]
        if self.captioned:
            mean = self.words / self.captioned
            lines.append(
                f"captions of {mean:.1f} words on average, {self.shortest} to "
                f"{self.longest}"
            )
        n = max(self.grounded, 1)
        lines.append(
            f"{self.grounded} grounded, {self.not_grounded} not; objects an image: "
            f"{self.objects / n:.2f} candidates, {self.sure / n:.2f} with a score of "
            f"{self.threshold} or more; {self.without_objects / n:.1%} and "
            f"{self.without_sure / n:.1%} of the images have none"
        )
        if self.unused_lines:
            lines.append(f"{self.unused_lines} sidecar lines belong to no image here")
        return "\n".join(lines)


def join(
    records: Iterable[Record],
    *,
    captions: str | Path | None = None,
    objects: str | Path | None = None,
) -> tuple[list[Record], JoinReport]:
    """Joins an index with its sidecar files by key.

    A sidecar line with `status` other than "ok", or with a caption, box or phrase
    that is not valid, gives its record an `error` that names file and line.

    Args:
      records: the images, with labels.
      captions: path of `captions.jsonl`, or None to keep the records' own captions.
      objects: path of `objects.jsonl`, or None to keep the records' own objects.

    Returns:
      The joined records in the order given, and a report whose counts add up.

    Raises:
      ValueError: for a sidecar line without a key or a key that stands there twice.
    """
    report = JoinReport()
    caption_of = _by_key(captions)
    objects_of = _by_key(objects)
    joined = []
    for record in records:
        changes: dict[str, Any] = {}
        error = record.error
        if record.key in caption_of:
            number, row = caption_of.pop(record.key)
            changes["caption"] = row.get("caption")
            if row.get("status", "ok") != "ok":
                error = error or f"{captions}, line {number}: {row.get('error')}"
                changes["caption"] = None
        if record.key in objects_of:
            number, row = objects_of.pop(record.key)
            if row.get("status", "ok") != "ok":
                error = error or f"{objects}, line {number}: {row.get('error')}"
            else:
                try:
                    changes["objects"] = tuple(
                        object_from_json(o) for o in row.get("objects") or ()
                    )
                    report.add_objects(changes["objects"])
                except (TypeError, ValueError) as e:
                    error = error or f"{objects}, line {number}: {e}"
        elif objects is not None:
            report.not_grounded += 1
        try:
            record = dataclasses.replace(record, error=error, **changes)
        except ValueError as e:
            record = dataclasses.replace(record, error=str(e))
        report.images += 1
        if record.error is not None:
            report.failed += 1
        elif not (record.caption or "").strip():
            report.without_caption += 1
        else:
            report.add_caption(record.caption)
        joined.append(record)
    report.unused_lines = len(caption_of) + len(objects_of)
    return joined, report


def _by_key(path: str | Path | None) -> dict[str, tuple[int, dict[str, Any]]]:
    rows: dict[str, tuple[int, dict[str, Any]]] = {}
    if path is None:
        return rows
    for number, row in read_json_lines(path):
        if not isinstance(row.get("key"), str):
            raise ValueError(f"{path}, line {number}: no key: {row}")
        key = normalise_key(row["key"])
        if key in rows:
            raise ValueError(
                f"{path}: key {key!r} is on line {rows[key][0]} and on line {number}"
            )
        rows[key] = number, row
    return rows
