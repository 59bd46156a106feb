"""A data set packed once with TensorFlow Datasets, as ArrayRecord, without TensorFlow.

    build(records, images=root, data_dir="packed", name="forensynths")
    pack = Pack("packed/item/forensynths/1.0.0")     # or gs://bucket/...
    record, data = pack[0]                           # data: the original file

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
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from item_jax import images as images_lib
from item_jax.progress import progress
from item_jax.records import LABELS, Record, digest, record_from_json

SCHEMA = "item-pack/1"
VERSION = "1.0.0"


class Item(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of a pack; `build` makes it, with the records it is made of."""

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
    records: Sequence[Record],
    *,
    images: str | Path,
    data_dir: str | Path,
    name: str,
    run: dict[str, Any] | None = None,
    shards: int = 0,
) -> epath.Path:
    """Packs records and their files.

    The folder takes its name when it is whole; what a killed build leaves is called
    `incomplete.*` and is no pack. A build begins anew, it does not resume.

    Args:
      records: in the order they shall be read in.
      images: the folder the keys are relative to.
      data_dir: gets `item/NAME/1.0.0`; a local folder or gs://...
      name: of the data set: letters, digits, `_`, `-` and `.`.
      run: what `records.run.json` says of captioner, grounder and pairs.
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
    if not records:
        raise ValueError("no records to pack")
    folder = epath.Path(data_dir) / "item" / name / VERSION
    if folder.exists():
        raise ValueError(f"{folder} exists; delete it, or choose another --name")
    parts: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        parts.setdefault(_split_name(record.split), []).append(number)
    runs = [
        [split, len(list(own))]
        for split, own in itertools.groupby(_split_name(r.split) for r in records)
    ]
    run = run or {}
    metadata = {
        "schema": SCHEMA,
        "records": len(records),
        "records_sha256": digest(records),
        "runs": runs,
        "run": {k: run.get(k) for k in ("captioner", "grounder", "pairs", "index")},
    }
    smallest = min(len(numbers) for numbers in parts.values())
    with progress("build", len(records), "img") as bar, _quiet():

        def examples(numbers):
            for number in numbers:
                record = records[number]
                try:
                    data = images_lib.read_bytes(images, record.key)
                except images_lib.ImageError as e:
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


class Pack(Sequence):
    """A packed data set: `(record, bytes of its file)` by number, in order.

    Shards are opened when first read, so that a process of many touches only its own.
    A shard on a bucket is copied to the local disk first, and kept there.

    Attributes:
      folder: where it is.
      run: `captioner`, `grounder`, `pairs` and `index` of the build.
      records_sha256: `item_jax.records.digest` of all its records.
    """

    def __init__(self, folder: str | Path):
        """Opens a pack.

        Raises:
          ValueError: when there is none, or files of it are missing, naming them.
        """
        self.folder = epath.Path(folder)
        path = self.folder / "metadata.json"
        if not path.exists():
            raise ValueError(
                f"no pack in {folder}: {path} is missing. Make one with `item-jax "
                "build-dataset`; what an interrupted build leaves is not one"
            )
        said = json.loads(path.read_text())
        if said.get("schema") != SCHEMA:
            raise ValueError(
                f"{path} is of schema {said.get('schema')!r}; this version reads "
                f"{SCHEMA!r}"
            )
        self.run = said["run"]
        self.records_sha256 = said["records_sha256"]
        builder = tfds.builder_from_directory(self.folder)
        self._features = builder.info.features
        shards = {
            split: list(zip(info.filepaths, info.shard_lengths))
            for split, info in builder.info.splits.items()
        }
        missing = [
            file.name for own in shards.values() for file, _ in own if not file.exists()
        ]
        if missing:
            raise ValueError(
                f"{self.folder} lacks {', '.join(missing)}; build it again"
            )
        # Runs of consecutive examples: where each begins, and in which file.
        self._starts: list[int] = []
        self._places: list[tuple[epath.Path, int]] = []
        self._length = 0
        for split, count in said["runs"]:
            while count:
                file, left = shards[split].pop(0)
                taken = min(count, left)
                whole = builder.info.splits[split]
                first = whole.shard_lengths[whole.filepaths.index(file)] - left
                self._starts.append(self._length)
                self._places.append((file, first))
                self._length += taken
                count -= taken
                if taken < left:
                    shards[split].insert(0, (file, left - taken))
        if self._length != said["records"]:
            raise ValueError(
                f"{self.folder} holds {self._length} examples, "
                f"{said['records']} expected"
            )
        self._readers: dict[epath.Path, Any] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> tuple[Record, bytes]:
        """Returns a record and the content of its file.

        Raises:
          IndexError: beyond the end.
          ValueError: when the shard is damaged, naming it.
        """
        if not 0 <= number < self._length:
            raise IndexError(f"example {number} of {self._length}")
        run = bisect.bisect_right(self._starts, number) - 1
        file, first = self._places[run]
        try:
            example = self._features.deserialize_example_np(
                self._reader(file)[first + number - self._starts[run]],
                decoders={"image": tfds.decode.SkipDecoding()},
            )
        except Exception as e:  # riegeli's errors have many classes and empty messages
            raise ValueError(
                f"{file} is damaged ({type(e).__name__} {e}); build the pack again"
            ) from e
        return record_from_json(json.loads(example["record"])), example["image"]

    def __getstate__(self):
        return self.__dict__ | {"_readers": {}}

    def _reader(self, file: epath.Path):
        if file not in self._readers:
            from array_record.python.array_record_data_source import (
                ArrayRecordDataSource,
            )

            path = fetch(file, mark=self.records_sha256) if _remote(file) else file
            self._readers[file] = ArrayRecordDataSource([os.fspath(path)])
        return self._readers[file]


def _remote(file: epath.Path) -> bool:
    return "://" in os.fspath(file)


def fetch(file: epath.Path, *, mark: str) -> Path:
    """Copies a file to the local disk, once for all processes of a machine.

    Args:
      file: anywhere `etils.epath` reads.
      mark: tells versions of the file apart.
    """
    name = hashlib.sha256(f"{os.fspath(file)} {mark}".encode()).hexdigest()[:32]
    folder = Path(tempfile.gettempdir()) / f"item-jax-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / name
    if not target.exists():
        partial = folder / f"{name}.{os.getpid()}.partial"
        file.copy(partial, overwrite=True)
        os.replace(partial, target)
    return target
