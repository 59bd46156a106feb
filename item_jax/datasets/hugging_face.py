"""What Hugging Face `datasets` publishes and saves: Parquet, or Arrow files.

    hf download OWNER/NAME --repo-type dataset --local-dir photos
    item-jax embed --workdir run --config.data.records=photos

or, from Python, `dataset.save_to_disk("photos")`: the folder of a `Dataset`, or of a
`DatasetDict` with a folder for each split.

Of their columns those with the names of a `Record`'s fields are read, `labels`,
`is_fake` and their like (`labels.COLUMNS`), and `image`: the bytes of a file, alone or
in the `{bytes, path}` of `datasets.Image`. A label is real, fake or a synonym, 0 or 1,
or a `datasets.ClassLabel` with such names. The split is a column, the name
`save_to_disk` keeps of it, a folder (`default/train/0000.parquet`), or in the name of
the file (`train-00000-of-00004.parquet`); folders tell generators too
(`midjourney/train-00000-of-00001.parquet`).
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
from item_jax.datasets import labels
from item_jax.datasets.dataset import RecordList, checked
from item_jax.datasets.folder import Tree, tree
from item_jax.datasets.foreign import READ, Row, below, column_name, records_of
from item_jax.images import ImageError

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

    def __init__(self, source: str | os.PathLike, found: Tree | None = None):
        """Reads everything but the images of a file, or of all in a folder.

        Args:
          source: the file or folder.
          found: `folder.tree(source)`, where it is known.

        Raises:
          ValueError: for a file that is damaged, not there or without images, or a
            field that is not one, naming file and row; or for a key that is there
            twice.
        """
        self.files, notes = tables_of(Path(source), found)
        self._groups: list[tuple[int, int, int]] = []  # file, group, first record
        rows: list[Row] = []
        ignored: set[str] = set()
        for number, file in enumerate(self.files):
            for group, (own, others) in enumerate(_rows(file)):
                self._groups.append((number, group, len(rows)))
                rows += own
                ignored |= others
        if not rows:
            raise ValueError(f"{source}: no row in {len(self.files)} files")
        records, facts = records_of(rows, notes, sorted(ignored))
        super().__init__(records, facts=facts)
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
      split: of its rows, if they have none; whatever it is called.
      folders: above it, which tell label, generator and split of its rows.
      prefix: what the keys of its rows begin with.
    """

    path: Path
    stem: str
    split: str
    folders: tuple[str, ...] = ()
    prefix: str = ""


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


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (folder / SPLITS_FILE).is_file() or all(
        (folder / name).is_file() for name in STATE_FILES
    )


def count(source: Path, found: Tree) -> int:
    """Returns how many images the tables of a folder hold; damaged ones hold none."""
    total = 0
    try:
        tables, _ = tables_of(source, found)
        for table in tables:
            if "image" in table.schema().names:
                total += sum(n for n, _ in table.groups([]))
    except Exception:  # whatever pyarrow finds in a stray file; opened, it is told
        return total
    return total


def tables_of(
    source: Path, found: Tree | None = None
) -> tuple[list[ParquetFile | ArrowFile], list[str]]:
    """Returns a Parquet file, all below a folder, or what `save_to_disk` wrote.

    Of the Parquet files of a folder those without images are left aside, when another
    one has them: img2dataset writes one beside each tar file.

    Args:
      source: the file or folder.
      found: `folder.tree(source)`, where it is known.

    Returns:
      The files, and what was left aside.

    Raises:
      ValueError: if a folder of `save_to_disk` lacks one of its files, or names one
        that is elsewhere.
    """
    if not source.is_dir():
        return _parquet([source], source), []
    if (source / SPLITS_FILE).is_file():
        where = str(source / SPLITS_FILE)
        names = files.field(files.read_json(where), "splits", list, where)
        saved: list[ParquetFile | ArrowFile] = []
        for name in names:
            folder = _inside(source, name, where)
            if not folder.is_dir():
                raise ValueError(f"{where}: names {name!r}, which is not there")
            saved += _saved(folder, f"{name}.", name)
        return saved, []
    if is_saved(source):
        return _saved(source, "", ""), []
    found = tree(source) if found is None else found
    tables = _parquet(
        [source / p for p in found.containers.get(".parquet", [])], source
    )
    with_images = [table for table in tables if _has_images(table)]
    if not with_images or len(with_images) == len(tables):
        return tables, []
    n = len(tables) - len(with_images)
    return with_images, [f"Parquet files without images, not read: {n}"]


