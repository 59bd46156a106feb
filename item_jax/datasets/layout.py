"""Reads a folder of images as one of the known benchmarks, or as one's own.

    found = find("data/CNN_synth_testset", "forensynths")
    print(found.text())

What is missing, short, odd or empty is named before hours are spent on it.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from item_jax import choices
from item_jax.datasets import benchmarks, folder
from item_jax.datasets.benchmarks import Benchmark, Place, Subset
from item_jax.datasets.folder import Index
from item_jax.records import Record


def find(
    root: str | Path,
    benchmark: str,
    *,
    generators: Sequence[str] = (),
    split: str = "",
    train_subset: str = "",
) -> Index:
    """Indexes a benchmark by its table when `benchmark` names one, else an own folder.

    Args:
      root: where the images are.
      benchmark: a name of `benchmarks.names()` in any case, `package.module` or
        `package.module:name` of a benchmark from outside, or a name of one's own for
        `folder.label_folders`.
      generators: see `read_benchmark`, as the following.
      split: one split.
      train_subset: a training set.

    Raises:
      ValueError: as `read_benchmark` and `folder.label_folders`; and for a choice of
        generators, split or subset in an own folder.
    """
    if is_known(benchmark):
        return read_benchmark(
            root,
            benchmarks.get(benchmark),
            generators=generators,
            split=split,
            train_subset=train_subset,
        )
    choice = {
        "generators": generators,
        "split": split,
        "train_subset": train_subset,
    }
    given = [name for name, value in choice.items() if value]
    if given:
        raise ValueError(
            f"{given[0]} needs a known benchmark, not {benchmark!r}; "
            f"{choices.nearest(benchmark, benchmarks.names())}"
        )
    return label_own_folder(root, benchmark)


def label_own_folder(root: str | Path, name: str) -> Index:
    """Indexes a folder of one's own; a note says so if `name` resembles a benchmark's.

    Args:
      root: the folder the keys are relative to.
      name: written into every record as its benchmark; "" for none.

    Raises:
      ValueError: as `folder.label_folders`.
    """
    found = folder.label_folders(root, benchmark=name)
    close = difflib.get_close_matches(
        name.casefold(), benchmarks.names(), n=1, cutoff=0.7
    )
    if close:
        found.notes.append(
            f"{name!r} is read as a name of your own: nothing is checked. Did you "
            f"mean {close[0]!r}?"
        )
    return found


def is_known(benchmark: str) -> bool:
    """Returns whether a name is that of a table, ours or an importable module's."""
    if benchmark.casefold() in benchmarks.names() or ":" in benchmark:
        return True
    return "." in benchmark and choices.importable(benchmark)


def read_benchmark(
    root: str | Path,
    benchmark: Benchmark,
    *,
    generators: Sequence[str] = (),
    split: str = "",
    train_subset: str = "",
) -> Index:
    """Finds the images of a benchmark below a folder and checks them against its table.

    Args:
      root: the top of the benchmark's tree, or one of its `tops`; keys are relative to
        it.
      benchmark: its table, such as `benchmarks.get("unifd")`.
      generators: only these and the real images they are tested against; () is all,
        ("paper",) the columns of ITEM's tables.
      split: only this one; "" is all.
      train_subset: a name of its `subsets` or "all"; "" is its `default_subset`.

    Raises:
      ValueError: for an unknown name, or when `root` has nothing of the benchmark.
    """
    train_subset = train_subset or benchmark.default_subset
    subset = benchmark.subset(train_subset)
    wanted = _wanted(benchmark, generators, split, subset)
    tree = folder.tree(root)
    match = _match(benchmark, {key.rpartition("/")[0] for key in tree.sizes}, root)
    found: dict[Place, list[str]] = defaultdict(list)
    outside: Counter[str] = Counter()
    for key in tree.sizes:
        place = match.place_of(key)
        if place is None:
            outside[key.split("/")[0] if "/" in key else "."] += 1
        elif place in wanted:
            found[place].append(key)
    below = [place for place in wanted if _is_below(place, match.top)]
    faults = _missing(below, found) + _miscounted(benchmark, below, found)
    if subset is not None:
        found, short = _choose(found, subset)
        faults += short
    records = [
        Record(key, place.label, benchmark.name, place.generator, place.split)
        for place, keys in found.items()
        for key in keys
    ]
    if not records:
        raise ValueError(
            f"nothing of {benchmark.name} below {os.fspath(root)!r} is of split "
            f"{split or 'any'!r}, generators {list(generators) or 'all'}"
        )
    left_out = tree.sizes.keys() - {record.key for record in records}
    faults += [
        f"{path}: {what}"
        for path, what in sorted(tree.faults.items())
        if path not in left_out
    ]
    used = {place.generator for place in found}
    return Index(
        sorted(records, key=lambda record: record.key),
        faults,
        folder.skipped(tree) + _left_aside(benchmark, below, found, outside),
        {g: source for g, source in benchmark.real_sources.items() if g in used},
        {
            "benchmark": benchmark.name,
            "generators": list(generators),
            "split": split,
            "train_subset": train_subset,
        },
    )


