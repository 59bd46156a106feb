"""Shards of WebDataset: tar files whose members of one name are one sample.

    000017.jpg  000017.json  000017.txt  000017.cls

The image; what is known of it, with the fields of a `Record` (others are not read); its
caption; its label, 0 or real, 1 or fake. Only the image is required. Members are found
once and read where they are: nothing is unpacked, and no package is needed.
"""

from __future__ import annotations

import os
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from item_jax import files, images
from item_jax.datasets.dataset import RecordList, checked, foreign_record
from item_jax.images import ImageError
from item_jax.records import Record

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

    def __init__(self, source: str | os.PathLike):
        """Finds the samples of a tar file, or of all in a folder.

        Raises:
          ValueError: for a shard that is damaged, cut off or compressed, a sample
            without an image or with two, one that is there twice, or a field that is
            not one, naming shard and sample.
        """
        path = Path(source)
        self.shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        self._places = array("q")  # of each image: shard, offset, size
        records: list[Record] = []
        seen: dict[str, Path] = {}
        for number, shard in enumerate(self.shards):
            for name, members in _samples(shard):
                where = f"{shard}: {name}"
                pictures = [e for e in members if e.lower() in IMAGES]
                if len(pictures) != 1:
                    raise ValueError(
                        f"{where}: a sample has one image ({', '.join(IMAGES)}), "
                        f"found {', '.join(members)}"
                    )
                if name in seen:
                    raise ValueError(f"{where}: is in {seen[name]} too")
                seen[name] = shard
                image = members[pictures[0]]
                self._places.extend((number, image.offset_data, image.size))
                values = _values(shard, members, where)
                records.append(foreign_record(f"{name}.{pictures[0]}", values, where))
        if not records:
            raise ValueError(f"{source}: no sample in {len(self.shards)} tar files")
        super().__init__(records)

    def read(self, number: int) -> bytes:
        shard, offset, size = self._places[3 * checked(number, len(self)) :][:3]
        if size > images.MAX_BYTES:
            raise ImageError(f"{size:,} bytes; allowed are {images.MAX_BYTES:,}")
        return _read(self.shards[shard], offset, size)


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Yields name and members by extension; those of a sample follow each other."""
    name = ""
    members: dict[str, tarfile.TarInfo] = {}
    try:
        # Without compression, so that a member can be read where it is.
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if not member.isreg():
                    continue
                folder, slash, base = member.name.rpartition("/")
                # As webdataset has it: the extension begins at the first dot.
                stem, _, extension = base.partition(".")
                if folder + slash + stem != name and members:
                    yield name, members
                    members = {}
                name = folder + slash + stem
                members[extension] = member
            end = tar.offset
    except (tarfile.TarError, OSError, EOFError) as e:
        raise ValueError(f"{shard}: not a whole, uncompressed tar: {e}") from e
    if members:
        yield name, members
    if _read(shard, end, BLOCK) != bytes(BLOCK):
        raise ValueError(f"{shard}: is cut off behind {name!r}")


def _values(
    shard: Path, members: dict[str, tarfile.TarInfo], where: str
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for extension in ("json", *TEXTS):
        member = members.get(extension)
        if member is None:
            continue
        if member.size > LARGEST_TEXT:
            raise ValueError(f"{where}.{extension}: {member.size:,} bytes")
        content = _read(shard, member.offset_data, member.size)
        if extension == "json":
            values |= files.parse_json(content, f"{where}.json")
        else:
            text = content.decode("utf-8", "replace").strip()
            values[TEXTS[extension]] = text
    return values


def _read(path: Path, offset: int, size: int) -> bytes:
    with open(path, "rb") as f:
        f.seek(offset)
        return f.read(size)


dataset = WebDataset
