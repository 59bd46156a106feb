"""Which images a figure is computed on: the groups of a test set, and the presets.

A group is what one column of a paper's table stands for: the fakes of a generator and
the real images they are tested against, its own or those of another source.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from item_jax import choices

PROTOCOLS = {
    "full": "every image",
    "unifd": "at most 1,000 images of a class, or 100 when a class has fewer than that",
    "paper_compat": "whole batches of 128 only, real images first",
}
"""The presets of `config.evaluate.protocol`.

`unifd`: `max_sample` of UniversalFakeDetect's validate.py. It takes the first after a
shuffle of the file list; here they are the first by the SHA-256 of their keys, the same
on every machine, so the counts are UniFD's and the images are not.

`paper_compat`: a loader with `batch_size=128, drop_last=True`. It loses fakes, which
come last. For comparison only. The evidence is that ACC of k right images of 1,920 =
15 x 128 gives the printed cells of sets with 2,000 images: in Tables 1 and 2 of TIDY
9 of its 9 such cells (WFIR and UniFD's eight), of ITEM's own row there 3 of 9, in
Table III of ITEM 10 of 10, with 1,408 = 11 x 128 on DALLE-2 and 1,024 = 8 x 128 on
Midjourney. Six cells of ITEM's row were printed anew and do not fit: how they were
computed is not known.
"""

MAX_SAMPLE, FALLBACK = 1000, 100
BATCH = 128


def complete_real_sources(
    rows: Iterable[Mapping[str, Any]], real_sources: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Finds the real images of generators that come without any.

    A folder of real images alone, as `real/` beside `sdv14/ai/`, serves every generator
    of its benchmark that has none. It must be the only such folder: between two,
    nobody could tell which is meant.

    Args:
      rows: with `label` ("real", "fake" or None), `benchmark` and `generator`.
      real_sources: what is known already.

    Returns:
      {generator: generator whose real images it is tested against}, the known ones
      included; "" names the images that are in no generator's folder.
    """
    known = dict(real_sources or {})
    labels: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if row["label"] is not None:
            labels[row["benchmark"], row["generator"]].add(row["label"])
    for benchmark in sorted({b for b, _ in labels}):
        own = {g: found for (b, g), found in labels.items() if b == benchmark}
        lone = [
            g
            for g, found in own.items()
            if found == {"real"} and g not in known.values()
        ]
        if len(lone) == 1:
            without = (g for g, found in own.items() if found == {"fake"})
            known |= {g: lone[0] for g in sorted(without) if g not in known}
    return known


def groups(
    rows: Sequence[Mapping[str, Any]],
    *,
    real_sources: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Sorts images by what they are tested with.

    Args:
      rows: with `label` ("real", "fake" or None), `benchmark` and `generator`.
      real_sources: generator -> generator whose real images (of the same benchmark) it
        is tested against besides those that carry its own name; one image can serve
        many.
      only: generators, benchmarks, or `benchmark/generator`; () is all.

    Returns:
      Row numbers, int64, by generator, sorted by name; unlabelled rows are in none, and
      a source whose real images all serve other generators is no group of its own.
      Names are `benchmark/generator` when there are several benchmarks.

    Raises:
      ValueError: for a name of `only` that no image has, with the nearest one.
    """
    own: dict[tuple[str, str], list[int]] = defaultdict(list)
    real: dict[tuple[str, str], list[int]] = defaultdict(list)
    fakes = set()
    for i, row in enumerate(rows):
        if row["label"] is None:
            continue
        place = row["benchmark"], row["generator"]
        own[place].append(i)
        if row["label"] == "real":
            real[place].append(i)
        else:
            fakes.add(place)
    sources = dict(real_sources or {})
    serving = set()
    found: dict[tuple[str, str], list[int]] = {}
    for place, index in own.items():
        benchmark, generator = place
        source = (benchmark, sources.get(generator, generator))
        if place in fakes and source != place:
            index = index + real[source]
            serving.add(source)
        found[place] = index
    several = len({benchmark for benchmark, _ in found}) > 1
    names = {place: {*place, "/".join(place)} for place in found}
    known = sorted(set().union(*names.values()) - {""})
    for name in only:
        choices.check("evaluate.generators", name, known)
    named = {}
    for place, index in sorted(found.items()):
        if only and not names[place] & set(only):
            continue
        if place in fakes or place not in serving:
            name = place[1] or "unnamed"
            name = f"{place[0]}/{name}" if several else name
            named[name] = np.array(sorted(index), np.int64)
    return named


def select(
    name: str, index: np.ndarray, labels: np.ndarray, keys: Sequence[str]
) -> np.ndarray:
    """Applies a preset to a group.

    Args:
      name: one of `PROTOCOLS`.
      index: row numbers of the group, int `[n]`.
      labels: of all rows, real 0 and fake 1.
      keys: of all rows.

    Returns:
      The row numbers that count, sorted.

    Raises:
      ValueError: for an unknown preset, or when it leaves no image.
    """
    if choices.check("evaluate.protocol", name, PROTOCOLS) == "full":
        return index
    real, fake = (index[labels[index] == label] for label in (0, 1))
    if name == "unifd":
        limit = MAX_SAMPLE if min(len(real), len(fake)) >= MAX_SAMPLE else FALLBACK

        def rank(i):
            return hashlib.sha256(keys[i].encode()).digest()

        chosen = [i for own in (real, fake) for i in sorted(own, key=rank)[:limit]]
        return np.array(sorted(chosen), np.int64)
    # Within a class in the order of the keys, as a loader that lists sorted folders.
    ordered = [i for own in (real, fake) for i in sorted(own, key=lambda i: keys[i])]
    kept = ordered[: len(ordered) // BATCH * BATCH]
    if not kept:
        raise ValueError(
            f"evaluate.protocol paper_compat takes whole batches of {BATCH}, found a "
            f"generator with {len(ordered)} images; use full"
        )
    return np.array(sorted(kept), np.int64)


def generators_text(names: Sequence[str]) -> str:
    """Returns the generators of a training as text; an empty name is "unnamed"."""
    named = ", ".join(name for name in names if name)
    if len(named) and "" in names:
        named += " and unnamed ones"
    return named or "unnamed generators"
