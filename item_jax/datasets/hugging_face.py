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
from item_jax.images import ImageError
from item_jax.records import Record

SHARD = re.compile(r"(.+)-\d+-of-\d+")
SPLITS_FILE = "dataset_dict.json"  # in the folder of a `DatasetDict`
STATE_FILE = "state.json"  # in that of a `Dataset`
KEPT = 2  # row groups or batches whose images stay in memory


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
                        raise ValueError(f"{where}: is there twice")
                    seen.add(key)
                    records.append(foreign_record(key, values, where))
        if not records:
            raise ValueError(f"{source}: no row in {len(self.files)} files")
        super().__init__(records)
        self._open: dict[int, list[Any]] = {}
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
            content = self._open[group][number - self._groups[group][2]]
        path = None
        if isinstance(content, dict):
            content, path = content["bytes"], content.get("path")
        if content is None and path:  # a path of another's machine is not followed
            raise ImageError(
                f"the row has the path of an image and not the image: {path}; "
                "`save_to_disk` and `push_to_hub` put it in, `to_parquet` does not"
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
class ParquetFile:
    """A Parquet file, its images in row groups.

    Attributes:
      path: where it is.
      stem: what the keys of its rows begin with, if they have none.
      split: of its rows, if they have none.
    """

    path: Path
    stem: str
    split: str

    def schema(self) -> Any:
        """Returns the `pyarrow.Schema`."""
        return self._open().schema_arrow

    def groups(self, columns: list[str]) -> Iterator[tuple[int, Any]]:
        """Yields the number of rows of each group, and a table of some columns."""
        file = self._open()
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            yield count, file.read_row_group(group, columns=columns)

    def images(self, group: int) -> list[Any]:
        table = self._open().read_row_group(group, columns=["image"])
        return table.column("image").to_pylist()

    def _open(self) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(self.path)


@dataclasses.dataclass(frozen=True)
class ArrowFile:
    """An Arrow stream of `save_to_disk`, its images in record batches.

    Attributes: as of `ParquetFile`.
    """

    path: Path
    stem: str
    split: str

    def schema(self) -> Any:
        return self._open().schema

    def groups(self, columns: list[str]) -> Iterator[tuple[int, Any]]:
        for batch in self._open().to_batches():
            yield batch.num_rows, batch.select(columns)

    def images(self, group: int) -> list[Any]:
        return self._open().to_batches()[group].column("image").to_pylist()

    def _open(self) -> Any:
        """A table whose values stay in the file until they are asked for."""
        import pyarrow

        with pyarrow.memory_map(str(self.path)) as file:
            return pyarrow.ipc.open_stream(file).read_all()


def tables_of(source: Path) -> list[ParquetFile | ArrowFile]:
    """Returns a Parquet file, those of a folder and of its `data/`, or what
    `save_to_disk` wrote.

    Raises:
      ValueError: if a folder of `save_to_disk` lacks one of its files.
    """
    if not source.is_dir():
        return [_parquet(source)]
    if (source / SPLITS_FILE).is_file():
        splits = files.read_json(source / SPLITS_FILE)
        names = files.field(splits, "splits", (list,), str(source / SPLITS_FILE))
        return [f for n in names for f in _saved(source / str(n), f"{n}/", str(n))]
    if all((source / name).is_file() for name in (STATE_FILE, "dataset_info.json")):
        return _saved(source, "", "")
    return [
        _parquet(path)
        for path in sorted([*source.glob("*.parquet"), *source.glob("data/*.parquet")])
    ]


def _parquet(path: Path) -> ParquetFile:
    split = SHARD.fullmatch(path.stem)
    return ParquetFile(path, path.stem, split[1] if split else "")


def _saved(folder: Path, prefix: str, split: str) -> list[ParquetFile | ArrowFile]:
    """The files of one `Dataset`, as its `state.json` lists them."""
    where = str(folder / STATE_FILE)
    if not (folder / STATE_FILE).is_file():
        raise ValueError(f"{where} is not there, though {SPLITS_FILE} names {split!r}")
    state = files.read_json(where)
    split = split or str(state.get("_split") or "")
    found: list[ParquetFile | ArrowFile] = []
    for entry in files.field(state, "_data_files", (list,), where):
        path = folder / str(files.field(entry, "filename", (str,), where))
        if not path.is_file():
            raise ValueError(f"{where}: names {path.name}, which is not there")
        found.append(ArrowFile(path, prefix + path.stem, split))
    return found


def _rows(file: ParquetFile | ArrowFile) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of each group without their images."""
    import pyarrow

    try:
        schema = file.schema()
        if "image" not in schema.names:
            raise ValueError(
                f"{file.path}: no column 'image', found {', '.join(schema.names)}"
            )
        names = _class_names(schema)
        columns = [name for name in ("key", *FOREIGN) if name in schema.names]
        first = 0
        for count, table in file.groups(columns):
            rows = [dict[str, Any]() for _ in range(count)]
            if columns:  # a table without columns has no rows
                rows = table.to_pylist()
            for i, row in enumerate(rows, start=first):
                # No folder: what a shard is called says nothing of a generator.
                row.setdefault("key", f"{file.stem}.{i}")
                row.setdefault("split", file.split)
                if names and isinstance(row.get("label"), int):
                    row["label"] = names[row["label"]] if row["label"] >= 0 else None
            yield rows
            first += count
    except (pyarrow.ArrowException, OSError) as e:
        kind = "Parquet" if isinstance(file, ParquetFile) else "Arrow"
        raise ValueError(f"{file.path}: not a whole {kind} file: {e}") from e


def _class_names(schema: Any) -> list[str]:
    """The names of a `datasets.ClassLabel`, as the library stores them."""
    stored = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        return json.loads(stored)["info"]["features"]["label"].get("names") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # plain Parquet


dataset = HuggingFaceDataset
