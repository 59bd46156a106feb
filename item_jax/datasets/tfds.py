"""A data set packed once with TensorFlow Datasets, as ArrayRecord, without TensorFlow.

    build(open_dataset("run/records.jsonl"), data_dir="packed", name="forensynths")
    pack = Pack("packed/item/forensynths/1.0.0")     # or gs://bucket/...
    pack.record(0), pack.read(0)                     # read: the original file

Every example holds the file as it was, so that one decoder, `item_jax.images`, decides
what its pixels are; embeddings from a pack equal those from the folder byte for byte.
The folder can also be read by anybody with `tfds.builder_from_directory`.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import io
import itertools
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from item_jax import files
from item_jax.datasets.dataset import (
    Dataset,
    check_facts,
    checked,
    digest,
    facts,
    real_sources,
)
from item_jax.datasets.dataset import records as all_records
from item_jax.datasets.local import shared_folder
from item_jax.datasets.pack_metadata import (
    SCHEMA,
    read_builder,
    read_metadata,
    spans,
)
from item_jax.images import ImageError
from item_jax.progress import progress
from item_jax.records import LABELS, Record, record_from_json

VERSION = "1.0.0"


class Item(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of a pack, which `build` makes."""

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, parts=None, metadata=None, **options):
        self._parts = parts or {}
        self._metadata = metadata or {}
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images with captions and grounded objects, for ITEM.",
            features=features.FeaturesDict(
                {
                    "key": features.Text(),
                    "image": features.Image(),
                    "label": features.ClassLabel(names=list(LABELS)),  # -1: unknown
                    "generator": features.Text(),
                    "caption": features.Text(),
                    "objects": features.Sequence(
                        {
                            "bbox": features.BBoxFeature(),
                            "phrase": features.Text(),
                            "score": features.Scalar(np.float32),
                        }
                    ),
                    # The line of records.jsonl: float32 would move a box by a pixel.
                    "record": features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(self._metadata),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(own) for name, own in self._parts.items()}

    def _generate_examples(self, examples):
        for number, (record, data) in enumerate(examples()):
            yield (
                number,
                {
                    "key": record.key,
                    "image": data,
                    "label": LABELS.get(record.label, -1),
                    "generator": record.generator,
                    "caption": record.caption or "",
                    "objects": [
                        {
                            "bbox": tfds.features.BBox(
                                xmin=o.box[0],
                                ymin=o.box[1],
                                xmax=o.box[2],
                                ymax=o.box[3],
                            ),
                            "phrase": o.phrase,
                            "score": o.score,
                        }
                        for o in record.objects
                    ],
                    "record": json.dumps(record.to_json(), ensure_ascii=False),
                },
            )


def build(
    dataset: Dataset, *, data_dir: str | Path, name: str, shards: int = 0
) -> epath.Path:
    """Packs a data set with its image files.

    The folder takes its name when it is whole; what a killed build leaves is called
    `incomplete.*` and is not a pack. A build starts from scratch, it does not resume.

    Args:
      dataset: is read in order.
      data_dir: gets `item/NAME/1.0.0`; a local folder or gs://...
      name: of the pack: letters, digits, `_`, `-` and `.`.
      shards: files of a split, at most as many as the smallest split has images; 0 for
        as many as make them 64 to 128 MB, which is TFDS's rule.

    Returns:
      The folder of the pack.

    Raises:
      ValueError: for a bad name, no records, a pack that is there already, or a file
        that cannot be read, naming it. (A damaged picture is packed as it is and fails
        when it is decoded, as from a folder.)
    """
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"name {name!r}; allowed: letters, digits, '_', '-' and '.'")
    if not len(dataset):
        raise ValueError("no records to pack")
    folder = epath.Path(data_dir) / "item" / name / VERSION
    if folder.exists():
        raise ValueError(f"{folder} exists; delete it, or choose another --name")
    splits = [_split_name(record.split) for record in all_records(dataset)]
    parts: dict[str, list[int]] = {}
    for number, split in enumerate(splits):
        parts.setdefault(split, []).append(number)
    known = facts(dataset)
    found = {
        "real_sources": real_sources(dataset, known),
        "index": known["index"] or {},
    }
    metadata = {
        "schema": SCHEMA,
        "records": len(splits),
        "records_sha256": digest(dataset),
        "runs": [[split, len(list(run))] for split, run in itertools.groupby(splits)],
        # Without the folder of the images, which is of no use in a pack.
        "run": {k: v for k, v in (known | found).items() if k != "images"},
    }
    smallest = min(len(numbers) for numbers in parts.values())
    with progress("build", len(splits), "img") as bar, _quiet():

        def examples(numbers: Sequence[int]) -> Iterator[tuple[Record, bytes]]:
            for number in numbers:
                record = dataset.record(number)
                try:
                    data = dataset.read(number)
                except ImageError as e:
                    raise ValueError(
                        f"{record.key!r}: {e}; a pack needs every file of its records"
                    ) from e
                yield record, data
                bar.update()

        builder = Item(
            parts={
                split: (lambda numbers=numbers: examples(numbers))
                for split, numbers in parts.items()
            },
            metadata=metadata,
            data_dir=os.fspath(data_dir),
            config=tfds.core.BuilderConfig(name=name),
            file_format="array_record",
        )
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                num_shards=min(shards, smallest) or None,
                try_download_gcs=False,
            )
        )
    return folder