def _has_images(table: ParquetFile | ArrowFile) -> bool:
    try:
        return "image" in table.schema().names
    except Exception:  # a damaged one is read, and told
        return True


def _parquet(paths: list[Path], source: Path) -> list[ParquetFile | ArrowFile]:
    made: list[ParquetFile | ArrowFile] = []
    for path, (folders, prefix) in zip(paths, below(paths, source)):
        shard = SHARD.fullmatch(path.stem)
        name = shard[1] if shard else path.stem
        known = labels.split_of(name) or labels.split_in(name) or labels.label_of(name)
        # The name of a shard is that of its split, whatever it is.
        split = name if shard and not known else ""
        made.append(ParquetFile(path, path.stem, split, folders, prefix))
    return made


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
        # A `DatasetDict` may have the splits real and fake.
        label = (split,) if labels.label_of(split) else ()
        name = "" if label else split
        found.append(ArrowFile(own, prefix + own.stem, name, label))
    return found


def _inside(folder: Path, name: object, where: str) -> Path:
    """A file or folder that is named in a file beside it."""
    if name != Path(str(name)).name or name in ("", ".."):
        raise ValueError(f"{where}: {name!r} is not a name in its folder")
    return folder / str(name)


def _rows(file: ParquetFile | ArrowFile) -> Iterator[tuple[list[Row], set[str]]]:
    """Yields the rows of each group without their images, and the columns not read."""
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
        classes = _class_names(schema)
        columns: dict[str, str] = {}  # as it is called here -> in the file
        for name in sorted(schema.names, key=lambda n: n != column_name(n)):
            if column_name(name) in READ:
                columns.setdefault(column_name(name), name)
        others = {*schema.names} - {*columns.values(), "image"}
        first = 0
        for count, table in file.groups(list(columns.values())):
            own = [dict[str, Any]() for _ in range(count)]
            if columns:  # a table without columns has no rows
                own = table.to_pylist()
            yield (
                [
                    _row({c: r[n] for c, n in columns.items()}, file, i, classes)
                    for i, r in enumerate(own, start=first)
                ],
                others,
            )
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


def _row(
    values: dict[str, Any], file: TableFile, i: int, classes: dict[str, list[str]]
) -> Row:
    """A row with labels and objects in their usual form."""
    where = f"{file.path}: row {i}"
    key = values.pop("key", f"{file.stem}.{i}")
    if not isinstance(key, str) or not key:
        raise ValueError(f"{where}: the key is {key!r}; expected text")
    for column, names in classes.items():
        number = values.get(column)
        if isinstance(number, int):
            if number >= len(names):
                raise ValueError(f"{where}: {column} {number}; its classes are {names}")
            values[column] = names[number] if number >= 0 else None
    objects = values.get("objects")
    if isinstance(objects, dict):  # a `datasets.Sequence` of several fields
        values["objects"] = [dict(zip(objects, own)) for own in zip(*objects.values())]
    shard = SHARD.fullmatch(file.path.stem)
    name = shard[1] if shard else file.path.stem
    return Row(
        key,
        values,
        f"{file.path}: {key}",
        file.folders,
        name if isinstance(file, ParquetFile) else "",
        file.prefix,
        file.split,
    )


def _class_names(schema: Any) -> dict[str, list[str]]:
    """The names of each `datasets.ClassLabel`, as the library stores them."""
    stored = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        features = json.loads(stored)["info"]["features"]
        return {
            column_name(column): [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # plain Parquet


dataset = HuggingFaceDataset
