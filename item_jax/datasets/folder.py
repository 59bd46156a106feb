"""Folders of images -> records.

The label of an image is the name of a folder above it, and the folders above that
name its generator and split:

    [split/][generator/][class/]{0_real,1_fake}/image.png      ForenSynths and its kin
    [generator/]{nature,ai}/image.png                          GenImage
    {real,fake}/image.jpg                                      your own

The four benchmark families, whose trees do not all follow this, are in
`item_jax.datasets.benchmarks`.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from item_jax.records import Record, normalise_key

# Never alphabetical: "ai" sorts before "nature" and would make fakes real.
LABEL_FOLDERS = {
    "0_real": "real",
    "real": "real",
    "nature": "real",
    "1_fake": "fake",
    "fake": "fake",
    "ai": "fake",
}
SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


@dataclasses.dataclass(frozen=True)
class Tree:
    """The image files below a folder.

    Attributes:
      sizes: bytes of each by key, sorted by key; -1 for a link to nothing.
      others: how many files of each other suffix were passed over.
      faults: what is wrong with a file or folder, by its path.
    """

    sizes: dict[str, int]
    others: dict[str, int]
    faults: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Index:
    """Records found in a folder, and what a user should know before hours are spent.

    Attributes:
      records: sorted by key.
      faults: what is missing, short, odd or empty, one line each, by name.
      notes: what was left aside, one line each.
      pairs: the generator, or source, that lends its real images to a generator which
        has none of its own: `{"ldm_200": "laion"}`.
      settings: what was read and how, for `records.run.json`.
    """

    records: list[Record]
    faults: list[str]
    notes: list[str]
    pairs: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def text(self, *, most: int = 20) -> str:
        """Returns the counts, at most `most` faults, and the notes, for people."""
        places = Counter(
            (r.split or "-", r.generator or "-", r.label or "no label")
            for r in self.records
        )
        width = max(len(generator) for _, generator, _ in places) + 2
        lines = []
        for (split, generator, label), count in sorted(places.items()):
            line = f"{count:8,} {label:<9} {generator:<{width}}{split}"
            if label == "fake" and generator in self.pairs:
                line += f", against the real images of {self.pairs[generator]}"
            lines.append(line)
        lines += [f"fault: {fault}" for fault in self.faults[:most]]
        if len(self.faults) > most:
            lines.append(f"fault: ... and {len(self.faults) - most} more")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def tree(root: str | Path) -> Tree:
    """Finds the image files below a folder; links are followed.

    A file counts as an image by the end of its name, in any case: `a.b.PNG` does, a
    name without a suffix does not. Names that begin with a dot, and `__MACOSX`, are
    passed over.

    Args:
      root: the folder the keys are relative to.

    Raises:
      ValueError: when there is no such folder.
    """
    if not Path(root).is_dir():
        raise ValueError(f"no folder {root}")
    sizes: dict[str, int] = {}
    others: Counter[str] = Counter()
    faults: dict[str, str] = {}

    def visit(folder: str, prefix: str, above: tuple) -> None:
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in above:
                faults[prefix] = "a link back to a folder above it"
                return
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError as e:
            faults[prefix or str(root)] = f"cannot be read: {e.strerror}"
            return
        for entry in found:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                others["hidden"] += 1
            elif entry.is_dir():
                visit(entry.path, f"{prefix}{entry.name}/", (*above, here))
            else:
                add(entry, prefix + entry.name)

    def add(entry: os.DirEntry, name: str) -> None:
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in SUFFIXES:
            others[suffix or "no suffix"] += 1
            return
        try:
            key = normalise_key(name)
            key.encode()
        except UnicodeEncodeError:
            faults[ascii(name)] = "the name is not UTF-8; the file is left out"
            return
        try:
            sizes[key] = entry.stat().st_size
        except OSError:
            sizes[key] = -1
            faults[key] = "a link to nothing"
        if sizes[key] == 0:
            faults[key] = "the file is empty (0 bytes)"

    visit(os.fspath(root), "", ())
    return Tree(dict(sorted(sizes.items())), dict(others), faults)


def index(root: str | Path, *, benchmark: str = "") -> Index:
    """Reads a folder whose folders tell label, generator and split.

    A folder of `SPLITS` gives the split, the first other folder above the label the
    generator. An image that is in no label folder has no label.

    Args:
      root: the folder the keys are relative to.
      benchmark: written into every record.

    Raises:
      ValueError: when there is no such folder, or no image in it.
    """
    found = tree(root)
    if not found.sizes:
        raise ValueError(f"no image below {root}; suffixes looked for: {SUFFIXES}")
    records = []
    for key in found.sizes:
        label, generator, split = _place(key.split("/")[:-1])
        records.append(Record(key, label, benchmark, generator, split))
    notes = passed_over(found)
    without = sum(record.label is None for record in records)
    if without:
        notes.append(
            f"{without} images have no label: none of the folders above them is "
            f"{', '.join(LABEL_FOLDERS)}"
        )
    faults = [f"{path}: {what}" for path, what in sorted(found.faults.items())]
    return Index(records, faults, notes, settings={"benchmark": benchmark})


def records(root: str | Path, *, benchmark: str = "") -> Iterator[Record]:
    """Yields the records of `index` one by one."""
    yield from index(root, benchmark=benchmark).records


def passed_over(found: Tree) -> list[str]:
    """Returns the note on files that are no images, if there are any."""
    kinds = ", ".join(f"{n} {suffix}" for suffix, n in sorted(found.others.items()))
    return [f"passed over, not images by their names: {kinds}"] if kinds else []


def _place(folders: list[str]) -> tuple[str | None, str, str]:
    marks = [i for i, name in enumerate(folders) if name in LABEL_FOLDERS]
    label = LABEL_FOLDERS[folders[marks[-1]]] if marks else None
    above = folders[: marks[-1]] if marks else folders
    split = next((name for name in above if name in SPLITS), "")
    generator = next((name for name in above if name not in SPLITS), "")
    return label, generator, split
