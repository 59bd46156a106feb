"""Folders of images -> records.

The folders above an image tell its label, generator and split, by the words of
`item_jax.datasets.labels`, in any order of label and split:

    [split/][generator/][class/]{0_real,1_fake}/image.png      ForenSynths and its kin
    [generator/][split/]{nature,ai}/image.png                  GenImage
    {real,fake}/[split/]image.jpg                              your own

The benchmark families, whose trees do not all follow this, are in
`item_jax.datasets.benchmarks`.
"""

from __future__ import annotations

import dataclasses
import errno
import glob
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from item_jax import join, protocol
from item_jax.datasets import labels, remarks
from item_jax.datasets.dataset import RecordList
from item_jax.files import printable
from item_jax.records import Record, normalise_key

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
CONTAINERS = (".tar", ".parquet", ".zip", ".tgz", ".gz", ".7z", ".rar")
"""Suffixes of files that may hold images; of these tar and Parquet are read."""
LISTS = (".csv", ".tsv", ".jsonl", ".xlsx")
"""Suffixes of files that may hold labels of images; none of them is read."""

COMPANION = "hidden or of the system"
COMPANIONS = {
    *("__macosx", "icon\r"),  # macOS
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler"),  # Windows
    *("system volume information", "thumbs.db:encryptable"),
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("lost+found", "__pycache__"),
}
"""What systems, network disks and programs put beside files, in lower case; names that
begin with a dot (`._a.png`, `.DS_Store`, `.Trashes`, `.ipynb_checkpoints`) are too."""


# ------------------------------------------------------------------------------ files


@dataclasses.dataclass(frozen=True)
class Tree:
    """The image files below a folder.

    Attributes:
      sizes: bytes of each by key, sorted by key; -1 for a broken link.
      others: how many files of each other suffix were skipped.
      faults: what is wrong with a file or folder, by its path.
      containers: {suffix of `CONTAINERS`: paths below the folder, sorted}.
      lists: paths of files with a suffix of `LISTS`, sorted.
    """

    sizes: dict[str, int]
    others: dict[str, int]
    faults: dict[str, str]
    containers: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    lists: list[str] = dataclasses.field(default_factory=list)


def is_companion(name: str) -> bool:
    """Whether a file or folder of this name was put there by a system."""
    return name.startswith(".") or name.casefold() in COMPANIONS


def tree(root: str | Path) -> Tree:
    """Finds the image files below a folder; links are followed.

    A file counts as an image by the end of its name, in any case: `a.b.PNG` does, a
    name without a suffix does not. What `is_companion` finds is
    skipped. A broken link or a loop of links is a fault; when its name is an image's,
    it is listed too, so that it becomes a failure row.

    Args:
      root: the folder the keys are relative to.

    Raises:
      ValueError: when there is no such folder.
    """
    if not Path(root).is_dir():
        place = os.fspath(root)
        raise ValueError(
            f"no folder {place!r}"
            + (f" ({os.path.abspath(place)})" if not os.path.isabs(place) else "")
            + ". Images are expected below it, in folders that tell label, generator "
            "and split, such as real/ and fake/, or train/sdv14/real/ and "
            "train/sdv14/fake/; or the tree of a known benchmark"
        )
    walk = _Walk()
    # A stack and not recursion: folders can be nested deeper than Python's limit.
    waiting: list[tuple[str, str, tuple]] = [(os.fspath(root), "", ())]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            status = os.stat(folder)
            here = (status.st_dev, status.st_ino)
            if here in above:
                walk.faults[prefix] = "a link back to a folder above it"
                continue
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as e:
            walk.faults[prefix or os.fspath(root)] = f"cannot be read: {e.strerror}"
            continue
        for entry in found:
            if is_companion(entry.name):
                walk.others[COMPANION] += 1
            elif _is_folder(entry):
                waiting.append((entry.path, f"{prefix}{entry.name}/", (*above, here)))
            else:
                walk.add(entry, prefix + entry.name)
    return Tree(
        dict(sorted(walk.sizes.items())),
        dict(walk.others),
        walk.faults,
        {suffix: sorted(paths) for suffix, paths in walk.containers.items()},
        sorted(walk.lists),
    )


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, which `_Walk.add` reports
        return False


