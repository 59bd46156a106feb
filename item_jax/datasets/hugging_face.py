"""What Hugging Face `datasets` publishes and saves: Parquet, or Arrow files.

    hf download OWNER/NAME --repo-type dataset --local-dir photos
    item-jax embed --workdir run --config.data.records=photos

or, from Python, `dataset.save_to_disk("photos")`: the folder of a `Dataset`, or of a
`DatasetDict` with a folder for each split.

Of their columns those with the names of a `Record`'s fields are read, and `image`: the
bytes of a file, alone or in the `{bytes, path}` of `datasets.Image`. A `label` is real
or fake, 0 or 1, or a `datasets.ClassLabel` with names such as these. The split is a
column, the name `save_to_disk` keeps of it, its folder, or the beginning of the file's
name (`train-00000-of-00004.parquet`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from item_jax import files, images
from item_jax.datasets.dataset import FOREIGN, RecordList, checked, foreign_record
from item_jax.datasets.folder import SPLITS
from item_jax.images import ImageError
from item_jax.records import Record

SHARD = re.compile(r"(.+?)-\d+-of-\d+(-[0-9a-f]+)?")
SPLIT = re.compile(r"(\w+)(\[.*\])?")  # "train[:1000]" is of train
SPLITS_FILE = "dataset_dict.json"  # in the folder of a `DatasetDict`
STATE_FILES = "state.json", "dataset_info.json"  # in that of a `Dataset`
END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream
KEPT = 2  # row groups or batches whose images stay open


class HuggingFaceDataset(RecordList):
    """A `Dataset` of Parquet or Arrow files; records stay in memory, images in files.

    Attributes:
      files: in order.
      records, facts: see `RecordList`.
    """

    def __init__(self, source: str | os.PathLike):
        """Reads everything but the images of a file, or of all in a folder.

        Raises:
          ValueError: for a file that is damaged, not there or without images, or a
            field that is not one, naming file and row; or for a key that is there
            twice.
        """
        self.files = tables_of(Path(source))
        self._groups: list[tuple[int, int, int]] = []  # file, group, first record
        records: list[Record] = []
        seen: set[str] = set()
        for number, file in enumerate(self.files):
            for group, rows in enumerate(_rows(file)):
                self._groups.append((number, group, len(records)))
                for values in rows:
                    key = values.pop("key")
                    where = f"{file.path}: {key}"
                    if key in seen:
                        raise ValueError(f"{where}: duplicate key")
                    seen.add(key)
                    records.append(foreign_record(key, values, where))
        if not records:
            raise ValueError(f"{source}: no row in {len(self.files)} files")
        super().__init__(records)
        self._open: dict[int, Any] = {}
        self._lock = threading.Lock()

    def read(self, number: int) -> bytes:
        checked(number, len(self))
        group = max(i for i, g in enumerate(self._groups) if g[2] <= number)
        with self._lock:
            if group not in self._open:
                while len(self._open) >= KEPT:
                    del self._open[next(iter(self._open))]
                number_of_file, in_file, _ = self._groups[group]
                self._open[group] = self.files[number_of_file].images(in_file)
            content = self._open[group][number - self._groups[group][2]].as_py()
        path = None
        if isinstance(content, dict):
            content, path = content["bytes"], content.get("path")
        if content is None and path:  # it may be another machine's: not followed
            raise ImageError(
                "the row has the path of an image, not the image: "
                f"{files.printable(path)}; `save_to_disk` and `push_to_hub` put it in, "
                "`to_parquet` does not"
            )
        if content is None:
            raise ImageError("the row has no image")
        if len(content) > images.MAX_BYTES:
            raise ImageError(f"{len(content):,} bytes; allowed {images.MAX_BYTES:,}")
        return content

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, which read for themselves."""
        return self.__dict__ | {"_open": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_lock": threading.Lock()}


@dataclasses.dataclass(frozen=True)
class TableFile:
    """A file of rows, in groups.

    Attributes:
      path: where it is.
      stem: what the keys of its rows begin with, if they have none.
      split: of its rows, if they have none.
    """

    path: Path
    stem: str
    split: str


class ParquetFile(TableFile):
    """A Parquet file and its row groups."""

    def schema(self) -> Any:
        """Returns the `pyarrow.Schema`."""
        return self._open().schema_arrow

    def groups(self, columns: list[str]) -> Iterator[tuple[int, Any]]:
        """Yields the number of rows of each group, and a table of some columns."""
        file = self._open()
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            yield count, file.read_row_group(group, columns=columns)

    def images(self, group: int) -> Any:
        """Returns the column of images of a group, a sequence of Arrow scalars."""
        return self._open().read_row_group(group, columns=["image"]).column("image")

    def _open(self) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(self.path)


class ArrowFile(TableFile):
    """An Arrow stream of `save_to_disk` and its record batches."""

    def schema(self) -> Any:
        return self._open().schema

    def groups(self, columns: list[str]) -> Iterator[tuple[int, Any]]:
        import pyarrow

        with open(self.path, "rb") as f:
            f.seek(max(0, os.path.getsize(self.path) - len(END)))
            if f.read() != END:  # else one that ends between two batches looks whole
                raise pyarrow.ArrowInvalid("the end of the stream is missing")
        table = self._open()
        table.validate(full=True)  # or a wrong offset would be read where it points
        for batch in table.to_batches():
            yield batch.num_rows, batch.select(columns)

    def images(self, group: int) -> Any:
        return self._open().to_batches()[group].column("image")

    def _open(self) -> Any:
        """A table whose values stay in the file until they are asked for."""
        import pyarrow

        with pyarrow.memory_map(str(self.path)) as file:
            return pyarrow.ipc.open_stream(file).read_all()


def holds_tables(folder: Path) -> bool:
    """Whether a folder is one that `tables_of` reads."""
    return (
        (folder / SPLITS_FILE).is_file()
        or all((folder / name).is_file() for name in STATE_FILES)
        or bool(_parquet_files(folder))
    )


def tables_of(source: Path) -> list[ParquetFile | ArrowFile]:
    """Returns a Parquet file, those of a folder and of its `data/`, or what
    `save_to_disk` wrote.

    Raises:
      ValueError: if a folder of `save_to_disk` lacks one of its files, or names one
        that is elsewhere.
    """
    if not source.is_dir():
        return [_parquet(source)]
    if (source / SPLITS_FILE).is_file():
        where = str(source / SPLITS_FILE)
        names = files.field(files.read_json(where), "splits", list, where)
        found: list[ParquetFile | ArrowFile] = []
        for name in names:
            folder = _inside(source, name, where)
            if not folder.is_dir():
                raise ValueError(f"{where}: names {name!r}, which is not there")
            found += _saved(folder, f"{name}.", name)
        return found
    if all((source / name).is_file() for name in STATE_FILES):
        return _saved(source, "", "")
    return [_parquet(path) for path in _parquet_files(source)]


def _parquet_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def _parquet(path: Path) -> ParquetFile:
    shard = SHARD.fullmatch(path.stem)
    split = path.stem if path.stem in (*SPLITS, "validation") else ""
    return ParquetFile(path, path.stem, shard[1] if shard else split)


def _saved(folder: Path, prefix: str, split: str) -> list[ParquetFile | ArrowFile]:
    """The files of one `Dataset`, as its `state.json` lists them."""
    path = folder / STATE_FILES[0]
    if not path.is_file():
        raise ValueError(f"{path} is not there: the data set is not whole")
    state, where = files.read_json(path), str(path)
    kept = SPLIT.fullmatch(str(state.get("_split") or ""))
    split = split or (kept[1] if kept else "")
    found: list[ParquetFile | ArrowFile] = []
    for entry in files.field(state, "_data_files", list, where):
        own = _inside(folder, files.field(entry, "filename", str, where), where)
        if not own.is_file():
            raise ValueError(f"{where}: names {own.name!r}, which is not there")
        found.append(ArrowFile(own, prefix + own.stem, split))
    return found


def _inside(folder: Path, name: object, where: str) -> Path:
    """A file or folder that is named in a file beside it."""
    if name != Path(str(name)).name or name in ("", ".."):
        raise ValueError(f"{where}: {name!r} is not a name in its folder")
    return folder / str(name)


def _rows(file: ParquetFile | ArrowFile) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of each group without their images."""
    import pyarrow

    if not file.path.is_file():
        raise ValueError(f"{file.path}: there is no such file")
    try:
        schema = file.schema()
        if "image" not in schema.names:
            raise ValueError(
                f"{file.path}: no column 'image', found {', '.join(schema.names)}"
            )
        if not _holds_images(schema.field("image").type):
            raise ValueError(
                f"{file.path}: the column 'image' has {schema.field('image').type}; "
                "expected bytes, alone or in {bytes, path}"
            )
        names = _class_names(schema)
        columns = [name for name in ("key", *FOREIGN) if name in schema.names]
        first = 0
        for count, table in file.groups(columns):
            rows = [dict[str, Any]() for _ in range(count)]
            if columns:  # a table without columns has no rows
                rows = table.to_pylist()
            for i, row in enumerate(rows, start=first):
                _complete(row, file, i, names)
            yield rows
            first += count
    except (pyarrow.ArrowException, OSError) as e:
        kind = "Parquet" if isinstance(file, ParquetFile) else "Arrow"
        raise ValueError(f"{file.path}: not a whole {kind} file: {e}") from e


def _holds_images(kind: Any) -> bool:
    """Whether a type of Arrow is bytes, or a struct with `bytes`."""
    from pyarrow import types

    if types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_images(kind.field(place).type)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_null(kind)


def _complete(row: dict[str, Any], file: TableFile, i: int, names: list[str]) -> None:
    """Adds what the file says, and gives labels and objects their usual form."""
    where = f"{file.path}: row {i}"
    # No folder: what a shard is called says nothing of a generator.
    key = row.setdefault("key", f"{file.stem}.{i}")
    if not isinstance(key, str) or not key:
        raise ValueError(f"{where}: the key is {key!r}; expected text")
    row["split"] = row.get("split") or file.split
    label, objects = row.get("label"), row.get("objects")
    if names and isinstance(label, int):
        if label >= len(names):
            raise ValueError(f"{where}: label {label}; its classes are {names}")
        row["label"] = names[label] if label >= 0 else None
    if isinstance(objects, dict):  # a `datasets.Sequence` of several fields
        row["objects"] = [dict(zip(objects, own)) for own in zip(*objects.values())]


def _class_names(schema: Any) -> list[str]:
    """The names of a `datasets.ClassLabel`, as the library stores them."""
    stored = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        return json.loads(stored)["info"]["features"]["label"].get("names") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # plain Parquet


dataset = HuggingFaceDataset
