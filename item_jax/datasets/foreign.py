"""Records of what files of other programs say: their columns, captions and folders.

Tar shards and tables hand their rows to `records_of`, which reads all of them by the
same words (`item_jax.datasets.labels`) and reports what it does not read.
"""

from __future__ import annotations

import codecs
import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from item_jax import protocol
from item_jax.datasets import labels, remarks
from item_jax.files import printable
from item_jax.records import Record, normalise_key

FIELDS = ("benchmark", "generator", "caption", "objects")
"""Fields of a `Record` that are read as they are; label and split have synonyms."""

ASIDE = ("key", "image", *FIELDS)
_DIFFERENT = 1000  # values of a column that are looked at


@dataclasses.dataclass
class Row:
    """What a file says of one image.

    Attributes:
      key: as the file has it, see `normalise_key`.
      values: by column; what is not known is not read.
      where: file and place, for messages.
      folders: above the file, from the top of the data set; they tell label, generator
        and split like those in the key.
      file: its name, which may tell label or split.
      prefix: what the key begins with, so that equal names of two files differ.
      split: of the row where nothing else tells one, whatever it is called.
      error: why something the file has of the image cannot be used, or None.
    """

    key: str
    values: dict[str, Any]
    where: str
    folders: tuple[str, ...] = ()
    file: str = ""
    prefix: str = ""
    split: str = ""
    error: str | None = None


def column_name(name: str) -> str:
    """Returns a column's name in lower case and with `_`: `isFake` is `is_fake`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[\W_]+", "_", name).casefold()


READ = ("key", *FIELDS, *labels.COLUMNS, *labels.SPLIT_COLUMNS)
"""The columns that may be read."""


def records_of(
    rows: Sequence[Row], notes: Sequence[str] = (), ignored: Sequence[str] = ()
) -> tuple[list[Record], dict[str, Any]]:
    """Makes records of rows.

    Args:
      rows: of all files of a data set, in order.
      notes: what the reader of the files has to say.
      ignored: columns that it did not read.

    Returns:
      The records, in order, and the facts of the data set (see `dataset.Dataset`):
      `real_sources`, and `index` with `faults` and `notes`.

    Raises:
      ValueError: for a key that is there twice or a value that is not one, naming the
        row.
    """
    values = _different_values(rows)
    label_column = labels.label_column(values)
    split_column = _split_column(values)
    keys = [normalise_key(row.prefix + row.key) for row in rows]
    paths = [(*row.folders, *normalise_key(row.key).split("/")[:-1]) for row in rows]
    reader = labels.Reader(paths)
    seen: dict[str, str] = {}
    records = []
    said: Counter[str] = Counter()
    for row, key, path in zip(rows, keys, paths):
        if key in seen:
            raise ValueError(f"{row.where}: duplicate key, it is in {seen[key]} too")
        seen[key] = row.where
        label, generator, split = reader.place(path, row.file)
        given = row.values.get(label_column)
        if not labels.missing(given):
            own, convention = labels.label_in(label_column, given)
            if own is None:
                raise ValueError(
                    f"{row.where}: {label_column} {given!r}; "
                    + labels.allowed("label", labels.resembles(str(given), "label"))
                )
            if convention:
                said[f"column {label_column!r}: {labels.CONVENTION}"] += 1
            if label not in (None, own):
                said[f"fault: the column {label_column!r} wins over the folders"] += 1
            label = own
        split = _split(row, split_column, split, said)
        own_fields = {
            name: row.values[name]
            for name in FIELDS
            if row.values.get(name) not in (None, "")
        }
        if isinstance(caption := own_fields.get("caption"), str):
            own_fields["caption"] = clean(caption)
        known = {"label": label, "generator": generator, "split": split}
        try:
            records.append(Record(key, **(known | own_fields), error=row.error))
        except ValueError as e:
            raise ValueError(f"{row.where}: {e}") from e
    faults = reader.faults()
    found = [*notes, *reader.notes(), *remarks.unlabelled(records)]
    for what, n in sorted(said.items()):
        line = f"{what.removeprefix('fault: ')} ({labels.count(n)})"
        (faults if what.startswith("fault: ") else found).append(line)
    unread = [name for name in values if name not in ("", label_column, split_column)]
    if aside := sorted({*unread, *ignored}):
        shown = ", ".join(map(printable, aside[:12]))
        found.append(
            f"columns that are not read: {shown}" + (" ..." if len(aside) > 12 else "")
        )
    return records, {
        "real_sources": protocol.complete_real_sources(map(vars, records)),
        "index": {"faults": faults, "notes": found},
    }


def _different_values(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """Some different values of the columns that may hold labels and splits."""
    found: dict[str, dict[Any, None]] = {}
    for row in rows:
        for name in (*labels.COLUMNS, *labels.SPLIT_COLUMNS):
            if name in row.values:
                own = found.setdefault(name, {})
                value = row.values[name]
                if not isinstance(value, str | int | float | None):
                    value = repr(value)
                if len(own) < _DIFFERENT:
                    own[value] = None
    return {name: list(own) for name, own in found.items()}


def _split_column(values: dict[str, list[Any]]) -> str:
    """`split` where it is there, else another column all of whose values are splits."""
    for name in labels.SPLIT_COLUMNS:
        own = [v for v in values.get(name, ()) if not labels.missing(v)]
        words = all(isinstance(v, str) and labels.split_of(v) for v in own)
        if own and (words or name == "split"):
            return name
    return "split" if "split" in values else ""


def _split(row: Row, column: str, split: str, said: Counter[str]) -> Any:
    """The split of a row: its column's, else its folders', else its file's."""
    given = row.values.get(column)
    if labels.missing(given):
        given = split or row.split
    if not isinstance(given, str):
        return given  # for `Record` to refuse
    own = labels.split_of(given)
    if given and not own:
        said[
            f"fault: the split {given!r} is kept as it is; "
            + labels.allowed("split", labels.resembles(given, "split"))
        ] += 1
    return own or given


def below(paths: Sequence[Path], source: Path) -> list[tuple[tuple[str, ...], str]]:
    """Returns where files of many images lie in a data set.

    Args:
      paths: of the files.
      source: the folder of the data set, or the only file.

    Returns:
      For each its folders below `source`, and what its keys begin with: the part of
      these that differs between the files.
    """
    if not source.is_dir():
        return [((), "") for _ in paths]
    folders = [path.relative_to(source).parts[:-1] for path in paths]
    shared = len(os.path.commonprefix(folders)) if folders else 0
    return [(own, "".join(f"{name}/" for name in own[shared:])) for own in folders]


# --------------------------------------------------------------------------- captions

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode(content: bytes) -> str:
    """Returns the text of a file: UTF-8, or what its byte order mark says.

    Raises:
      ValueError: for anything else. Latin-1, Windows-1252 and their like cannot be
        told apart, so that nothing is guessed.
    """
    encoding = next(
        (name for mark, name in _MARKS if content.startswith(mark)), "utf-8"
    )
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as e:
        raise ValueError(
            f"is not UTF-8 (byte {content[e.start]:#04x} at {e.start}); "
            "save it as UTF-8"
        ) from e
    if "\0" in text:
        raise ValueError(
            "has NUL characters, as UTF-16 without its mark; save it as UTF-8"
        )
    return text


def clean(text: str) -> str:
    """Returns a caption without byte order mark and outer blanks."""
    return text.strip("\ufeff\u200b \t\r\n\f\v")
