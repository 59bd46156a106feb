"""One kind of data set: numbered records, and the bytes of their image files.

    data = open_dataset("run/records.jsonl")         # or a pack, a folder, a module
    data.record(0), data.read(0)

A folder, a file of JSON lines, a pack and the miniature are all a `Dataset`. One from
outside needs no base class: `__len__`, `record` and `read` are enough, and `digest` and
`facts` below work out the rest.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from item_jax import choices, files, images, protocol
from item_jax import records as records_lib
from item_jax.records import Record

NEEDS = ("__len__", "record", "read")
"""What a data set must have; `sha256` and `facts` are optional outside."""


@runtime_checkable
class Dataset(Protocol):
    """Images with what is known of them, by number from 0.

    Two attributes are optional, and read through the functions `facts` and `digest`
    below: `facts`, what is known of all images together, as in `records.run.json`:
    `images` (the folder of the image files, or None), `captioner` and `grounder`
    ({"id", ...}, or None), `real_sources` ({generator: generator whose real images it
    is tested against}), `index` (how the records were found); and `sha256`, the digest
    of all records in order, `item_jax.records.digest`.
    """

    def __len__(self) -> int: ...

    def record(self, number: int) -> Record:
        """Returns a record.

        Raises:
          IndexError: unless 0 <= number < len(self).
        """
        ...

    def read(self, number: int) -> bytes:
        """Returns the content of a record's image file.

        Raises:
          IndexError: unless 0 <= number < len(self).
          ImageError: if the file cannot be read; that image fails, the run goes on.
        """
        ...


class RecordList:
    """A `Dataset` of records in memory.

    Attributes:
      records: as given.
      image_root: the folder the keys are relative to, or None.
      facts: see `Dataset`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        image_root: str | os.PathLike | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        """Joins records and the folder of their image files.

        Args:
          records: in the order they are read.
          image_root: the folder the keys are relative to; by default `facts["images"]`.
          facts: see `Dataset`; what is missing is filled in.

        Raises:
          ValueError: for facts of a wrong type.
        """
        self.records = records
        self.facts = check_facts(facts or {}, "facts")
        if image_root is not None:
            self.facts["images"] = os.fspath(image_root)
        self.image_root = self.facts["images"]

    @functools.cached_property
    def sha256(self) -> str:
        return records_lib.digest(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def record(self, number: int) -> Record:
        return self.records[checked(number, len(self))]

    def read(self, number: int) -> bytes:
        return read_from(self.image_root, self.record(number))


def checked(number: int, count: int) -> int:
    """Returns the number of a record.

    Raises:
      IndexError: unless 0 <= number < count.
    """
    if not 0 <= number < count:
        raise IndexError(f"record {number} of {count}")
    return number


def read_from(image_root: str | os.PathLike | None, record: Record) -> bytes:
    """Returns the content of the image file of a record.

    Raises:
      ImageError: if it cannot be read.
      ValueError: when no folder of images is known.
    """
    if image_root is None:
        raise ValueError(
            "the folder of the images is not known: set --config.data.images=FOLDER"
        )
    return images.read_bytes(image_root, record.key)


def records(dataset: Dataset) -> Iterator[Record]:
    """Yields all records of a data set in order."""
    return (dataset.record(number) for number in range(len(dataset)))


def digest(dataset: Dataset) -> str:
    """Returns a data set's `sha256`; one that has none is read through for it."""
    known = getattr(dataset, "sha256", None)
    return known if known is not None else records_lib.digest(records(dataset))


def facts(dataset: Dataset) -> dict[str, Any]:
    """Returns a data set's `facts`, complete, whatever it has of them.

    Raises:
      ValueError: for a fact of a wrong type.
    """
    return check_facts(
        getattr(dataset, "facts", None) or {}, f"facts of {type(dataset).__name__}"
    )


def real_sources(dataset: Dataset, known: Mapping[str, Any]) -> dict[str, str]:
    """Finds the real images that serve generators without any; see `protocol`.

    What `item-jax index` or a pack has found is not looked for again, since that would
    read the whole data set.

    Args:
      dataset: of the images.
      known: its facts.
    """
    found = known.get("real_sources") or {}
    if known.get("index") is not None:
        return dict(found)
    rows = (vars(record) for record in records(dataset))
    return protocol.complete_real_sources(rows, found)


def check_facts(content: Mapping[str, Any], where: object) -> dict[str, Any]:
    """Checks and completes facts that somebody else may have written.

    Names of version 0.1 are understood: `pairs` for `real_sources`, and captioner and
    grounder as text, which becomes their `id`.

    Args:
      content: such as that of `records.run.json`; fields that are not facts of a
        `Dataset` are ignored.
      where: the file, for the message.

    Returns:
      A new dictionary with all five facts.

    Raises:
      ValueError: naming file and field, for a value of a wrong type.
    """
    content = dict(content)
    if "real_sources" not in content and "pairs" in content:
        content["real_sources"] = content["pairs"]
    optional = {
        "images": (str, type(None)),
        "captioner": (dict, str, type(None)),
        "grounder": (dict, str, type(None)),
        "real_sources": (dict, type(None)),
        "index": (dict, type(None)),
    }
    checked = {
        name: files.field({name: None} | content, name, kinds, where)
        for name, kinds in optional.items()
    }
    for role in ("captioner", "grounder"):
        if isinstance(checked[role], str):
            checked[role] = {"id": checked[role]}
    checked["real_sources"] = dict(checked["real_sources"] or {})
    for generator, source in checked["real_sources"].items():
        if not isinstance(source, str):
            raise ValueError(
                f"{where}: real_sources[{generator!r}] is {source!r}; expected the "
                "name of a generator"
            )
    return checked


def said(known: Mapping[str, Any]) -> list[str]:
    """Returns what was noticed when a data set was opened, one line each.

    Args:
      known: its facts. Those of a `records.jsonl` have no notes: `item-jax index` has
        printed them.
    """
    index = known.get("index") or {}
    if "notes" not in index:
        return []
    faults = [str(fault) for fault in index.get("faults") or []]
    more = len(faults) - MOST_SAID
    lines = [f"fault: {fault}" for fault in faults[:MOST_SAID]]
    lines += [f"fault: ... and {more} more"] if more > 0 else []
    return [
        files.printable(line)
        for line in (*lines, *(f"note: {note}" for note in index["notes"]))
    ]


MOST_SAID = 20


# --------------------------------------------------------------------------- opening


def open_dataset(
    name: str | os.PathLike | Dataset, image_root: str | os.PathLike | None = None
) -> Dataset:
    """Opens a data set of any kind.

    Args:
      name: a `records.jsonl`; the folder of a pack, local or `gs://...`; tar shards of
        WebDataset, or Parquet files, one or a folder of them, at any depth; what
        `save_to_disk` of Hugging Face `datasets` wrote; a folder with `images/` and
        `captions.jsonl` (and `objects.jsonl`); any other folder of images;
        "miniature"; `package.module` or `package.module:name`, a data set or a function
        without arguments that returns one (`dataset` unless named); or a data set,
        which is returned. A folder with images of several kinds is what most of them
        are in, and `said` tells so.
      image_root: the folder the keys of a `records.jsonl` are relative to; by default
        the one in its `records.run.json`.

    Raises:
      ValueError: when there is none, with what would make one; when the folder of its
        images is not known or not there; or for damaged content, naming file and line.
    """
    if not isinstance(name, str | os.PathLike):
        return _complete(name, type(name).__name__)
    text = os.fspath(name)
    module = text == "miniature" or (not _exists(text) and _is_module(text))
    folder = "://" in text or Path(text).is_dir()
    if image_root is not None:
        if module or folder:
            raise ValueError(
                f"{text} brings its own images; --config.data.images="
                f"{os.fspath(image_root)} goes with a records.jsonl only"
            )
        if not Path(image_root).is_dir():
            raise ValueError(
                f"no folder of images {os.fspath(image_root)!r}; set "
                "--config.data.images=FOLDER"
            )
    if module:
        return _from_module(text)
    kind = FILES.get(Path(text).suffix.casefold())
    if kind and not folder:
        return _open_file(Path(text), kind)
    if folder:
        from item_jax.datasets.kinds import open_folder

        return open_folder(text)
    from item_jax.datasets.folder import CONTAINERS

    if Path(text).suffix.casefold() in CONTAINERS and os.path.exists(text):
        raise ValueError(f"{text} is an archive that is not read: unpack it first")
    return _open_lines(text, image_root)


FILES = {".tar": "webdataset", ".parquet": "hugging_face"}


def _exists(text: str) -> bool:
    return "://" in text or os.path.exists(text)


def _is_module(text: str) -> bool:
    """Whether a text that is not a path is a module's, perhaps with `:name`."""
    if text.endswith((".jsonl", ".json", *FILES)):
        return False
    named = all(part.isidentifier() for part in text.replace(":", ".").split("."))
    return named and ("." in text or ":" in text or choices.importable(text))


def _from_module(text: str) -> Dataset:
    from item_jax.datasets import miniature

    known = {"miniature": miniature.dataset}
    found = choices.resolve("data set", text, known, attribute="dataset")
    if isinstance(found, type) or (callable(found) and not hasattr(found, "record")):
        found = found()
    return _complete(found, text)


def _complete(found: Any, name: str) -> Dataset:
    return choices.resolve("data set", found, {}, needs=NEEDS)


def _open_file(path: Path, kind: str) -> Dataset:
    """Opens what other programs wrote: tar shards or Parquet."""
    if kind == "webdataset":
        from item_jax.datasets.webdataset import WebDataset

        return WebDataset(path)
    from item_jax.datasets.hugging_face import HuggingFaceDataset

    return HuggingFaceDataset(path)


def _open_lines(text: str, image_root: str | os.PathLike | None) -> Dataset:
    from item_jax.datasets.jsonl import RecordFile

    found = RecordFile(text, image_root)
    if found.image_root is None:
        raise ValueError(
            f"{text}: the folder of its images is not known: set "
            "--config.data.images=FOLDER"
        )
    if not Path(found.image_root).is_dir():
        raise ValueError(
            f"{text}: no folder of images {found.image_root!r}; set "
            "--config.data.images=FOLDER"
        )
    return found
