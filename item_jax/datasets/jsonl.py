"""Records from a `records.jsonl`, made by `item-jax index` or by any other program.

One line for each image; only `key` is required:

    {"key": "a/b.png", "label": "fake", "generator": "mine", "split": "test",
     "caption": "a dog", "objects": [{"phrase": "dog", "box": [0, 0, 1, 1]}]}

A file `records.run.json` beside it may hold the facts of `dataset.Dataset`: `images`,
the folder the keys are relative to; `captioner` and `grounder`; and `real_sources`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from item_jax import files
from item_jax.datasets.dataset import check_facts, checked, read_from
from item_jax.progress import progress
from item_jax.records import (
    Record,
    check_count,
    digest,
    iter_records,
    read_records,
    record_from_json,
)

# A file shorter than this is read before anyone wonders what is going on.
SHOW_PROGRESS_FROM = 100_000


class RecordFile:
    """A `Dataset` whose records stay on disk: a record is parsed when asked for.

    All are read and checked once, at the beginning; 8 bytes a record stay in memory.
    Threads may share it, and a pickled one opens the file again.

    Attributes:
      path: the `.jsonl` file.
      image_root: the folder the keys are relative to, or None when unknown.
      facts, sha256: see `item_jax.datasets.dataset.Dataset`.
    """

    def __init__(
        self, path: str | os.PathLike, image_root: str | os.PathLike | None = None
    ):
        """Reads the file through.

        Args:
          path: the `.jsonl` file.
          image_root: the folder the keys are relative to; by default what
            `records.run.json` says.

        Raises:
          ValueError: for a missing or empty file, an invalid record or a duplicated
            key, naming file and line; or for a damaged `records.run.json`.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(
                f"no records at {path}: make them with `item-jax index ... --out "
                f"{path}`, or set --config.data.records"
            )
        beside = self.path.with_suffix(".run.json")
        content = files.read_json(beside) if beside.is_file() else {}
        self.facts = check_facts(content, beside)
        if image_root is not None:
            self.facts["images"] = os.fspath(image_root)
        self.image_root = self.facts["images"]
        self._version = _version(self.path)
        self._offsets = array("q", _line_offsets(self.path))
        check_count(self.path, len(self._offsets))
        self.sha256 = self._check_all()

    def _check_all(self) -> str:
        """Parses every record; returns their digest."""
        hashes = array("q")

        def noted() -> Iterator[Record]:
            count = len(self._offsets)
            show = count >= SHOW_PROGRESS_FROM
            with progress("read", count, "record", show=show) as bar:
                for record in iter_records(self.path):
                    hashes.append(hash(record.key))
                    bar.update()
                    yield record

        sha256 = digest(noted())
        if len(np.unique(np.frombuffer(hashes, np.int64))) < len(hashes):
            # Either it names the two records, or two keys only share a hash.
            read_records(self.path)
        return sha256

    def __len__(self) -> int:
        return len(self._offsets)

    def record(self, number: int) -> Record:
        """Returns a record.

        Raises:
          IndexError: unless 0 <= number < len(self).
          RuntimeError: when the file has changed since it was opened.
        """
        offset = self._offsets[checked(number, len(self))]
        with open(self.path, "rb") as f:
            if _version(self.path) != self._version:
                raise RuntimeError(
                    f"{self.path} has changed since it was opened: start again"
                )
            f.seek(offset)
            return record_from_json(files.parse_json(f.readline(), self.path))

    def read(self, number: int) -> bytes:
        return read_from(self.image_root, self.record(number))


def _version(path: Path) -> tuple[int, ...]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _line_offsets(path: Path) -> Iterator[int]:
    """Where each line that is not blank begins, in bytes."""
    position = 0
    with open(path, "rb") as f:
        for line in f:
            if line.strip():
                yield position
            position += len(line)
