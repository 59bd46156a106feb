"""What the files beside the shards of a pack say: read here, and checked."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from item_jax import files

SCHEMA = "item-pack/2"
READABLE = ("item-pack/1", SCHEMA)
"""Schemas that are read; the first says `pairs` for `real_sources`."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Consecutive records that are consecutive examples of a file.

    Attributes:
      start: number of the first record.
      file: of the examples.
      first: number of the first example in `file`.
    """

    start: int
    file: epath.Path
    first: int


def read_metadata(folder: epath.Path) -> dict[str, Any]:
    """Reads and checks the `metadata.json` that `tfds.build` wrote.

    Raises:
      ValueError: when there is none, or naming file and field.
    """
    path = folder / "metadata.json"
    if not path.exists():
        raise ValueError(
            f"no pack in {folder}: {path} is missing. Make one with `item-jax "
            "build-dataset`; what an interrupted build leaves is not one"
        )
    content = files.parse_json(path.read_bytes(), path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object")
    schema = files.field({"schema": "none"} | content, "schema", str, path)
    if schema not in READABLE:
        raise ValueError(
            f"{path} has schema {schema!r}; this version reads {', '.join(READABLE)}"
        )
    files.field(content, "records_sha256", str, path)
    files.field(content, "run", dict, path)
    if files.field(content, "records", int, path) < 1:
        raise ValueError(f"{path}: 'records' is {content['records']}; at least 1")
    for run in files.field(content, "runs", list, path):
        if not (
            isinstance(run, list)
            and [type(part) for part in run] == [str, int]
            and run[1] > 0
        ):
            raise ValueError(
                f"{path}: 'runs' has {run!r}; expected [split, how many, at least 1]"
            )
    total = sum(count for _, count in content["runs"])
    if total != content["records"]:
        raise ValueError(
            f"{path}: 'runs' hold {total} examples, 'records' is {content['records']}"
        )
    return content


def read_builder(
    folder: epath.Path,
) -> tuple[Any, dict[str, list[tuple[epath.Path, int]]]]:
    """Reads TFDS's own files of a pack.

    Returns:
      Its features, and (file, how many examples) of each split.

    Raises:
      ValueError: when one is damaged or missing, naming it.
    """
    try:
        info = tfds.builder_from_directory(folder).info
        shards = {
            split: list(zip(own.filepaths, own.shard_lengths))
            for split, own in info.splits.items()
        }
        needed = {"image", "record"} - set(info.features)
    except Exception as e:  # TFDS raises whatever its readers do
        raise ValueError(
            f"{folder}: TensorFlow Datasets cannot read the pack's own files "
            f"(dataset_info.json, features.json): {type(e).__name__}: {e}"
        ) from e
    if needed:
        raise ValueError(f"{folder} has no feature {', '.join(sorted(needed))}")
    missing = [
        file.name for own in shards.values() for file, _ in own if not file.exists()
    ]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; build it again")
    return info.features, shards


def spans(
    runs: Sequence[tuple[str, int]],
    shards: dict[str, list[tuple[epath.Path, int]]],
    where: epath.Path,
) -> list[Span]:
    """Where the records are, in order.

    A split's examples follow each other through its shards; the runs say how the
    records take turns between the splits.

    Args:
      runs: (split, how many) of consecutive records.
      shards: (file, how many examples) of each split.
      where: the file of the runs, for the message.
    """
    found = []
    start = 0
    used = {split: 0 for split in shards}  # examples taken of each split
    ends = {
        split: list(itertools.accumulate(length for _, length in own))
        for split, own in shards.items()
    }
    for split, count in runs:
        held = ends[split][-1] if ends.get(split) else 0
        if used.get(split, 0) + count > held:
            raise ValueError(
                f"{where}: 'runs' need more examples of split {split!r} than the "
                f"{held} in its files"
            )
        while count:
            shard = bisect.bisect_right(ends[split], used[split])
            file, length = shards[split][shard]
            first = used[split] - (ends[split][shard] - length)
            taken = min(count, length - first)
            found.append(Span(start, file, first))
            start += taken
            used[split] += taken
            count -= taken
    return found
