"""Which images a figure is computed on: the groups of a test set, and the presets.

A group is what one column of a paper's table stands for: the fakes of a generator and
the real images they are tested against, its own or those another source lends it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from item_jax.config import nearest

PROTOCOLS = {
    "full": "every image",
    "unifd": "at most 1,000 images of a class, or 100 when a class has fewer than that",
    "paper_compat": "whole batches of 128 only, real images first",
}
"""The presets of `config.evaluate.protocol`.

`unifd`: `max_sample` of UniversalFakeDetect's validate.py. It takes the first after a
shuffle of the file list; here they are the first by the SHA-256 of their keys, the same
on every machine, so the counts are UniFD's and the images are not.

`paper_compat`: a loader with `batch_size=128, drop_last=True`, which is what the cells
of ITEM's and TIDY's tables fit (2,000 images -> 1,920). It loses fakes, which come
last. For comparison only.
"""

MAX_SAMPLE, FALLBACK = 1000, 100
BATCH = 128


def check(name: str) -> str:
    """Returns the name of a preset.

    Raises:
      ValueError: for an unknown one, with the nearest.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"evaluate.protocol is {name!r}; {nearest(name, PROTOCOLS)}")
    return name


def groups(
    rows: Sequence[Mapping[str, Any]], *, pairs: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Sorts images by what they are tested with.

    Args:
      rows: with `label` ("real", "fake" or None), `benchmark` and `generator`.
      pairs: generator -> source whose real images (of the same benchmark) it is tested
        against besides those that carry its own name; one image can serve many.

    Returns:
      Row numbers, int64, by generator, sorted by name; unlabelled rows are in none, and
      a source whose real images are all lent is no group of its own. Names are
      `benchmark/generator` when there are several benchmarks.
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
    pairs = pairs or {}
    lent = set()
    found: dict[tuple[str, str], list[int]] = {}
    for benchmark, generator in own:
        index = own[benchmark, generator]
        source = (benchmark, pairs.get(generator, generator))
        if (benchmark, generator) in fakes and source[1] != generator:
            index = index + real[source]
            lent.add(source)
        found[benchmark, generator] = index
    several = len({benchmark for benchmark, _ in found}) > 1
    return {
        f"{benchmark}/{generator or 'unnamed'}"
        if several
        else generator or "unnamed": (np.array(sorted(index), np.int64))
        for (benchmark, generator), index in sorted(found.items())
        if (benchmark, generator) in fakes or (benchmark, generator) not in lent
    }


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
    if check(name) == "full":
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
