"""Parquet files as Hugging Face `datasets` writes and publishes them.

    hf download OWNER/NAME --repo-type dataset --local-dir photos
    item-jax embed --workdir run --config.data.records=photos

Of their columns those with the names of a `Record`'s fields are read, and `image`: the
bytes of a file, alone or in the `{bytes, path}` of `datasets.Image`. A `label` is real
or fake, 0 or 1, or a `datasets.ClassLabel` with names such as these; the split is a
column, or the beginning of the file's name (`train-00000-of-00004.parquet`).
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from item_jax import images
from item_jax.datasets.dataset import FOREIGN, RecordList, checked, foreign_record
from item_jax.images import ImageError
from item_jax.records import Record

SHARD = re.compile(r"(.+)-\d+-of-\d+")
KEPT = 2  # row groups whose images stay in memory


class ParquetDataset(RecordList):
    """A `Dataset` of Parquet files; records stay in memory, images in their files.

    Attributes:
      paths: the files in order.
      records, facts: see `RecordList`.
    """

    def __init__(self, source: str | os.PathLike):
        """Reads everything but the images of a file, or of all in a folder.

        Raises:
          ValueError: for a file that is damaged or has no images, or a field that is
            not one, naming file and row; or for a key that is there twice.
        """
        self.paths = files_of(source)
        self._groups: list[tuple[int, int, int]] = []  # file, row group, first record
        records: list[Record] = []
        seen: set[str] = set()
        for number, path in enumerate(self.paths):
            for group, rows in enumerate(_rows(path)):
                self._groups.append((number, group, len(records)))
                for values in rows:
                    key = values.pop("key")
                    where = f"{path}: {key}"
                    if key in seen:
                        raise ValueError(f"{where}: is there twice")
                    seen.add(key)
                    records.append(foreign_record(key, values, where))
        if not records:
            raise ValueError(f"{source}: no row in {len(self.paths)} Parquet files")
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
                self._open[group] = _images(self.paths, *self._groups[group][:2])
            content = self._open[group][number - self._groups[group][2]]
        if isinstance(content, dict):
            content = content["bytes"]
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


def files_of(source: str | os.PathLike) -> list[Path]:
    """Returns a Parquet file, or those of a folder and of its `data/`."""
    path = Path(source)
    if not path.is_dir():
        return [path]
    return sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])


def _rows(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of each row group without their images."""
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        schema = file.schema_arrow
        if "image" not in schema.names:
            raise ValueError(
                f"{path}: no column 'image', found {', '.join(schema.names)}"
            )
        names = _class_names(schema)
        columns = [name for name in ("key", *FOREIGN) if name in schema.names]
        split = SHARD.fullmatch(path.stem)
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            rows = [dict[str, Any]() for _ in range(count)]
            if columns:  # a table without columns has no rows
                rows = file.read_row_group(group, columns=columns).to_pylist()
            for i, row in enumerate(rows, start=first):
                row.setdefault("key", f"{path.stem}/{i}")
                row.setdefault("split", split[1] if split else "")
                if names and isinstance(row.get("label"), int):
                    row["label"] = names[row["label"]] if row["label"] >= 0 else None
            yield rows
            first += count
    except (pyarrow.ArrowException, OSError) as e:
        raise ValueError(f"{path}: not a whole Parquet file: {e}") from e


def _class_names(schema: Any) -> list[str]:
    """The names of a `datasets.ClassLabel`, as the library stores them."""
    stored = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        return json.loads(stored)["info"]["features"]["label"].get("names") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # plain Parquet


def _images(paths: list[Path], file: int, group: int) -> list[Any]:
    import pyarrow.parquet as parquet

    table = parquet.ParquetFile(paths[file]).read_row_group(group, columns=["image"])
    return table.column("image").to_pylist()


dataset = ParquetDataset