class _Walk:
    """What `tree` has found so far."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.others: Counter[str] = Counter()
        self.faults: dict[str, str] = {}
        self.containers: dict[str, list[str]] = defaultdict(list)
        self.lists: list[str] = []
        self._names: dict[str, str] = {}  # key -> name on disk

    def add(self, entry: os.DirEntry, name: str) -> None:
        """Adds a file; `name` is its path below the root, as on disk."""
        size, fault = _size(entry)
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in SUFFIXES:
            self.others[suffix or "no suffix"] += 1
            if suffix in LISTS:
                self.lists.append(name)
            if suffix in CONTAINERS:
                self.containers[suffix].append(name)
            if fault:  # it could have been a folder of images
                self.faults[name] = fault
            return
        try:
            key = normalise_key(name)
            key.encode()
        except UnicodeEncodeError:
            self.faults[ascii(name)] = "the name is not UTF-8; the file is left out"
            return
        if key != unicodedata.normalize("NFC", name.replace(os.sep, "/")):
            self.faults[name] = (
                "the name has a backslash or begins like a drive, so that no key finds "
                "it; the file is left out: rename it"
            )
            return
        if key in self._names:
            one, other = ascii(self._names[key]), ascii(name)
            self.faults[key] = (
                f"{one} and {other} are the same name in Unicode's composed form "
                f"(NFC), and only one of them is read; rename one"
            )
            if name != key:  # the composed one is what a key finds
                return
        self._names[key] = name
        self.sizes[key] = size
        if fault:
            self.faults.setdefault(key, fault)


def _size(entry: os.DirEntry) -> tuple[int, str]:
    """Bytes of a file, and what is wrong with it."""
    try:
        size = entry.stat().st_size
    except OSError as e:
        loop = e.errno == errno.ELOOP
        return -1, "a loop of symbolic links" if loop else "a link to nothing"
    return size, "" if size else "the file is empty (0 bytes)"


def skipped(found: Tree) -> list[str]:
    """Returns the note on files that are not images, if there are any."""
    kinds = ", ".join(
        f"{n} {printable(suffix)}" for suffix, n in sorted(found.others.items())
    )
    return [f"skipped, not images by their names: {kinds}"] if kinds else []


def nothing(root: str | Path, found: Tree) -> str:
    """Returns the message for a folder without an image."""
    text = (
        f"no image below {os.fspath(root)!r}; suffixes looked for: "
        f"{', '.join(SUFFIXES)}"
    )
    inside = [f"{len(paths)} {suffix}" for suffix, paths in found.containers.items()]
    if inside:
        text += f". There are {', '.join(inside)}: unpack them first"
    return text


def image_files(words: Sequence[str | os.PathLike]) -> list[Path]:
    """Returns the image files that a person names: files, folders, glob patterns.

    Args:
      words: a file is taken whatever its name ends in; of a folder, and of what a
        pattern such as `photos/**/*.jpg` finds, what `tree` finds in it. `~` is home.

    Returns:
      Absolute paths, without repetition, in the order of the words.

    Raises:
      ValueError: naming what does not exist, or holds no image.
    """
    found: dict[Path, None] = {}
    missing = []
    for word in words:
        path = Path(word).expanduser()
        if path.is_dir():
            inside = [path / key for key in tree(path).sizes]
        elif os.path.lexists(path):
            inside = [path]
        else:
            matches = sorted(map(Path, glob.glob(str(path), recursive=True)))
            inside = [
                p for p in matches if p.is_file() and p.suffix.lower() in SUFFIXES
            ]
            if matches and not inside:
                inside = [p / k for p in matches if p.is_dir() for k in tree(p).sizes]
        if not inside:
            missing.append(os.fspath(word))
        found |= dict.fromkeys(Path(os.path.abspath(p)) for p in inside)
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"no image at {', '.join(map(repr, missing[:5]))}{more}: neither a file "
            f"nor a folder or pattern with images in it ({', '.join(SUFFIXES)})"
        )
    return list(found)


# ------------------------------------------------------------------------------ index


@dataclasses.dataclass(frozen=True)
class Index:
    """Records found in a folder, and what a user should know before hours are spent.

    Attributes:
      records: sorted by key.
      faults: what is missing, short, odd or empty, one line each, by name.
      notes: what was left aside, one line each.
      real_sources: {generator: generator whose real images it is tested against},
        where it has none of its own: `{"ldm_200": "laion"}`; "" stands for images
        below no generator's folder.
      settings: what was read and how, for `records.run.json`.
      held_out_doubts: folders that look like a test or validation set and are not read
        as one, after the split they are read as; see `labels.Reader`.
    """

    records: list[Record]
    faults: list[str]
    notes: list[str]
    real_sources: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    held_out_doubts: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def text(self, *, most: int = 20) -> str:
        """Returns the counts, at most `most` faults, and the notes, for people."""
        places = Counter(
            (r.benchmark, r.split or "-", r.generator, r.label or "no label")
            for r in self.records
        )
        several = len({benchmark for benchmark, *_ in places}) > 1
        shown = {
            (b, g): printable(f"{b}/{g}" if several else g or "-")
            for b, _, g, _ in places
        }
        width = max(map(len, shown.values()), default=0) + 2
        lines = []
        for (benchmark, split, generator, label), count in sorted(places.items()):
            name = shown[benchmark, generator]
            line = f"{count:8,} {label:<9} {name:<{width}}{split}"
            own = (benchmark, split, generator, "real") in places
            if label == "fake" and not own and generator in self.real_sources:
                source = self.real_sources[generator]
                real = places[benchmark, split, source, "real"]
                line += ", against the " + (
                    f"real images of {printable(source)}"
                    if source
                    else f"{real:,} shared real image{'s' if real != 1 else ''}"
                )
            lines.append(line)
        lines += [f"fault: {printable(fault)}" for fault in self.faults[:most]]
        if len(self.faults) > most:
            lines.append(f"fault: ... and {len(self.faults) - most} more")
        lines += [f"note: {printable(note)}" for note in self.notes]
        return "\n".join(lines)


def label_folders(
    root: str | Path, *, benchmark: str = "", found: Tree | None = None
) -> Index:
    """Indexes a folder whose folders tell label, generator and split.

    The words for labels and splits are those of `labels`; the first other folder above
    the label is the generator. An image that is in no label folder has no label. A lone
    folder of real images serves the generators that have none,
    `protocol.complete_real_sources`.

    Args:
      root: the folder the keys are relative to.
      benchmark: written into every record.
      found: `tree(root)`, where it is known.

    Returns:
      The index. A folder that looks like a label or split and is not read as one is a
      fault, and so is one that looks like a set of several generators.

    Raises:
      ValueError: when there is no such folder, or no image in it.
    """
    found = tree(root) if found is None else found
    if not found.sizes:
        raise ValueError(nothing(root, found))
    folders = [tuple(key.split("/")[:-1]) for key in found.sizes]
    reader = labels.Reader(folders)
    records = []
    for key, above in zip(found.sizes, folders):
        label, generator, split = reader.place(above)
        records.append(Record(key, label, benchmark, generator, split))
    return Index(
        records,
        [f"{path}: {what}" for path, what in sorted(found.faults.items())]
        + reader.faults()
        + remarks.sets_as_generators(records),
        skipped(found)
        + reader.notes()
        + remarks.unlabelled(records, found.lists)
        + remarks.below_labels(records)
        + remarks.below_splits(records),
        protocol.complete_real_sources([vars(record) for record in records]),
        {"benchmark": benchmark},
        reader.held_out_doubts(),
    )


# ---------------------------------------------------------------------------- dataset


class FolderDataset(RecordList):
    """A `Dataset` of a folder of images, joined with its sidecar files.

    Attributes:
      records, image_root, facts, sha256: as of `RecordList`; `facts` is what
        `item-jax index` writes as `records.run.json`.
      index: what was found in the folder.
      report: what the join found.
    """

    def __init__(
        self,
        root: str | Path,
        captions: str | Path | None = None,
        objects: str | Path | None = None,
        *,
        index: Index | None = None,
        threshold: float | None = None,
    ):
        """Indexes a folder and joins its sidecar files.

        Args:
          root: the folder of the images.
          captions: path of `captions.jsonl`, or None.
          objects: path of `objects.jsonl`, or None.
          index: of `root`, such as `layout.find` returns; by default `label_folders`.
          threshold: for the report, see `join.join`.

        Raises:
          ValueError: if the folder has no images, a sidecar file is damaged, or
            captions and objects come from differently perturbed pixels.
        """
        self.index = label_folders(root) if index is None else index
        captioner = join.sidecar_facts(captions, "captioner")
        grounder = join.sidecar_facts(objects, "grounder")
        join.check_perturbations(captioner, grounder)
        records, self.report = join.join(
            self.index.records,
            captions=captions,
            objects=objects,
            threshold=threshold,
        )
        facts = {
            "images": str(Path(root).resolve()),
            "captioner": captioner,
            "grounder": grounder,
            "real_sources": self.index.real_sources,
            "index": self.index.settings
            | {"faults": self.index.faults, "notes": self.index.notes},
        }
        super().__init__(records, facts=facts)
