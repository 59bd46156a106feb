"""Several benchmarks below one folder, as one index.

    found = find_all("DATA", {"forensynths": "ForenSynths", "unifd": "UniFD"})

so that captions and boxes of `DATA` are made once, and one cache holds all columns of a
table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from item_jax import choices
from item_jax.datasets import benchmarks
from item_jax.datasets.benchmarks import Benchmark
from item_jax.datasets.folder import Index
from item_jax.datasets.layout import read_benchmark
from item_jax.records import Record


def find_all(
    root: str | Path,
    folders: Mapping[str, str],
    *,
    generators: Sequence[str] = (),
    split: str = "",
    train_subset: str = "",
) -> Index:
    """Indexes several known benchmarks below one folder.

    Args:
      root: the folder the keys are relative to.
      folders: {benchmark: its folder below `root`}.
      generators: see `read_benchmark`, as the following. A benchmark that has none of
        them, or not the split, is left out, and a note says so.
      split: one split.
      train_subset: of the benchmarks that have it; the others use their own default.

    Raises:
      ValueError: as `read_benchmark`; for a choice that none of the benchmarks knows;
        or for a generator of two of them whose real images are of different sources.
    """
    tables = {name: benchmarks.get(name) for name in folders}
    for kind, chosen, known in (
        ("generator", generators, [g for t in tables.values() for g in t.generators]),
        ("split", [split], ["", *(s for t in tables.values() for s in t.splits)]),
        ("training subset", [train_subset], ["", "all", *_subsets(tables.values())]),
    ):
        for name in chosen:
            if (kind, name) != ("generator", "paper"):
                choices.check(f"{kind} of {', '.join(tables)}", name, known)
    records: list[Record] = []
    faults: list[str] = []
    notes: list[str] = []
    real_sources: dict[str, str] = {}
    settings = {}
    for name, table in tables.items():
        own = [g for g in generators if g == "paper" or g in table.generators]
        if (generators and not own) or split not in ("", *table.splits):
            notes.append(f"{name}: left out, it has nothing of what is chosen")
            continue
        subset = train_subset if train_subset in ("all", *table.subsets) else ""
        found = read_benchmark(
            Path(root) / folders[name],
            table,
            generators=own,
            split=split,
            train_subset=subset,
        )
        top = folders[name].strip("/")
        records += [dataclasses.replace(r, key=f"{top}/{r.key}") for r in found.records]
        faults += [f"{name}: {fault}" for fault in found.faults]
        notes += [f"{name}: {note}" for note in found.notes]
        for generator, source in found.real_sources.items():
            if real_sources.setdefault(generator, source) != source:
                raise ValueError(
                    f"{generator} is tested against {source} in {name} and against "
                    f"{real_sources[generator]} in another of {', '.join(tables)}: "
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


def _subsets(tables: Iterable[Benchmark]) -> list[str]:
    return [name for table in tables for name in table.subsets]
