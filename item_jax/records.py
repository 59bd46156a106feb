"""Records: what is known of an image, one JSON line each.

Standard library only, so that PyTorch programs share the formats.

A `Record` is one line of `records.jsonl`. It is made by joining an index of a folder
with two sidecar files (`item_jax.join`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import numbers
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from item_jax.files import read_json_lines, write_json_lines

LABELS = {"real": 0, "fake": 1}


@dataclasses.dataclass(frozen=True)
class Object:
    """A semantic object (x_i, p_i) of ITEM Eq. 5.

    Attributes:
      phrase: p_i, the words of the caption that name it.
      box: where x_i is: `(x1, y1, x2, y2)` in [0, 1] of the EXIF-oriented image's
        width and height, origin top left, x1 < x2 and y1 < y2.
      score: the grounder's confidence in [0, 1].

    Raises:
      ValueError: for a blank phrase or one with lone surrogates; a box that is not a
        list or tuple of four numbers in order and in range (a string or a bool is
        not a number); or a score out of range.
    """

    phrase: str
    box: tuple[float, float, float, float]
    score: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.phrase, str) or not self.phrase.strip():
            raise ValueError(
                f"the phrase of an object must be text that is not blank, not "
                f"{self.phrase!r}"
            )
        _check_text(self.phrase, f"phrase {self.phrase!r}")
        if not isinstance(self.box, list | tuple) or not all(map(_is_real, self.box)):
            raise ValueError(
                f"box {self.box!r} of {self.phrase!r} is not a list of four numbers "
                "[x1, y1, x2, y2]"
            )
        if len(self.box) != 4 or not all(0 <= v <= 1 for v in self.box):
            raise ValueError(
                f"box {list(self.box)} of {self.phrase!r} is not four numbers "
                "[x1, y1, x2, y2] in [0, 1] (fractions of width and height)"
            )
        x1, y1, x2, y2 = box = tuple(float(v) for v in self.box)
        if not (x1 < x2 and y1 < y2):
            raise ValueError(
                f"box {list(box)} of {self.phrase!r} is empty: it needs x1 < x2 and "
                "y1 < y2"
            )
        if not _is_real(self.score) or not 0 <= self.score <= 1:
            raise ValueError(
                f"score {self.score!r} of {self.phrase!r} is not a number in [0, 1]"
            )
        object.__setattr__(self, "box", box)
        object.__setattr__(self, "score", float(self.score))


def _is_real(value: object) -> bool:
    """Whether a value is a number that is neither a bool nor NaN."""
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and value == value
    )


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise ValueError(f"{what} is not valid Unicode: {e}") from e


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with what is known of it.

    Attributes:
      key: POSIX path relative to the image root, NFC-normalised; unique in a file.
      label: "real", "fake" or None when unknown.
      benchmark, generator, split: where the image belongs; "" when unknown. The real
        images a generator is tested against carry its name too.
      caption: p of ITEM Eq. 1, or None when there is none; one that shows nothing, see
        `is_blank`, becomes None.
      objects: the grounded objects of ITEM Eq. 5, all candidates the grounder stored.
      error: why a sidecar gave nothing usable for this image, or None.

    Raises:
      ValueError: for a value of another type or out of range, text with lone surrogates
        included, naming the key.
    """

    key: str
    label: str | None = None
    benchmark: str = ""
    generator: str = ""
    split: str = ""
    caption: str | None = None
    objects: tuple[Object, ...] = ()
    error: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:
            raise ValueError(f"a record needs a key, found {self.key!r}")
        if self.label not in (None, *LABELS):
            raise ValueError(
                f"label {self.label!r} of {self.key!r} is not real, fake or null"
            )
        for name in ("benchmark", "generator", "split"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, "")
        for name in ("key", "benchmark", "generator", "split", "caption", "error"):
            value = getattr(self, name)
            if value is None and name in ("caption", "error"):
                continue
            if not isinstance(value, str):
                raise ValueError(f"{name} of {self.key!r} is not text: {value!r}")
            _check_text(value, f"{name} of {self.key!r}")
        if not isinstance(self.objects, list | tuple | None):
            raise ValueError(
                f"objects of {self.key!r} are not a list: {self.objects!r}"
            )
        if self.caption is not None and is_blank(self.caption):
            object.__setattr__(self, "caption", None)
        key = unicodedata.normalize("NFC", self.key.replace(os.sep, "/"))
        object.__setattr__(self, "key", key)
        objects = tuple(
            o if isinstance(o, Object) else object_from_json(o)
            for o in self.objects or ()
        )
        object.__setattr__(self, "objects", objects)

    def to_json(self) -> dict[str, Any]:
        """Returns the line of `records.jsonl`; it has `error` only when that is set."""
        row = dict(vars(self))
        row["objects"] = [
            {"phrase": o.phrase, "box": list(o.box), "score": o.score}
            for o in self.objects
        ]
        if self.error is None:
            del row["error"]
        return row


def normalise_key(key: str) -> str:
    """Returns a path, as other programs write it, as a key.

    A key has `/` between its parts, no drive, no `/` in front, neither `.` nor `..`
    (but for those that lead out of the root, which no image is read by) and is in
    Unicode NFC: `C:\\data\\a.png`, `/data/a.png`, `./data/x/../a.png` are `data/a.png`.
    """
    path = re.sub(r"^[A-Za-z]:(?=/)", "", key.replace("\\", "/"))
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return unicodedata.normalize("NFC", "/".join(parts))


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: blanks, control and zero-width characters."""
    return all(
        c.isspace() or unicodedata.category(c) in ("Cc", "Cf") or c in "\u2800\u3164"
        for c in text
    )


def object_from_json(row: dict[str, Any]) -> Object:
    """Makes an `Object` of a sidecar's entry; fields such as `span` are ignored.

    Raises:
      ValueError: when `phrase` or `box` is missing or wrong.
    """
    if not isinstance(row, dict):
        raise ValueError(f"an object must be a JSON object, found {row!r}")
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
        raise ValueError(f"a record must be a JSON object with a key, found {row!r}")
    unknown = sorted(set(row) - set(known))
    if unknown:
        raise ValueError(
            f"record {row['key']!r} has unknown fields {unknown}; "
            f"allowed: {', '.join(known)}"
        )
    if isinstance(row["key"], str):
        row = row | {"key": normalise_key(row["key"])}
    try:
        return Record(**row)
    except ValueError as e:
        raise ValueError(f"record {row['key']!r}: {e}") from e


def iter_records(path: str | Path) -> Iterator[Record]:
    """Yields the records of a file one by one, in constant memory.

    Raises:
      ValueError: naming file, line and key, for a line that is not a valid record.
    """
    for number, row in read_json_lines(path):
        try:
            yield record_from_json(row)
        except ValueError as e:
            raise ValueError(f"{path}, line {number}: {e}") from e


def read_records(path: str | Path) -> list[Record]:
    """Reads `records.jsonl`.

    Raises:
      ValueError: naming file, line and key, for an invalid record or a duplicated key;
        or for a file without records.
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
    check_count(path, len(records))
    return records


def check_count(path: str | Path, count: int) -> None:
    """Refuses a file of records that has none.

    Raises:
      ValueError: if `count` is 0.
    """
    if not count:
        raise ValueError(
            f"{path} has no records: the file is empty. Make it again with `item-jax "
            f"index ... --out {path}`"
        )


def digest(records: Iterable[Record]) -> str:
    """Returns the SHA-256 of everything in the records, in their order, as hex digits.

    Caches are bound to this value: it must not change between versions.
    """
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
