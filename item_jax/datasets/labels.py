"""The words for labels and splits: one table for folders, tables and tar shards.

    label_of("1_Fake"), label_of("real_images"), label_of("glide")   # fake, real, None
    split_of("Training"), split_of("valid"), split_of("glide")       # train, val, ""
    label, generator, split = Reader(paths).place("test/sdv14/ai".split("/"))

Case, separators, plurals, numbers and words such as "images" do not matter. A word that
looks like a label or split and is not one of these is reported, never guessed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LABEL_WORDS = {
    "real": (
        *("real", "nature", "natural", "authentic", "original", "genuine", "pristine"),
        *("human", "humanmade", "humangenerated", "humancreated", "camera"),
        *("nonai", "notai", "nonfake", "notfake", "bonafide"),
    ),
    "fake": (
        *("fake", "ai", "generated", "synthetic", "synthesized", "synthesised"),
        *("synth", "artificial", "aigenerated", "aigc", "aimade", "aicreated"),
        *("machinegenerated", "deepfake", "nonreal", "notreal"),
    ),
}
SPLIT_WORDS = {
    "train": ("train", "training", "trn", "trainset"),
    "val": ("val", "valid", "validation", "validate", "valset", "dev", "development"),
    "test": (
        *("test", "testing", "tst", "testset", "eval", "evaluation", "holdout"),
        "heldout",
    ),
}
SPLITS = tuple(SPLIT_WORDS)

# Also names of subjects and generators: labels only where the opposite occurs too.
WEAK = {"nature", "natural", "original", "human", "camera", "pristine", "deepfake"}
# Say nothing of label, split or generator.
FILLERS = {
    *("image", "img", "photo", "picture", "pic", "face", "sample", "set", "data"),
    *("dataset", "split", "partial", "folder", "file", "class", "part", "shard"),
}
NEUTRAL = {"image", "img", "data", "dataset", "default"}
"""Folders called so (or in the plural) are not generators."""

CONVENTION = "0 is read as real and 1 as fake: a convention, since nothing names them"

_LABELS = {word: label for label, words in LABEL_WORDS.items() for word in words}
_SPLITS = {word: split for split, words in SPLIT_WORDS.items() for word in words}
# Parts of a longer name, such as `sdxl_train` or `real_coco`, that make it suspicious.
_TELLING = {
    "label": {w: x for w, x in _LABELS.items() if w not in WEAK},
    "split": {w: x for w, x in _SPLITS.items() if w not in ("dev", "development")},
}


# ------------------------------------------------------------------------------ words


@functools.lru_cache(4096)
def _words(name: str) -> tuple[str, ...]:
    """The words of a name in lower case and the singular, without numbers."""
    text = unicodedata.normalize("NFKC", name)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text)
    words = re.findall(r"[^\W\d_]+", text.casefold())
    return tuple(w[:-1] if len(w) > 3 and w.endswith("s") else w for w in words)


def _meaning(name: str, table: Mapping[str, str]) -> str | None:
    """What a whole name says by a table, or None."""
    words = tuple(word for word in _words(name) if word not in FILLERS)
    joined = "".join(words)
    if joined in table:
        return table[joined]
    meanings = {table.get(word) for word in words}
    return meanings.pop() if len(meanings) == 1 else None


def label_of(name: str) -> str | None:
    """Returns "real" or "fake" where a name is a label, else None; 0 and 1 are not."""
    return _meaning(name, _LABELS)


def split_of(name: str) -> str:
    """Returns "train", "val" or "test" where a name is a split, else ""."""
    return _meaning(name, _SPLITS) or ""


def split_in(name: str) -> str:
    """Returns the split that one word of a file's name tells, else "".

    For files of many images, such as `photos-train-00000-of-00002.parquet`: Hugging
    Face `datasets` looks for splits in this way too.
    """
    found = {_SPLITS[word] for word in _words(name) if word in _SPLITS}
    return found.pop() if len(found) == 1 else ""


def allowed(kind: str, looks: str = "") -> str:
    """Returns the end of a message: the words that are read, and the nearest one.

    Args:
      kind: "label" or "split".
      looks: what the word that was found looks like, see `resembles`; "" if unknown.
    """
    words = ("real", "fake") if kind == "label" else SPLITS
    hint = f" Did you mean {looks!r}?" if looks in words else ""
    return f"allowed: {', '.join(words)} and their synonyms.{hint}"


def count(n: int) -> str:
    """Returns "1 image", "2 images", "1,000 images"."""
    return f"{n:,} image{'' if n == 1 else 's'}"


@functools.lru_cache(4096)
def resembles(name: str, kind: str) -> str:
    """Returns the label or split that a name looks like without being one, or "".

    Args:
      name: of a folder or column value.
      kind: "label" or "split".
    """
    table = _LABELS if kind == "label" else _SPLITS
    if _meaning(name, table):
        return ""
    parts = {_TELLING[kind][w] for w in _words(name) if w in _TELLING[kind]}
    if parts:
        return parts.pop() if len(parts) == 1 else ""
    word = "".join(word for word in _words(name) if word not in FILLERS)
    if len(word) < 4:
        return ""
    for known, meaning in _TELLING[kind].items():
        if len(known) > 3 and (
            sorted(word) == sorted(known)
            or difflib.SequenceMatcher(None, word, known).ratio() >= 0.88
        ):
            return meaning
    return ""


# ------------------------------------------------------------------------------ paths


@dataclasses.dataclass(frozen=True)
class _Place:
    """What the folders above an image say, and what they seem to say."""

    label: str | None
    generator: str
    split: str
    numbered: bool = False
    contradiction: str = ""
    doubts: tuple[tuple[str, str, str], ...] = ()  # kind, name, what it looks like


class Reader:
    """Reads labels, generators and splits off the folders of a data set.

    The folders are looked at together: `0` and `1` are labels only beside each other,
    and a label stands where both labels do (`fake/nature` beside `real/nature` is
    fake).
    """

    def __init__(self, paths: Iterable[Sequence[str]]):
        """Takes the folders above each image, from the top; repetitions are welcome."""
        children: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for path in {tuple(path) for path in paths}:
            for depth, name in enumerate(path):
                children[path[:depth]].add(name)
        labels = {above: {label_of(n) for n in own} for above, own in children.items()}
        self._paired = {a for a, found in labels.items() if {"real", "fake"} <= found}
        self._found = set().union(*labels.values()) if labels else set()
        numbers = {a: set(filter(str.isdecimal, own)) for a, own in children.items()}
        self._numbered = {a for a, own in numbers.items() if own == {"0", "1"}}
        self._lonely = {a for a, own in numbers.items() if own in ({"0"}, {"1"})}
        self._known: dict[tuple[str, ...], _Place] = {}
        self._counts: Counter[tuple[str, ...]] = Counter()

    def place(
        self, folders: Sequence[str], file: str = ""
    ) -> tuple[str | None, str, str]:
        """Returns label, generator and split of an image, and counts it.

        Args:
          folders: above the image, from the top.
          file: name of a file of many images that it is in, which tells a label or
            split and never a generator.
        """
        path = (*folders, file)
        if path not in self._known:
            self._known[path] = self._read(tuple(folders), file)
        self._counts[path] += 1
        own = self._known[path]
        return own.label, own.generator, own.split

    def _read(self, folders: tuple[str, ...], file: str) -> _Place:
        marks = [(i, x) for i, name in enumerate(folders) if (x := self._mark(name))]
        best = [mark for mark in marks if folders[: mark[0]] in self._paired]
        strong = [mark for mark in marks if not self._weak(folders[mark[0]])]
        best = best or strong or marks
        # `fake/real` could be either; `fake_set/real` next to `fake_set/fake` is real.
        best += [mark for mark in strong if mark[0] > best[-1][0]]
        labels = {label for _, label in best}
        contradiction, numbered, label = "", False, None
        end = len(folders)
        if len(labels) > 1:
            names = " and ".join(folders[i] for i, _ in best)
            contradiction = f"{'/'.join(folders)}: {names} contradict each other"
            end = best[0][0]
        elif best:
            end, label = best[-1]
        elif found := [
            i
            for i, name in enumerate(folders)
            if name in ("0", "1") and folders[:i] in self._numbered
        ]:
            end, numbered = found[-1], True
            label = ("real", "fake")[int(folders[end])]
        elif file:
            label = label_of(file)
        splits = [x for name in folders if (x := split_of(name))]
        # Of two splits the later one: better too much held out than trained on.
        split = max(splits, key=SPLITS.index) if splits else split_in(file)
        if splits and split != splits[0]:
            contradiction = (
                f"{'/'.join(folders)}: is below {splits[0]} and {split}, "
                f"and taken for {split}"
            )
        above = [n for n in folders[:end] if not self._says_less(n, label)]
        doubts = tuple(
            (kind, name, looks)
            for kind, known in (("label", label or contradiction), ("split", split))
            for i, name in enumerate(folders)
            if (looks := self._looks(folders[:i], name, kind))
            # Not even inside train/ may images of a test set pass for others.
            and (not known or (known == "train" and looks in ("val", "test")))
        )
        generator = above[0] if above else ""
        return _Place(label, generator, split, numbered, contradiction, doubts)

    def _mark(self, name: str) -> str | None:
        label = label_of(name)
        opposite = {"real": "fake", "fake": "real"}.get(label or "")
        return label if opposite in self._found or not self._weak(name) else None

    def _weak(self, name: str) -> bool:
        return not {w for w in _words(name) if w in _LABELS} - WEAK

    def _says_less(self, name: str, label: str | None) -> bool:
        """Whether a folder above the label names no generator."""
        repeats = label is not None and label_of(name) == label and not self._weak(name)
        return bool(split_of(name)) or _neutral(name) or repeats

    def _looks(self, above: tuple[str, ...], name: str, kind: str) -> str:
        if kind == "split":
            return resembles(name, kind)
        boolean = name.casefold() in ("true", "false") or (
            name in ("0", "1") and above in self._lonely
        )
        return "label" if boolean else label_of(name) or resembles(name, kind)

    def faults(self) -> list[str]:
        """Returns what looks like a label or split and was not read as one."""
        doubts: Counter[tuple[str, ...]] = Counter()
        contradictions: Counter[str] = Counter()
        for path, n in self._counts.items():
            own = self._known[path]
            for kind, name, looks in own.doubts:
                doubts[kind, name, looks, own.generator, own.split] += n
            if own.contradiction:
                contradictions[own.contradiction] += n
        lines = [f"{what} ({count(n)})" for what, n in sorted(contradictions.items())]
        for (kind, name, looks, generator, split), n in sorted(doubts.items()):
            like = f"the {kind} {looks!r}" if looks != kind else f"a {kind}"
            taken = "a generator" if name == generator else f"no {kind}"
            if kind == "split" and split:
                taken = f"part of {split}"
            lines.append(
                f"folder {name!r} ({count(n)}) looks like {like} and is taken for "
                f"{taken}; {allowed(kind, looks)}"
            )
        return lines

    def held_out_doubts(self) -> list[tuple[str, str]]:
        """Returns the folders that look like a test or validation set and are not.

        Each as the split it is read as, "" or "train", and its name.
        """
        found = {
            (self._known[path].split, name)
            for path in self._counts
            for kind, name, looks in self._known[path].doubts
            if kind == "split" and looks in ("val", "test")
        }
        return sorted(found)

    def notes(self) -> list[str]:
        """Returns what was read by convention."""
        n = sum(c for path, c in self._counts.items() if self._known[path].numbered)
        return [f"folders 0 and 1: {CONVENTION} ({count(n)})"] if n else []


def _neutral(name: str) -> bool:
    words = _words(name)
    return name in ("", ".", "..") or (bool(words) and set(words) <= NEUTRAL)


# ----------------------------------------------------------------------------- values


LABEL_COLUMNS = ("label", "labels", "target", "class")
FAKE_COLUMNS = ("is_fake", "fake", "is_ai", "is_generated", "is_synthetic", "ai")
REAL_COLUMNS = ("is_real", "real", "is_human")
SPLIT_COLUMNS = ("split", "splits", "partition", "subset", "set")
COLUMNS = (*FAKE_COLUMNS, *REAL_COLUMNS, *LABEL_COLUMNS)
"""Columns that may hold the label, in the order they are asked."""


def number_of(value: Any) -> int | None:
    """Returns 0 or 1 for a value that is one of them, as number, bool or text."""
    if isinstance(value, str):
        text = value.strip().casefold()
        return {"false": 0, "true": 1, "no": 0, "yes": 1, "0": 0, "1": 1}.get(
            re.sub(r"(?<=^[01])\.0+$", "", text)
        )
    if isinstance(value, int | float) and value in (0, 1):
        return int(value)
    return None


def missing(value: Any) -> bool:
    """Whether a value of a table says nothing: null, NaN, or blank text."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def label_in(column: str, value: Any) -> tuple[str | None, bool]:
    """Reads the label that a value of a column says.

    Args:
      column: one of `COLUMNS`.
      value: not missing.

    Returns:
      "real", "fake" or None when it says neither; and whether 0 and 1 were read by
      convention.
    """
    number = number_of(value)
    if number is not None:
        fake = number == 1
        if column in REAL_COLUMNS:
            return ("real" if fake else "fake"), False
        return ("fake" if fake else "real"), column not in FAKE_COLUMNS
    return (label_of(value) if isinstance(value, str) else None), False


def label_column(values: Mapping[str, Iterable[Any]]) -> str:
    """Chooses the column that holds the labels.

    Args:
      values: {column: some or all of its different values}.

    Returns:
      The first of `COLUMNS` all of whose values are labels; "label" where it is there
      and none is; else "".
    """
    for column in COLUMNS:
        own = [v for v in values.get(column, ()) if not missing(v)]
        if own and all(label_in(column, v)[0] for v in own):
            return column
    return "label" if "label" in values else ""
