"""Records: what the sidecars know of an image, as JSON lines.

Standard library only, so that PyTorch programs can share the formats.

A `Record` is one line of `records.jsonl`. It is made by joining an index of a folder
with two sidecar files (`item_jax.join`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import unicodedata
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LABELS = {"real": 0, "fake": 1}


@dataclasses.dataclass(frozen=True)
class Object:
    """A semantic object (x_i, p_i) of ITEM Eq. 5.

    Attributes:
      phrase: p_i, the words of the caption that name it.
      box: where x_i is: `(x1, y1, x2, y2)` in [0, 1] of the EXIF-oriented image's
        width and height, origin top left, x1 < x2 and y1 < y2.
      score: the grounder's confidence in [0, 1].
    """

    phrase: str
    box: tuple[float, float, float, float]
    score: float = 1.0

    def __post_init__(self):
        if not isinstance(self.phrase, str) or not self.phrase.strip():
            raise ValueError(f"the phrase of an object is empty: {self.phrase!r}")
        try:
            box = tuple(float(v) for v in self.box)
            score = float(self.score)
        except (TypeError, ValueError) as e:
            raise ValueError(
                f"box {self.box!r} and score {self.score!r} of {self.phrase!r} must "
                "be numbers"
            ) from e
        if len(box) != 4 or not all(math.isfinite(v) and 0 <= v <= 1 for v in box):
            raise ValueError(
                f"box {list(box)} of {self.phrase!r} is not four numbers "
                "[x1, y1, x2, y2] in [0, 1] (fractions of width and height)"
            )
        if not (box[0] < box[2] and box[1] < box[3]):
            raise ValueError(
                f"box {list(box)} of {self.phrase!r} is empty: it needs x1 < x2 and "
                "y1 < y2"
            )
        if not 0 <= score <= 1:
            raise ValueError(f"score {score} of {self.phrase!r} is not in [0, 1]")
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "score", score)


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with what is known of it.

    Attributes:
      key: POSIX path relative to the image root, NFC-normalised; unique in a file.
      label: "real", "fake" or None when unknown.
      benchmark, generator, split: where the image belongs; "" when unknown. The real
        images a generator is tested against carry its name too.
      caption: p of ITEM Eq. 1, or None when there is none.
      objects: the grounded objects of ITEM Eq. 5, all candidates the grounder stored.
      error: why a sidecar has nothing usable for this image, or None.
    """

    key: str
    label: str | None = None
    benchmark: str = ""
    generator: str = ""
    split: str = ""
    caption: str | None = None
    objects: tuple[Object, ...] = ()
    error: str | None = None

    def __post_init__(self):
        if not isinstance(self.key, str) or not self.key:
            raise ValueError(f"a record needs a key, found {self.key!r}")
        if self.label not in (None, *LABELS):
            raise ValueError(
                f"label {self.label!r} of {self.key!r} is not real, fake or null"
            )
        if self.caption is not None and not isinstance(self.caption, str):
            raise ValueError(f"caption of {self.key!r} is no text: {self.caption!r}")
        for name in ("benchmark", "generator", "split"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise ValueError(f"{name} of {self.key!r} is no text: {value!r}")
            object.__setattr__(self, name, value or "")
        for name in ("key", "caption", "benchmark", "generator", "split"):
            try:
                (getattr(self, name) or "").encode()
            except UnicodeEncodeError as e:
                raise ValueError(f"{name} of {self.key!r} is no Unicode: {e}") from e
        if not isinstance(self.objects, list | tuple | None):
            raise ValueError(f"objects of {self.key!r} are no list: {self.objects!r}")
        object.__setattr__(self, "key", normalise_key(self.key))
        objects = tuple(
            o if isinstance(o, Object) else object_from_json(o)
            for o in self.objects or ()
        )
        object.__setattr__(self, "objects", objects)

    def to_json(self) -> dict[str, Any]:
        """Returns the line of `records.jsonl`; `error` stands there only when set."""
        row = dict(vars(self))
        row["objects"] = [
            {"phrase": o.phrase, "box": list(o.box), "score": o.score}
            for o in self.objects
        ]
        if self.error is None:
            del row["error"]
        return row


def normalise_key(key: str) -> str:
    """Returns a path as a key: `/` between its parts, Unicode NFC."""
    return unicodedata.normalize("NFC", key.replace(os.sep, "/"))


def object_from_json(row: dict[str, Any]) -> Object:
    """Makes an `Object` of a sidecar entry; other fields (such as `span`) are left.

    Raises:
      ValueError: when `phrase` or `box` is missing or wrong.
    """
    if not isinstance(row, dict):
        raise ValueError(f"an object is no JSON object: {row!r}")
    missing = [name for name in ("phrase", "box") if name not in row]
    if missing:
        raise ValueError(f"an object lacks {' and '.join(missing)}: {row}")
    return Object(row["phrase"], row["box"], row.get("score", 1.0))


def record_from_json(row: dict[str, Any]) -> Record:
    """Makes a `Record` of a parsed line.

    Raises:
      ValueError: for an unknown field or a wrong value, naming the key.
    """
    known = [f.name for f in dataclasses.fields(Record)]
    if not isinstance(row, dict) or "key" not in row:
        raise ValueError(f"a record is a JSON object with a key, found {row!r}")
    unknown = sorted(set(row) - set(known))
    if unknown:
        raise ValueError(
            f"record {row['key']!r} has unknown fields {unknown}; "
            f"allowed: {', '.join(known)}"
        )
    try:
        return Record(**row)
    except ValueError as e:
        raise ValueError(f"record {row['key']!r}: {e}") from e


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields `(line number from 1, row)` of a JSON-lines file; blank lines are passed.

    Raises:
      ValueError: for a line that is no JSON object, naming file and line.
      FileNotFoundError: when the file does not exist.
    """
    with open(path, "rb") as f:
        for number, line in enumerate(f, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as e:
                raise ValueError(f"{path}, line {number}: no JSON ({e})") from e
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: no JSON object: {row!r}")
            yield number, row


def iter_records(path: str | Path) -> Iterator[Record]:
    """Yields the records of a file one by one, in constant memory.

    Raises:
      ValueError: naming file, line and key, for a line that is no valid record.
    """
    for number, row in read_json_lines(path):
        try:
            yield record_from_json(row)
        except ValueError as e:
            raise ValueError(f"{path}, line {number}: {e}") from e


def read_records(path: str | Path) -> list[Record]:
    """Reads `records.jsonl`.

    Raises:
      ValueError: naming file, line and key, for an invalid record or a key that
        stands there twice.
    """
    seen: dict[str, int] = {}
    records = []
    for number, record in enumerate(iter_records(path), start=1):
        if record.key in seen:
            raise ValueError(
                f"{path}: key {record.key!r} is both record {seen[record.key]} and "
                f"record {number}"
            )
        seen[record.key] = number
        records.append(record)
    return records


def digest(records: Iterable[Record]) -> str:
    """Returns the SHA-256 of all that records say, in their order, as hex digits.

    A source that knows its own (`records_sha256`) is not read for it.
    """
    known = getattr(records, "records_sha256", None)
    if known is not None:
        return known
    hashed = hashlib.sha256()
    for record in records:
        hashed.update(json.dumps(record.to_json()).encode())
    return hashed.hexdigest()


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Writes records to `path`, which appears whole or not at all.

    Returns:
      How many were written.
    """
    return write_json_lines(path, (r.to_json() for r in records))


def write_json_lines(path: str | Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes JSON lines through a temporary file and a rename; returns how many."""
    count = 0
    with atomic_file(path) as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_json(path: str | Path, value: Any) -> None:
    """Writes one JSON value through a temporary file and a rename."""
    with atomic_file(path) as f:
        f.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class atomic_file:
    """A text file that takes its name only when its `with` block ends well."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        # Not the process number: containers that share a disk often have the same.
        self.partial = self.path.with_name(
            f"{self.path.name}.{uuid.uuid4().hex}.partial"
        )

    def __enter__(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.partial, "w", encoding="utf-8", newline="\n")
        return self.file

    def __exit__(self, kind, value, traceback):
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink()
