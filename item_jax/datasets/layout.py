"""Reads a folder of images as one of the known benchmarks, or as one's own.

    found = find("data/CNN_synth_testset", "forensynths")
    print(found.text())

What is missing, short, odd or empty is said by name, before hours are spent on it.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from item_jax.config import nearest
from item_jax.datasets import folder as folders
from item_jax.datasets.benchmarks import NAMES, SUBSETS, Benchmark, Place, Subset, get
from item_jax.datasets.folder import Index
from item_jax.records import Record


def find(root: str | Path, benchmark: str, **choice) -> Index:
    """Indexes a family by its table when `benchmark` names one, else an own folder.

    Args:
      root: where the images are.
      benchmark: one of `NAMES` in any case, or a name of one's own.
      **choice: `generators`, `split` and `train_subset` of `index`.

    Raises:
      ValueError: as `index` and `folder.index`; and for a choice in an own folder.
    """
    if benchmark.casefold() in NAMES:
        return index(root, benchmark.casefold(), **choice)
    given = [name for name, value in choice.items() if value]
    if given:
        raise ValueError(
            f"{given[0]} needs a known benchmark, not {benchmark!r}; "
            f"{nearest(benchmark, NAMES)}"
        )
    found = folders.index(root, benchmark=benchmark)
    close = difflib.get_close_matches(benchmark.casefold(), NAMES, n=1, cutoff=0.7)
    if close:
        found.notes.append(
            f"{benchmark!r} is read as a name of your own: nothing is checked. Did you "
            f"mean {close[0]!r}?"
        )
    return found


def index(
    root: str | Path,
    name: str,
    *,
    generators: Sequence[str] = (),
    split: str = "",
    train_subset: str = "",
) -> Index:
    """Finds the images of a family below a folder and checks them against its table.

    Args:
      root: the top of the family's tree, or one of its `tops`; keys are relative to it.
      name: one of `NAMES`.
      generators: only these and the real images they are tested against; () is all,
        ("paper",) the columns of ITEM's tables.
      split: only this one; "" is all.
      train_subset: a name of `SUBSETS` or "all"; "" is "progan-20x2000" for ForenSynths
        and "all" for the others.

    Raises:
      ValueError: for an unknown name, or when `root` holds nothing of the family.
    """
    table = get(name)
    if not train_subset:
        train_subset = "progan-20x2000" if name == "forensynths" else "all"
    subset = _subset(name, train_subset)
    wanted = _wanted(table, name, generators, split, subset)
    tree = folders.tree(root)
    top, place_of = _match(table, tree.sizes, root, name)
    records, outside = [], Counter()
    found: dict[Place, list[str]] = defaultdict(list)
    for key in tree.sizes:
        place = place_of(key)
        if place is None:
            outside[key.split("/")[0] if "/" in key else "."] += 1
        elif place in wanted:
            found[place].append(key)
    below = [p for p in wanted if _below(p, top)]
    faults = _missing(below, found) + _miscounted(table, below, found)
    if subset is not None:
        found, short = _choose(found, subset)
        faults += short
    for place, keys in found.items():
        records += [
            Record(key, place.label, name, place.generator, place.split) for key in keys
        ]
    if not records:
        raise ValueError(
            f"nothing of {name} below {root} is of split {split or 'any'!r}, "
            f"generators {list(generators) or 'all'}"
        )
    left_aside = tree.sizes.keys() - {record.key for record in records}
    faults += [
        f"{path}: {what}"
        for path, what in sorted(tree.faults.items())
        if path not in left_aside
    ]
    notes = folders.passed_over(tree)
    absent = {p.part for p in below} - {p.part for p in found}
    if absent:
        notes.append(f"not here at all: {', '.join(sorted(absent))}")
    if outside:
        where = ", ".join(f"{n} below {folder}" for folder, n in outside.most_common(5))
        notes.append(f"images outside the folders of {name}: {where}")
    used = {place.generator for place in found}
    pairs = {g: source for g, source in table.pairs.items() if g in used}
    settings = {
        "benchmark": name,
        "generators": list(generators),
        "split": split,
        "train_subset": train_subset,
    }
    records.sort(key=lambda record: record.key)
    return Index(records, faults, notes, pairs, settings)


def _subset(name: str, train_subset: str) -> Subset | None:
    known = [n for n, s in SUBSETS.items() if s.benchmark == name]
    if train_subset not in ("all", *known):
        raise ValueError(
            f"unknown training subset {train_subset!r} of {name}; "
            f"{nearest(train_subset, ['all', *known])}"
        )
    return SUBSETS.get(train_subset)


def _wanted(table, name, generators, split, subset) -> dict[Place, None]:
    """The places that are asked for, in the order of the table."""
    if tuple(generators) == ("paper",):
        generators = table.paper
    for generator in generators:
        if generator not in table.generators:
            raise ValueError(
                f"{name} has no generator {generator!r}; "
                f"{nearest(generator, table.generators)}"
            )
    splits = list(dict.fromkeys(p.split for p in table.places))
    if split and split not in splits:
        raise ValueError(f"{name} has no split {split!r}; {nearest(split, splits)}")
    names = set(generators) | {table.pairs.get(g, g) for g in generators}

    def keep(place: Place) -> bool:
        if split and place.split != split:
            return False
        if place.split == "train" and subset is not None:
            inside = not subset.classes or _class(place) in subset.classes
            return place.generator == subset.generator and inside
        return not names or place.generator in names

    return {place: None for place in table.places if keep(place)}


def _class(place: Place) -> str:
    return place.folder.split("/")[-2]


def _below(place: Place, top: str) -> bool:
    parts, above = place.folder.split("/"), top.split("/") if top else []
    return len(parts) > len(above) and all(a in ("*", p) for a, p in zip(above, parts))


def _match(table: Benchmark, keys: Iterable[str], root: str | Path, name: str):
    """Finds out which of `tops` the root is: the one most of whose folders are there.

    Returns:
      That top, and a function from a key to its place, or None.
    """

    def parts_of(folder: str) -> list[str]:
        parts = [p.casefold() for p in folder.split("/")]
        return [table.aliases.get(p, p) for p in parts]

    present = {key.rpartition("/")[0] for key in keys}
    choices: list[tuple[int, str, dict]] = []
    for top in table.tops:
        depth = len(top.split("/")) if top else 0
        places = {
            tuple(parts_of(place.folder)[depth:]): place
            for place in table.places
            if _below(place, top)
        }
        where = {folder: _longest(parts_of(folder), places) for folder in present}
        hits = {place.folder for place in where.values() if place is not None}
        choices.append((len(hits), top, where))
    most = max(hits for hits, *_ in choices)
    if not most:
        sample = [p.folder for p in table.places[:: max(1, len(table.places) // 3)]]
        seen = sorted({f.split("/")[0] for f in present if f})[:8]
        raise ValueError(
            f"nothing of {name} below {root}: looked for folders such as "
            f"{', '.join(sample[:3])}; there are images in "
            f"{', '.join(seen) or 'no folder of it'}"
        )
    best = [choice for choice in choices if choice[0] == most]
    if len(best) > 1:  # the root's own path decides
        own = f"/{Path(root).resolve().as_posix().casefold()}"
        named = [c for c in best if own.endswith(f"/{c[1].casefold()}")]
        if len(named) != 1:
            tops = ", ".join(top or "the whole" for _, top, _ in best)
            raise ValueError(
                f"{root} could be any of these folders of {name}: {tops}. Point at "
                "the folder above it"
            )
        best = named
    _, top, where = best[0]
    return top, lambda key: where[key.rpartition("/")[0]]


def _longest(parts: list[str], places: dict) -> Place | None:
    """The place that a folder is, or is below of."""
    for end in range(len(parts), 0, -1):
        if tuple(parts[:end]) in places:
            return places[tuple(parts[:end])]
    return None


def _missing(places, found) -> list[str]:
    here = {place.part for place in found}
    faults = []
    groups = defaultdict(list)
    for place in places:
        if place.part in here and place not in found and not place.optional:
            groups[place.split, place.generator].append(place.folder)
    for (split, generator), missing in groups.items():
        some = ", ".join(missing[:4])
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        faults.append(f"{generator} ({split}): missing or empty: {some}{more}")
    return faults


def _miscounted(table: Benchmark, places, found) -> list[str]:
    faults = []
    for (split, generator, label), expected in table.counts.items():
        own = [
            p
            for p in places
            if (p.split, p.generator, p.label) == (split, generator, label)
        ]
        counts = {p: len(found[p]) for p in own if p in found}
        count = sum(counts.values())
        if not counts or count == expected:
            continue
        usual = Counter(counts.values()).most_common(1)[0][0]
        odd = [f"{p.folder} {n:,}" for p, n in counts.items() if n != usual]
        detail = f" ({', '.join(odd[:4])}; others {usual:,})" if odd else ""
        what = "short" if count < expected else "too many"
        faults.append(
            f"{generator} ({split}): {what}: {count:,} {label} images, {expected:,} "
            f"expected{detail}"
        )
    return faults


def _choose(found, subset: Subset):
    """Takes the first `each` of every training folder by the hash of the path.

    The path is counted from the label's folder in the table, not from the root that
    the user happened to point at.
    """
    chosen, faults = {}, []
    for place, keys in found.items():
        if place.split != "train":
            chosen[place] = keys
            continue

        def rank(key, place=place):
            path = f"{place.folder}/{key.rpartition('/')[2]}"
            return hashlib.sha256(path.encode()).digest()

        chosen[place] = sorted(sorted(keys, key=rank)[: subset.each])
        if len(keys) < subset.each:
            faults.append(
                f"{place.generator} (train): short: {len(keys):,} images in "
                f"{place.folder}, {subset.each:,} wanted of each"
            )
    return chosen, faults
