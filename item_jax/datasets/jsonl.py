"""Records from a `records.jsonl`, made by `item-jax index` or by any other program.

One line an image; only `key` is a must:

    {"key": "a/b.png", "label": "fake", "generator": "mine", "split": "test",
     "caption": "a dog", "objects": [{"phrase": "dog", "box": [0, 0, 1, 1]}]}

Beside it may stand `records.run.json`: `images`, the folder the keys are relative to;
`captioner` and `grounder`; and `pairs`, {generator: source of its real images}.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from item_jax.progress import progress
from item_jax.records import (
    Record,
    digest,
    iter_records,
    read_records,
    record_from_json,
)

# A file shorter than this is read before anyone wonders what is going on.
SHOW_PROGRESS_FROM = 100_000


class RecordFile(Sequence):
    """The records of a file, which stay on disk: a record is parsed when asked for.

    All are read and checked once, in the beginning; 8 bytes a record stay in memory.
    Threads may share it, and a pickled one opens the file anew.

    Attributes:
      path: the `.jsonl` file.
      records_sha256: `item_jax.records.digest` of all its records.
    """

    def __init__(self, path: str | Path):
        """Reads the file through.

        Raises:
          ValueError: for an invalid record or a key that stands there twice, naming
            file and line.
        """
        self.path = Path(path)
        self._version = _version(self.path)
        self._offsets = array("q", _line_offsets(self.path))
        hashes = array("q")

        def noted() -> Iterator[Record]:
            count = len(self._offsets)
            show = count >= SHOW_PROGRESS_FROM
            with progress("read", count, "record", show=show) as bar:
                for record in iter_records(self.path):
                    hashes.append(hash(record.key))
                    bar.update()
                    yield record

        self.records_sha256 = digest(noted())
        if len(np.unique(np.frombuffer(hashes, np.int64))) < len(hashes):
            # Names the two records; or finds that two keys share a hash, no more.
            read_records(self.path)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, number):
        """Returns the record of a number, or the list of those of a slice.

        Raises:
          IndexError: for a number that is not there.
          RuntimeError: when the file has changed since it was read through.
        """
        if isinstance(number, slice):
            return [self[i] for i in range(len(self))[number]]
        offset = self._offsets[number]
        with open(self.path, "rb") as f:
            self._check_version()
            f.seek(offset)
            return record_from_json(json.loads(f.readline()))

    def __iter__(self) -> Iterator[Record]:
        """Reads the file through once more; raises what `[]` does."""
        self._check_version()
        return iter_records(self.path)

    def _check_version(self) -> None:
        if _version(self.path) != self._version:
            raise RuntimeError(
                f"{self.path} has changed since it was read: start again"
            )


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


def load(path: str | Path) -> tuple[RecordFile, dict[str, Any]]:
    """Reads the records and what is known of them.

    Args:
      path: the `.jsonl` file.

    Returns:
      The records, and `records.run.json`, empty when there is none.

    Raises:
      ValueError: for a missing file, an invalid record or a key that stands there
        twice, naming file and line; or a `run.json` that is no JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"no records at {path}: make them with `item-jax index ... --out {path}` "
            "or set --config.data.records"
        )
    beside = path.with_suffix(".run.json")
    run: Any = {}
    if beside.is_file():
        try:
            run = json.loads(beside.read_text(encoding="utf-8"))
        except ValueError as e:
            raise ValueError(f"{beside}: no JSON ({e})") from e
        if not isinstance(run, dict):
            raise ValueError(f"{beside}: no JSON object: {run!r}")
    return RecordFile(path), run
