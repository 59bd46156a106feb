"""Shards of WebDataset: tar files whose members of one name are one sample.

    000017.jpg  000017.json  000017.txt  000017.cls

The image; what is known of it, with the fields of a `Record` (others are not read); its
caption; its label, 0 or real, 1 or fake. Only the image is required. Folders in the
names, above the tar file (`train/00000.tar`) and words of its name
(`photos-train-000000.tar`) tell the rest. Members are found once and read where they
are: nothing is unpacked, and no package is needed.
"""

from __future__ import annotations

import os
import tarfile
from array import array
from collections import Counter
from pathlib import Path

from item_jax import files, images
from item_jax.datasets.dataset import RecordList, checked
from item_jax.datasets.folder import Tree, is_companion, tree
from item_jax.datasets.foreign import (
    READ,
    Row,
    below,
    column_name,
    decode,
    records_of,
)
from item_jax.images import ImageError
from item_jax.records import normalise_key

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "avif")
TEXTS = {"txt": "caption", "cls": "label"}
LARGEST_TEXT = 2**24
"""The most bytes a text or JSON member may have; images may be larger."""

BLOCK = 512  # of a tar file, POSIX.1-1988


class WebDataset(RecordList):
    """A `Dataset` of tar shards; records stay in memory, images in their shards.

    Attributes:
      shards: the tar files in order.
      records, facts: see `RecordList`.
    """

    def __init__(self, source: str | os.PathLike, found: Tree | None = None):
        """Finds the samples of a tar file, or of all below a folder.

        Args:
          source: the file or folder.
          found: `folder.tree(source)`, where it is known.

        Raises:
          ValueError: for a shard that is damaged, cut off or compressed, a sample
            without an image or with two, one that is there twice, or a field that is
            not one, naming shard and sample.
        """
        path = Path(source)
        self.shards = shards_of(path, found)
        self._places = array("q")  # of each image: shard, offset, size
        rows: list[Row] = []
        ignored: set[str] = set()
        skipped: Counter[str] = Counter()
        for number, (shard, (folders, prefix)) in enumerate(
            zip(self.shards, below(self.shards, path))
        ):
            for name, members in _samples(shard, skipped).items():
                where = f"{shard}: {name}"
                pictures = [e for e in members if e.lower() in IMAGES]
                if len(pictures) != 1:
                    raise ValueError(
                        f"{where}: a sample has one image ({', '.join(IMAGES)}), "
                        f"found {', '.join(members)}"
                    )
                image = members[pictures[0]]
                self._places.extend((number, image.offset_data, image.size))
                row = Row(
                    f"{name}.{pictures[0]}", {}, where, folders, shard.stem, prefix
                )
                ignored |= _read_values(row, shard, members)
                rows.append(row)
        if not rows:
            raise ValueError(f"{source}: no sample in {len(self.shards)} tar files")
        notes = [f"members of tar files, not read: {n} {k}" for k, n in skipped.items()]
        records, facts = records_of(rows, notes, sorted(ignored))
        super().__init__(records, facts=facts)

    def read(self, number: int) -> bytes:
        shard, offset, size = self._places[3 * checked(number, len(self)) :][:3]
        if size > images.MAX_BYTES:
            raise ImageError(f"{size:,} bytes; allowed are {images.MAX_BYTES:,}")
        return _read(self.shards[shard], offset, size)


def shards_of(source: Path, found: Tree | None = None) -> list[Path]:
    """Returns a tar file, or all that are below a folder."""
    if not source.is_dir():
        return [source]
    found = tree(source) if found is None else found
    return [source / path for path in found.containers.get(".tar", [])]


def count(source: Path, found: Tree, most: int) -> int:
    """Returns how many images the shards of a folder hold, up to `most` and some.

    What comes behind damage in a shard is not counted.
    """
    total = 0
    for shard in shards_of(source, found):
        try:
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    total += member.isreg() and _is_image(member.name)
                    if total > most:
                        return total
        except (tarfile.TarError, OSError, EOFError):
            continue  # opened, it is told
    return total


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGES and not _is_skipped(name)


def _is_skipped(name: str) -> bool:
    parts = normalise_key(name).split("/")
    return any(is_companion(part) for part in parts if part != "..")


def _samples(
    shard: Path, skipped: Counter[str]
) -> dict[str, dict[str, tarfile.TarInfo]]:
    """Returns the members of each sample by name and extension.

    In a tar that `tar` made of a folder those of a sample need not follow each other.
    """
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    name = ""
    try:
        # Without compression, so that a member can be read where it is.
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    skipped["links or devices"] += not member.isdir()
                elif _is_skipped(member.name):
                    skipped["hidden or of the system"] += 1
                else:
                    folder, slash, base = normalise_key(member.name).rpartition("/")
                    # As webdataset has it: the extension begins at the first dot.
                    stem, _, extension = base.partition(".")
                    name = folder + slash + stem
                    members = found.setdefault(name, {})
                    if extension in members:
                        raise ValueError(f"{shard}: {member.name} is there twice")
                    members[extension] = member
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError) as e:
        raise ValueError(f"{shard}: not a whole, uncompressed tar: {e}") from e
    skipped += Counter()  # without zeros
    if found and _read(shard, end, BLOCK) != bytes(BLOCK):
        raise ValueError(f"{shard}: is cut off behind {name!r}")
    return found


def _read_values(
    row: Row, shard: Path, members: dict[str, tarfile.TarInfo]
) -> set[str]:
    """Adds what the texts of a sample say; returns the fields that are not read.

    A text that is not UTF-8 is the error of its record: that image fails alone.
    """
    ignored: set[str] = set()
    for extension in ("json", *TEXTS):
        member = members.get(extension)
        if member is None:
            continue
        where = f"{row.where}.{extension}"
        if member.size > LARGEST_TEXT:
            raise ValueError(f"{where}: {member.size:,} bytes")
        content = _read(shard, member.offset_data, member.size)
        if extension == "json":
            values = files.parse_json(content, where)
            if not isinstance(values, dict):
                raise ValueError(f"{where}: expected a JSON object")
            for name, value in values.items():
                if column_name(name) in READ and name != "key":
                    row.values[column_name(name)] = value
                elif name != "key":
                    ignored.add(name)
            continue
        try:
            row.values[TEXTS[extension]] = decode(content)
        except ValueError as e:
            row.error = f"{where} {e}"
    return ignored


def _read(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb") as f:
        f.seek(offset)
        return f.read(size)


dataset = WebDataset
