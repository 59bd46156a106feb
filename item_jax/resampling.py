"""The arithmetic of drawing images again: counts instead of copies.

A replicate is a count for each image, how often it was drawn. Scores are sorted once;
weighted by the counts, sums over the sorted scores give ACC, AP and AUC of many
replicates at a time. `item_jax.statistics` is what callers see.
"""

from __future__ import annotations

import numpy as np


class Mean:
    """The mean of some images under weights."""

    def __init__(self, index: np.ndarray, values: np.ndarray):
        self.index, self.values = index, values[index]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        own = np.take(weights, self.index, axis=1)
        return np.einsum("bn,n->b", own, self.values) / own.sum(1)


class Units:
    """What is drawn: images or clusters, stratum by stratum.

    Images that belong to the same groups and have the same label are a stratum, from
    which as many are drawn as there are.
    """

    def __init__(self, labels, groups, scores, clusters):
        member = np.zeros(len(labels), np.int64)
        for k, index in enumerate(groups.values()):
            here = np.zeros(len(labels), bool)
            here[index] = True
            member = member * 2 + here
            if k % 50 == 49:
                member = np.unique(member, return_inverse=True)[1]
        used = np.zeros(len(labels), bool)
        for index in groups.values():
            used[index] = True
        strata = np.unique(member * 2 + (labels == 1), return_inverse=True)[1]
        self.used = used
        rows = np.flatnonzero(used)
        if clusters is None:
            # In the order of the scores, which keeps the sums over ranks in the cache.
            keys = [strata[rows]] if scores is None else [scores[rows], strata[rows]]
            self.rows = rows[np.lexsort(keys)]
            self.unit = None
            counts = np.bincount(strata[rows])
        else:
            unit = np.unique(clusters[rows], return_inverse=True)[1]
            # A cluster's stratum: which strata its images are of.
            pairs = np.unique(np.stack([unit, strata[rows]]), axis=1)
            kinds: dict[tuple, int] = {}
            starts = np.searchsorted(pairs[0], np.arange(unit.max(initial=-1) + 1))
            kind = np.array(
                [
                    kinds.setdefault(tuple(own), len(kinds))
                    for own in np.split(pairs[1], starts[1:])
                ]
                if len(rows)
                else [],
                np.int64,
            )
            place = np.empty(len(kind), np.int64)
            place[np.argsort(kind, kind="stable")] = np.arange(len(kind))
            self.rows, self.unit = rows, place[unit]
            counts = np.bincount(kind)
        self.counts = [int(c) for c in counts if c]

    def streams(self, seed: np.random.SeedSequence) -> list[np.random.Generator]:
        """Random numbers for each stratum, so that one call or many draw the same."""
        return [np.random.default_rng(own) for own in seed.spawn(len(self.counts))]

    def draw(self, streams: list[np.random.Generator], many: int) -> np.ndarray:
        """How often each of `rows` is drawn: int32 `[many, len(rows)]`."""
        drawn = np.empty((many, sum(self.counts)), np.int32)
        start = 0
        for n, rng in zip(self.counts, streams):
            picked = rng.integers(0, n, (many, n))
            if many > 1:
                picked += np.arange(many)[:, None] * n
            times = np.bincount(picked.ravel(), minlength=many * n)
            drawn[:, start : start + n] = times.reshape(many, n)
            start += n
        return drawn if self.unit is None else drawn[:, self.unit]


class Side:
    """The images of one class of a group, in the order of their scores."""

    def __init__(self, index: np.ndarray, scores: np.ndarray):
        self.order = index[np.argsort(scores[index], kind="stable")]
        self.scores = scores[self.order]

    def cumulative(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights in order `[B, n]`, and their sums from the lowest up `[B, n + 1]`."""
        own = np.take(weights, self.order, axis=1)
        sums = np.zeros((len(own), own.shape[1] + 1), np.int32)
        np.cumsum(own, axis=1, dtype=np.int32, out=sums[:, 1:])
        return own, sums


class Curve:
    """ACC, AP and AUC of a group under weights, its scores sorted once."""

    def __init__(self, real: Side, fake: Side, threshold: float, *, ranks: bool):
        self.real, self.fake, self.ranks = real, fake, ranks
        # How many real images have a lower score, and a lower or the same one.
        self.lower = np.searchsorted(real.scores, fake.scores, "left")
        self.up_to = np.searchsorted(real.scores, fake.scores, "right")
        self.tied = bool((self.lower != self.up_to).any())
        first = np.searchsorted(fake.scores, fake.scores, "left")
        self.first = first if (np.diff(first) == 0).any() else None
        self.called_real = [
            int(np.searchsorted(side.scores, threshold, "right"))
            for side in (real, fake)
        ]

    def __call__(self, weights: np.ndarray, cumulative: dict) -> np.ndarray:
        """Figures `[3, B]` for weights `[B, N]`; sums of real images are kept."""
        if id(self.real) not in cumulative:
            cumulative[id(self.real)] = self.real.cumulative(weights)[1]
        real = cumulative[id(self.real)]
        own, fake = self.fake.cumulative(weights)
        reals, fakes = (side[:, -1].astype(np.float64) for side in (real, fake))
        right = real[:, self.called_real[0]] + fakes - fake[:, self.called_real[1]]
        out = np.full((3, len(weights)), np.nan)
        out[0] = right / (reals + fakes)
        if not self.ranks:
            return out
        own = own.astype(np.float64)
        lower = np.take(real, self.lower, axis=1).astype(np.float64)
        below = _dot(own, lower)
        if self.tied:
            up_to = np.take(real, self.up_to, axis=1).astype(np.float64)
            below = (below + _dot(own, up_to)) / 2
        out[2] = below / (reals * fakes)
        # Fakes, and images, with this score or a higher one.
        earlier = fake[:, :-1] if self.first is None else fake[:, self.first]
        hits = fakes[:, None] - earlier
        found = np.subtract(reals[:, None], lower, out=lower)
        found += hits
        np.maximum(found, 1, out=found)  # without images there is no fake to count
        out[1] = _dot(own, np.divide(hits, found, out=found)) / fakes
        return out


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row; BLAS would start threads of its own for each short row."""
    return np.einsum("bn,bn->b", a, b)