def _split_name(split: str) -> str:
    """TFDS allows word characters only, and keeps "all" to itself."""
    name = re.sub(r"\W+", "_", split)
    return name if name not in ("", "all") else "unnamed"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS's own bars and messages off the screen."""
    log = logging.getLogger("absl")
    level = log.level
    tfds.disable_progress_bar()
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
        tfds.enable_progress_bar()


# ---------------------------------------------------------------------------- reading


class Pack:
    """A packed `Dataset`.

    Shards are opened when first read, so that a process of many touches only its own.
    A shard on a bucket is copied to the local disk first, and kept there.

    Attributes:
      folder: where it is.
      facts, sha256: see `item_jax.datasets.dataset.Dataset`; `facts["images"]` is None,
        since the files are inside.
    """

    def __init__(self, folder: str | Path):
        """Opens a pack.

        Raises:
          ValueError: when there is none, its metadata are damaged (naming file and
            field), or files of it are missing, naming them.
        """
        self.folder = epath.Path(folder)
        metadata = read_metadata(self.folder)
        self.facts = check_facts(metadata["run"], self.folder / "metadata.json")
        self.facts["images"] = None
        self.sha256 = metadata["records_sha256"]
        self._length = metadata["records"]
        self._features, shards = read_builder(self.folder)
        self._spans = spans(metadata["runs"], shards, self.folder / "metadata.json")
        self._starts = [span.start for span in self._spans]
        self._open_files()

    def _open_files(self) -> None:
        self._readers: dict[epath.Path, Any] = {}
        # A record and its file are one example, and asked for one after the other.
        self._last = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k not in ("_readers", "_last")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open_files()

    def __len__(self) -> int:
        return self._length

    def record(self, number: int) -> Record:
        """Returns a record.

        Raises:
          IndexError: unless 0 <= number < len(self).
          ValueError: when the shard is damaged, naming it.
        """
        return self._example(number)[0]

    def read(self, number: int) -> bytes:
        """Returns the original image file of a record; raises what `record` does."""
        return self._example(number)[1]

    def _example(self, number: int) -> tuple[Record, bytes]:
        if getattr(self._last, "number", None) != number:
            self._last.example = self._read_example(checked(number, len(self)))
            self._last.number = number
        return self._last.example

    def _read_example(self, number: int) -> tuple[Record, bytes]:
        span = self._spans[bisect.bisect_right(self._starts, number) - 1]
        try:
            example = self._features.deserialize_example_np(
                self._reader(span.file)[span.first + number - span.start],
                decoders={"image": tfds.decode.SkipDecoding()},
            )
            row = files.parse_json(example["record"], "its record")
            return record_from_json(row), example["image"]
        except Exception as e:  # riegeli's errors have many classes and empty messages
            raise ValueError(
                f"{span.file} is damaged ({type(e).__name__} {e}); build the pack again"
            ) from e

    def _reader(self, file: epath.Path) -> Any:
        if file not in self._readers:
            from array_record.python.array_record_data_source import (
                ArrayRecordDataSource,
            )

            path = fetch(file, mark=self.sha256) if _remote(file) else file
            self._readers[file] = ArrayRecordDataSource([os.fspath(path)])
        return self._readers[file]


def _remote(file: epath.Path) -> bool:
    return "://" in os.fspath(file)


def fetch(file: epath.Path, *, mark: str) -> Path:
    """Copies a file to the local disk, once for all processes of a machine.

    Args:
      file: anywhere `etils.epath` reads.
      mark: distinguishes versions of the file.
    """
    name = hashlib.sha256(f"{os.fspath(file)} {mark}".encode()).hexdigest()[:32]
    target = shared_folder() / name
    if not target.exists():
        partial = files.partial_name(target)
        file.copy(partial, overwrite=True)
        os.replace(partial, target)
    return target