def _left_aside(
    benchmark: Benchmark,
    below: Iterable[Place],
    found: Collection[Place],
    outside: Counter[str],
) -> list[str]:
    """Notes on parts that are not here and images that are none of the benchmark's."""
    notes = []
    absent = {p.part for p in below} - {p.part for p in found}
    if absent:
        notes.append(f"not here at all: {', '.join(sorted(absent))}")
    if outside:
        where = ", ".join(f"{n} below {name}" for name, n in outside.most_common(5))
        notes.append(f"images outside the folders of {benchmark.name}: {where}")
    return notes


def _wanted(
    benchmark: Benchmark, generators: Sequence[str], split: str, subset: Subset | None
) -> dict[Place, None]:
    """The places that are asked for, in the order of the table."""
    if tuple(generators) == ("paper",):
        generators = benchmark.paper
    for generator in generators:
        choices.check(f"generator of {benchmark.name}", generator, benchmark.generators)
    if split:
        choices.check(f"split of {benchmark.name}", split, benchmark.splits)
    names = set(generators)
    names |= {benchmark.real_sources.get(g, g) for g in generators}

    def keep(place: Place) -> bool:
        if split and place.split != split:
            return False
        if place.split == "train" and subset is not None:
            inside = not subset.classes or _class(place) in subset.classes
            return place.generator == subset.generator and inside
        return not names or place.generator in names

    return {place: None for place in benchmark.places if keep(place)}


def _class(place: Place) -> str:
    return place.folder.split("/")[-2]


# -------------------------------------------------------------------- folders -> places


@dataclasses.dataclass(frozen=True)
class _Match:
    """How the folders below a root are those of a benchmark.

    Attributes:
      top: the folder of the benchmark's tree that the root is; "" is the whole.
      places: the place that each folder with images is, or is below of, or None.
    """

    top: str
    places: Mapping[str, Place | None]

    @property
    def hits(self) -> int:
        """How many places of the benchmark are there."""
        return len({p.folder for p in self.places.values() if p is not None})

    def place_of(self, key: str) -> Place | None:
        """Returns the place of an image."""
        return self.places[key.rpartition("/")[0]]


def _match(benchmark: Benchmark, present: Collection[str], root: str | Path) -> _Match:
    """Finds out which of `tops` the root is: the one most of whose places are there.

    Args:
      benchmark: its table.
      present: the folders below `root` that hold images.
      root: decides by its own path when several tops fit equally well.
    """
    matches = [_match_top(benchmark, present, top) for top in benchmark.tops]
    most = max(match.hits for match in matches)
    if not most:
        raise ValueError(_nothing_found(benchmark, present, root))
    best = [match for match in matches if match.hits == most]
    if len(best) > 1:
        own = f"/{Path(root).resolve().as_posix().casefold()}"
        named = [match for match in best if own.endswith(f"/{match.top.casefold()}")]
        if len(named) != 1:
            tops = ", ".join(match.top or "the whole" for match in best)
            raise ValueError(
                f"{os.fspath(root)!r} could be any of these folders of "
                f"{benchmark.name}: {tops}. Point at the folder above it"
            )
        best = named
    return best[0]


