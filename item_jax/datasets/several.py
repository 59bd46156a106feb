"""Several sets below one folder, known benchmarks and one's own, as one index.

    found = find_all("DATA", {"forensynths": "ForenSynths", "mine": "photos"})

so that captions and boxes of `DATA` are made once, and one cache holds all columns of a
table.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from item_jax import choices
from item_jax.datasets import benchmarks
from item_jax.datasets.benchmarks import Benchmark
from item_jax.datasets.folder import Index
from item_jax.datasets.layout import is_known, label_own_folder, read_benchmark
from item_jax.records import Record


def find_all(
    root: str | Path,
    folders: Mapping[str, str],
    *,
    generators: Sequence[str] = (),
    split: str = "",
    train_subset: str = "",
) -> Index:
    """Indexes several sets below one folder.

    Args:
      root: the folder the keys are relative to.
      folders: {name: its folder below `root`}. A name of `benchmarks.names()`, or of
        a module that defines one, is read by its table; any other is a name of one's
        own for `folder.label_folders`. No folder may lie inside another.
      generators: see `read_benchmark`, as the following. A benchmark that has none of
        them, or not the split, is left out, and a note says so. One's own sets are
        taken whole.
      split: one split.
      train_subset: of the benchmarks that have it; the others use their own default.

    Raises:
      ValueError: as `read_benchmark` and `folder.label_folders`; for a choice that none
        of the benchmarks knows, or without a known benchmark; for a folder that is not
        below `root` or overlaps another; or for a generator of two sets whose real
        images are of different sources.
    """
    below = {name: _below(name, folder) for name, folder in folders.items()}
    _check_apart(below)
    tables = {name: benchmarks.get(name) for name in folders if is_known(name)}
    _check_choice(tables, folders, generators, split, train_subset)
    records: list[Record] = []
    faults: list[str] = []
    notes: list[str] = []
    real_sources: dict[str, str] = {}
    settings = {}
    for name, top in below.items():
        table = tables.get(name)
        if table is None:
            found = label_own_folder(Path(root) / top, name)
            if generators or split or train_subset:
                found.notes.append("taken whole: a choice is for known benchmarks")
        else:
            own = [g for g in generators if g == "paper" or g in table.generators]
            if (generators and not own) or split not in ("", *table.splits):
                notes.append(f"{name}: left out, it has nothing of what is chosen")
                continue
            known = train_subset in ("all", *table.subsets)
            found = read_benchmark(
                Path(root) / top,
                table,
                generators=own,
                split=split,
                train_subset=train_subset if known else "",
            )
        records += [dataclasses.replace(r, key=f"{top}/{r.key}") for r in found.records]
        faults += [f"{name}: {fault}" for fault in found.faults]
        notes += [f"{name}: {note}" for note in found.notes]
        for generator, source in found.real_sources.items():
            if real_sources.setdefault(generator, source) != source:
                raise ValueError(
                    f"{generator} is tested against {source} in {name} and against "
                    f"{real_sources[generator]} in another of {', '.join(folders)}: "
                    "index them apart"
                )
        settings[name] = {"folder": top, **found.settings}
    return Index(
        sorted(records, key=lambda record: record.key),
        faults,
        notes,
        real_sources,
        {"benchmarks": settings},
    )


def _below(name: str, folder: str) -> str:
    """The folder of a set as a normalised POSIX path below the root."""
    path = PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(
            f"{name}={folder}: expected a folder below --images, such as "
            f"{name}={path.name if path.name not in ('', '..') else 'FOLDER'}"
        )
    return path.as_posix()


def _check_apart(below: Mapping[str, str]) -> None:
    """Refuses folders of which one holds the other: its images would come twice."""
    for (one, outer), (other, inner) in itertools.permutations(below.items(), 2):
        if PurePosixPath(inner).is_relative_to(outer):
            raise ValueError(
                f"{other}={inner} lies inside {one}={outer}: its images would be "
                "indexed twice"
            )


def _check_choice(
    tables: Mapping[str, Benchmark],
    folders: Iterable[str],
    generators: Sequence[str],
    split: str,
    train_subset: str,
) -> None:
    """Refuses a choice that no known benchmark among the sets can follow."""
    splits = {s for table in tables.values() for s in table.splits}
    for kind, chosen, known in (
        ("generator", generators, [g for t in tables.values() for g in t.generators]),
        ("split", [split] if split else [], sorted(splits)),
        (
            "training subset",
            [train_subset] if train_subset else [],
            ["all", *(name for t in tables.values() for name in t.subsets)],
        ),
    ):
        if chosen and not tables:
            raise ValueError(
                f"a {kind} is chosen of a known benchmark, which none of "
                f"{', '.join(folders)} is; they are {', '.join(benchmarks.names())}"
            )
        for name in chosen:
            if (kind, name) != ("generator", "paper"):
                choices.check(f"{kind} of {', '.join(tables)}", name, known)
