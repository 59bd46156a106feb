"""What a user should know of an index before hours are spent on it, one line each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from item_jax.datasets import benchmarks, labels
from item_jax.records import Record


def unlabelled(records: Iterable[Record], lists: Sequence[str] = ()) -> list[str]:
    """Notes images without a label, and those without a split where others have one.

    Args:
      records: of the data set.
      lists: files beside the images that may hold labels and are not read.
    """
    found = []
    without: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    for record in records:
        splits[record.split] += 1
        if record.label is None:
            without[record.key.rpartition("/")[0] or "."] += 1
    if without:
        most = ", ".join(f"{n} in {name}" for name, n in without.most_common(3))
        found.append(
            f"{labels.count(sum(without.values()))} without a label (no real, fake or "
            f"synonym above): {most}" + (" ..." if len(without) > 3 else "")
        )
        if lists:
            shown = ", ".join(lists[:3]) + (" ..." if len(lists) > 3 else "")
            found.append(
                f"labels in {shown} are not read: sort the images into real/ and "
                "fake/, or write a records.jsonl"
            )
    if len(splits) > 1 and splits[""]:
        others = ", ".join(f"{n} of {s}" for s, n in sorted(splits.items()) if s)
        found.append(f"{labels.count(splits[''])} without a split beside {others}")
    return found


def below_labels(records: Iterable[Record]) -> list[str]:
    """Notes fakes of no generator that lie in folders below their label."""
    below: dict[str | None, set[str]] = {"real": set(), "fake": set()}
    paths: set[str] = set()
    for record in records:
        if record.label is None or record.generator:
            continue
        folders = [f for f in record.key.split("/")[:-1] if not labels.split_of(f)]
        marks = [i for i, f in enumerate(folders) if labels.label_of(f) == record.label]
        if marks and folders[marks[-1] + 1 :]:
            below[record.label].add(folders[marks[-1] + 1])
            if record.label == "fake":
                paths.add("/".join(folders[marks[-1] : marks[-1] + 2]))
    if not below["fake"] - below["real"]:
        return []  # classes, the same of both
    names = sorted(paths)
    shown = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
    generator = "/".join(reversed(names[0].split("/")))
    return [
        f"folders below a label are not read as generators: {shown}. A generator "
        f"stands above the label, as in {generator}"
    ]


def below_splits(records: Iterable[Record]) -> list[str]:
    """Notes folders between a split and a label that lie below a generator.

    In `mine/train/glide/real` either `mine` is a set and `glide` the generator, or
    `glide` is a class.
    """
    inside: dict[str, set[str]] = defaultdict(set)
    for record in records:
        folders = record.key.split("/")[:-1]
        if record.label is None or folders[:1] != [record.generator]:
            continue
        between: list[str] | None = None  # None: no split yet
        for name in folders[1:]:
            if labels.split_of(name):
                between = between or []
            elif labels.label_of(name) == record.label:
                inside[record.generator] |= set((between or [])[:1])
                break
            elif between is not None:
                between.append(name)
    return [
        f"folder {top!r} is taken for one generator; {', '.join(sorted(own)[:4])}"
        f"{' ...' if len(own) > 4 else ''} below its splits are not read. If these are "
        "the generators, point at the folder itself"
        for top, own in sorted(inside.items())
        if len(own) > 1
    ]


def sets_as_generators(records: Iterable[Record]) -> list[str]:
    """Faults for folders that are taken for generators and look like sets of them."""
    known = benchmarks.names()
    generators = {
        name.casefold() for b in known for name in benchmarks.get(b).generators
    }
    inside: dict[str, set[str]] = defaultdict(set)
    for record in records:
        top, _, rest = record.key.partition("/")
        if record.generator and top == record.generator and rest:
            inside[top] |= {f for f in rest.split("/")[:-1]}
    names = {top: _benchmark(top, known) for top in sorted(inside)}
    pairs = ",".join(f"{name or top}={top}" for top, name in names.items())
    lines = []
    for top, name in names.items():
        own = sorted(
            below
            for below in inside[top]
            if below.casefold() in generators and below.casefold() != top.casefold()
        )
        if top.casefold() in generators or not (name or len(own) > 1):
            continue
        why = f"it holds {', '.join(own[:3])}" if own else "it is called like one"
        remedy = "point at the folder itself" + (
            f" with --benchmark {name}" * bool(name)
        )
        if len(names) > 1:
            remedy = f"name each set: --benchmark {pairs}"
        lines.append(
            f"folder {top!r} is taken for one generator and looks like a set of them "
            f"({why}): {remedy}"
        )
    return lines


def _benchmark(folder: str, known: Iterable[str]) -> str:
    """The benchmark that a folder is called like, or ""."""
    word = re.sub(r"[\W_]", "", folder.casefold())
    return next((name for name in known if word.startswith(name)), "")