def _match_top(benchmark: Benchmark, present: Collection[str], top: str) -> _Match:
    """Matches folders to places as if the root were `top`."""
    depth = len(top.split("/")) if top else 0
    places = {
        _parts(benchmark, place.folder)[depth:]: place
        for place in benchmark.places
        if _is_below(place, top)
    }
    return _Match(
        top, {name: _longest(_parts(benchmark, name), places) for name in present}
    )


def _parts(benchmark: Benchmark, path: str) -> tuple[str, ...]:
    """The folders of a path, in lower case and without their aliases."""
    parts = (part.casefold() for part in path.split("/"))
    return tuple(benchmark.aliases.get(part, part) for part in parts)


def _longest(
    parts: tuple[str, ...], places: Mapping[tuple[str, ...], Place]
) -> Place | None:
    """The place that a folder is, or is below of."""
    ends = range(len(parts), 0, -1)
    return next((places[parts[:end]] for end in ends if parts[:end] in places), None)


def _is_below(place: Place, top: str) -> bool:
    parts, above = place.folder.split("/"), top.split("/") if top else []
    return len(parts) > len(above) and all(a in ("*", p) for a, p in zip(above, parts))


def _nothing_found(
    benchmark: Benchmark, present: Collection[str], root: str | Path
) -> str:
    sample = [p.folder for p in benchmark.places]
    sample = sample[:: max(1, len(sample) // 3)][:3]
    seen = sorted({name.split("/")[0] for name in present if name})[:8]
    return (
        f"nothing of {benchmark.name} below {os.fspath(root)!r}: looked for folders "
        f"such as {', '.join(sample)}; there are images in "
        f"{', '.join(seen) or 'no folder of it'}"
    )


# ----------------------------------------------------------------------------- counts


def _missing(places: Iterable[Place], found: Collection[Place]) -> list[str]:
    """Faults for places that are empty although their part is here."""
    here = {place.part for place in found}
    absent: dict[tuple[str, str], list[str]] = defaultdict(list)
    for place in places:
        if place.part in here and place not in found and not place.optional:
            absent[place.split, place.generator].append(place.folder)
    faults = []
    for (split, generator), missing in absent.items():
        some = ", ".join(missing[:4])
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        faults.append(f"{generator} ({split}): missing or empty: {some}{more}")
    return faults


def _miscounted(
    benchmark: Benchmark, places: Sequence[Place], found: Mapping[Place, list[str]]
) -> list[str]:
    """Faults for generators with another number of images than published."""
    faults = []
    for kind, expected in benchmark.counts.items():
        own = [p for p in places if (p.split, p.generator, p.label) == kind]
        counts = {p: len(found[p]) for p in own if p in found}
        count = sum(counts.values())
        if not counts or count == expected:
            continue
        usual = Counter(counts.values()).most_common(1)[0][0]
        odd = [f"{p.folder} {n:,}" for p, n in counts.items() if n != usual]
        detail = f" ({', '.join(odd[:4])}; others {usual:,})" if odd else ""
        split, generator, label = kind
        what = "short" if count < expected else "too many"
        faults.append(
            f"{generator} ({split}): {what}: {count:,} {label} images, {expected:,} "
            f"expected{detail}"
        )
    return faults


def _choose(
    found: Mapping[Place, list[str]], subset: Subset
) -> tuple[dict[Place, list[str]], list[str]]:
    """Takes the first `each` of every training folder by the hash of the path.

    The path is counted from the label's folder in the table, not from the root that
    the user happened to point at.

    Returns:
      The chosen keys by place, and the faults of folders that have too few.
    """
    chosen: dict[Place, list[str]] = {}
    faults = []
    for place, keys in found.items():
        if place.split != "train":
            chosen[place] = keys
            continue
        ranked = sorted(keys, key=functools.partial(_rank, place))
        chosen[place] = sorted(ranked[: subset.each])
        if len(keys) < subset.each:
            faults.append(
                f"{place.generator} (train): short: {len(keys):,} images in "
                f"{place.folder}, {subset.each:,} wanted of each"
            )
    return chosen, faults


def _rank(place: Place, key: str) -> bytes:
    path = f"{place.folder}/{key.rpartition('/')[2]}"
    return hashlib.sha256(path.encode()).digest()
