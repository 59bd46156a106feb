"""Intervals: images drawn again, jointly for all generators and methods.

Generators often share real images, and methods are compared on the same images. So a
replicate draws every image once and computes all figures of all generators and methods
on that draw: intervals of averages and of differences are then as wide as they should
be. Real and fake images are drawn apart, so that every replicate has as many of each
as the test set. NumPy only; `item_jax.paired` has the tests.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from item_jax.metrics import THRESHOLD
from item_jax.resampling import Curve, Mean, Side, Units

FIGURES = ("acc", "ap", "auc")
BIASED = ("ap",)
"""Figures whose replicates are lower on average: images that repeat come in clumps."""

REPLICATES = 2000
"""With 200 the ends of an AUC interval move by 0.4 points with the random seed."""

LEVEL = 0.95
FEWEST = 2
"""Fewer images (or clusters) of a class do not vary when they are drawn again."""

BLOCK = 50  # replicates that share a stream of random numbers
CHUNK = 1 << 18  # weights that a thread holds at the same time, at least one replicate

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Replicates:
    """Figures of every replicate, by column (a method, or one of its seeds).

    Attributes:
      groups: the names of the generators, in order.
      values: float `[G, 3]` of each column: `FIGURES` on the images as they are; NaN
        where left out.
      draws: float `[G, 3, R]` of each column: the same on each replicate.
      left_out: {column: {group: reason}}: the figures that cannot be computed. A
        reason that concerns the scores leaves `acc` in.
      means: {name: (float `[G]`, float `[G, R]`)}: differences of means, fake - real.
    """

    groups: tuple[str, ...]
    values: dict[Hashable, np.ndarray]
    draws: dict[Hashable, np.ndarray]
    left_out: dict[Hashable, dict[str, str]]
    means: dict[str, tuple[np.ndarray, np.ndarray]]

    def interval(self, column: Hashable, group: str, figure: str) -> Interval | None:
        """Returns the 95% interval of a figure of a group; None where left out."""
        at = self.groups.index(group), FIGURES.index(figure)
        around = self.values[column][at] if figure in BIASED else None
        return interval(self.draws[column][at], around=around)

    def macro(self, column: Hashable, figure: str) -> tuple[float, Interval] | None:
        """Returns the mean over groups, without those left out, and its interval."""
        value, draws = self._of_groups(column, figure)
        if not len(value):
            return None
        mean = float(value.mean())
        found = interval(draws.mean(0), around=mean if figure in BIASED else None)
        return (mean, found) if found else None

    def minimum(
        self, column: Hashable, figure: str
    ) -> tuple[float, str, Interval] | None:
        """Returns the least figure over groups, its group, and its interval.

        The least of several noisy figures lies below the least of the true ones on
        average, in the replicates more than in the figure itself: the interval is a
        cautious one.
        """
        value, draws = self._of_groups(column, figure)
        if not len(value):
            return None
        found = interval(draws.min(0))
        name = self._kept(column, figure)[int(value.argmin())]
        return (float(value.min()), name, found) if found else None

    def difference(
        self, column: Hashable, other: Hashable, figure: str, group: str | None = None
    ) -> tuple[float, np.ndarray] | None:
        """Returns `column` - `other` on the same images.

        Args:
          column, other: to compare.
          figure: one of `FIGURES`.
          group: None is the mean over the groups in which both have the figure.

        Returns:
          The difference, and that of each replicate, `[R]`; None if there is none.
        """
        f = FIGURES.index(figure)
        value = (self.values[column] - self.values[other])[:, f]
        draws = (self.draws[column] - self.draws[other])[:, f]
        if group is not None:
            g = self.groups.index(group)
            kept = np.zeros(len(value), bool)
            kept[g] = np.isfinite(value[g])
        else:
            kept = np.isfinite(value)
        if not kept.any():
            return None
        return float(value[kept].mean()), draws[kept].mean(0)

    def over_seeds(
        self, columns: Sequence[Hashable], figure: str, *, seed: int = 0
    ) -> dict[str, dict[str, float | Interval | None]]:
        """Returns the mean over training seeds, and how far seeds and images move it.

        Every replicate also draws the seeds again. Their deviations from the mean are
        widened by sqrt(K / (K - 1)), without which K seeds would vary too little.

        Args:
          columns: one per seed, at least two.
          figure: one of `FIGURES`.
          seed: of the draws of seeds.

        Returns:
          {group: {"mean", "std" (over seeds, n - 1), "interval_95"}}, with "macro" as
          one more group; a group that lacks the figure is left out.

        Raises:
          ValueError: for fewer than two seeds.
        """
        k = len(columns)
        if k < 2:
            raise ValueError(f"{k} seed: the spread over seeds needs two or more")
        f = FIGURES.index(figure)
        values = np.stack([self.values[c][:, f] for c in columns])  # [K, G]
        draws = np.stack([self.draws[c][:, f] for c in columns])  # [K, G, R]
        kept = np.isfinite(values).all(0)
        if not kept.any():
            return {}
        values, draws = values[:, kept], draws[:, kept]
        names = [g for g, keep in zip(self.groups, kept) if keep] + ["macro"]
        values = np.concatenate([values, values.mean(1, keepdims=True)], 1)
        draws = np.concatenate([draws, draws.mean(1, keepdims=True)], 1)
        replicates = draws.shape[2]
        drawn = np.random.default_rng(seed).integers(0, k, (k, replicates))
        mean = draws.mean(0)
        again = np.stack([draws[d, :, np.arange(replicates)] for d in drawn]).mean(0).T
        spread = mean + (again - mean) * np.sqrt(k / (k - 1))
        means = values.mean(0)
        return {
            name: {
                "mean": float(means[g]),
                "std": float(values[:, g].std(ddof=1)),
                "interval_95": interval(
                    spread[g], around=means[g] if figure in BIASED else None
                ),
            }
            for g, name in enumerate(names)
        }

    def mean_difference(self, name: str, group: str) -> tuple[float, Interval] | None:
        """Returns mean of the fakes - mean of the real images, and its interval."""
        value, draws = (x[self.groups.index(group)] for x in self.means[name])
        found = interval(draws)
        return (float(value), found) if np.isfinite(value) and found else None

    def _of_groups(self, column, figure) -> tuple[np.ndarray, np.ndarray]:
        f = FIGURES.index(figure)
        value = self.values[column][:, f]
        kept = np.isfinite(value)
        return value[kept], self.draws[column][kept, f]

    def _kept(self, column, figure) -> list[str]:
        value = self.values[column][:, FIGURES.index(figure)]
        return [g for g, v in zip(self.groups, value) if np.isfinite(v)]


def interval(
    draws: np.ndarray, *, around: float | None = None, level: float = LEVEL
) -> Interval | None:
    """Returns the interval that replicates give.

    The percentiles of the replicates; in simulations with normal scores they cover the
    truth of ACC and AUC in 94 to 95% of the cases. Replicates of AP lie below it on
    average, and their percentiles cover 88 to 92% with 50 images of a class. Said what
    value they lie around, the interval is that of a normal distribution on the logit
    scale, moved by the bias of the replicates: it covers 93.5 to 96% with 150 and more
    images of a class, 90 to 97% with 50 or 100.

    Args:
      draws: float `[R]`. NaN are replicates without the figure, such as those in which
        clusters left a class empty.
      around: the figure of the images as they are, if it is an AP; with 1 and 0 the
        percentiles are taken.
      level: share of the replicates inside, in (0, 1).

    Returns:
      (low, high); None without replicates, or if more than 1 in 20 lacks the figure.
    """
    finite = draws[np.isfinite(draws)]
    if not len(finite) or len(finite) < 0.95 * len(draws):
        return None
    inside = finite[(finite > 0) & (finite < 1)]
    if around is None or not 0 < around < 1 or not len(inside):
        low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)
    # A replicate of exactly 1 counts as the best one below it.
    logits = _logit(np.clip(finite, inside.min(), inside.max()))
    centre = 2 * _logit(around) - logits.mean()
    reach = NormalDist().inv_cdf((1 + level) / 2) * logits.std()
    low, high = 1 / (1 + np.exp(-(centre + np.array([-reach, reach]))))
    return float(low), float(high)


def _logit(x: ArrayLike) -> np.ndarray:
    return np.log(x) - np.log1p(-np.asarray(x))


def why_none(
    labels: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None = None
) -> tuple[str, bool] | None:
    """Says why a group has no AP and AUC with an interval.

    Args:
      labels: int `[n]`, real 0 and fake 1.
      scores: float `[n]`.
      clusters: int `[n]`, of images that are drawn together.

    Returns:
      The reason and whether the group has an accuracy nevertheless; None if nothing is
      wrong.
    """
    for label, name in enumerate(("real", "fake")):
        own = labels == label
        count = own.sum() if clusters is None else len(np.unique(clusters[own]))
        if count < FEWEST:
            what = "image" if clusters is None else "cluster"
            found = f"{count} {name} {what}" if count else f"no {name} {what}"
            return f"{found}; at least {FEWEST} of each class are needed", False
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        return f"{wrong} of {len(scores)} scores are not finite", False
    if (scores == scores[0]).all():
        return "all scores are equal, which ranks nothing", True
    return None


def resample(
    labels: ArrayLike,
    groups: Mapping[str, np.ndarray],
    columns: Mapping[Any, ArrayLike],
    *,
    thresholds: Mapping[Any, float] | None = None,
    means: Mapping[str, ArrayLike] | None = None,
    clusters: ArrayLike | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    threads: int = 0,
) -> Replicates:
    """Draws the images of all groups again and computes every figure on each draw.

    Args:
      labels: int `[N]`, real 0, fake 1; images of no group may have any other.
      groups: row numbers, int, by name; a row may belong to several.
      columns: scores, float `[N]`, higher for fake.
      thresholds: of each column, for `acc`; `metrics.THRESHOLD` by default.
      means: values, float `[N]`, whose means of fake and real are compared.
      clusters: int `[N]`: images of one number are drawn together, such as a real image
        and the fake made from it; by default each image is drawn by itself.
      replicates: R.
      seed: the same seed gives the same replicates, whatever the number of threads.
      threads: 0 is one per processor.

    Raises:
      ValueError: for arrays of different lengths, row numbers or labels that do not
        exist, or fewer than one replicate.
    """
    labels = np.asarray(labels)
    scores = {name: np.asarray(x, np.float64) for name, x in columns.items()}
    values = {name: np.asarray(x, np.float64) for name, x in (means or {}).items()}
    of = None if clusters is None else np.asarray(clusters)
    _check(labels, groups, [*scores.values(), *values.values()], of, replicates)
    thresholds = thresholds or {}
    units = Units(labels, groups, next(iter(scores.values()), None), of)
    # From here on rows are those of some group, in the order in which they are drawn.
    rows, labels = units.rows, labels[units.rows]
    place = np.zeros(len(units.used), np.int64)
    place[rows] = np.arange(len(rows))
    groups = {name: place[index] for name, index in groups.items()}
    scores = {name: own[rows] for name, own in scores.items()}
    values = {name: own[rows] for name, own in values.items()}
    of = None if of is None else of[rows]
    curves: list[tuple[Hashable, int, Curve]] = []
    left_out: dict[Hashable, dict[str, str]] = {}
    shape = len(groups), len(FIGURES)
    for name, own in scores.items():
        left_out[name] = {}
        sides: dict[bytes, Side] = {}
        for g, (group, index) in enumerate(groups.items()):
            why = why_none(labels[index], own[index], None if of is None else of[index])
            if why is not None:
                left_out[name][group] = why[0]
                if not why[1]:
                    continue
            real, fake = (index[labels[index] == label] for label in (0, 1))
            side = sides.setdefault(real.tobytes(), Side(real, own))
            threshold = thresholds.get(name, THRESHOLD)
            curve = Curve(side, Side(fake, own), threshold, ranks=why is None)
            curves.append((name, g, curve))
    differences = [
        (name, g, Mean(index[labels[index] == 1], own), real)
        for name, own in values.items()
        for real, g, index in _with_real_means(labels, groups, own)
    ]

    def figures(weights: np.ndarray, out: dict, at: slice) -> None:
        cumulative: dict[int, np.ndarray] = {}
        for name, g, curve in curves:
            out[name][g, :, at] = curve(weights, cumulative)
        known: dict[int, np.ndarray] = {}
        for name, g, fake, real in differences:
            if id(real) not in known:
                known[id(real)] = real(weights)
            out["mean", name][g, at] = fake(weights) - known[id(real)]

    def empty(count: int) -> dict:
        out = {name: np.full((*shape, count), np.nan) for name in scores}
        return out | {("mean", n): np.full((shape[0], count), np.nan) for n in values}

    once, draws = empty(1), empty(replicates)
    figures(np.ones((1, len(labels)), np.int32), once, slice(0, 1))
    starts = range(0, replicates, BLOCK)
    seeds = np.random.SeedSequence(seed).spawn(len(starts))

    def block(start: int, own: np.random.SeedSequence) -> None:
        streams = units.streams(own)
        count = min(BLOCK, replicates - start)
        step = max(1, CHUNK // max(1, len(labels)))
        with np.errstate(divide="ignore", invalid="ignore"):  # a class that is empty
            for i in range(0, count, step):
                many = min(step, count - i)
                at = slice(start + i, start + i + many)
                figures(units.draw(streams, many), draws, at)

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        list(pool.map(block, starts, seeds))
    return Replicates(
        groups=tuple(groups),
        values={name: once[name][..., 0] for name in scores},
        draws={name: draws[name] for name in scores},
        left_out=left_out,
        means={n: (once["mean", n][:, 0], draws["mean", n]) for n in values},
    )


def _with_real_means(labels, groups, values) -> Iterator[tuple[Mean, int, np.ndarray]]:
    """The groups that have a mean of each class, with that of their real images."""
    real_means: dict[bytes, Mean] = {}
    for g, index in enumerate(groups.values()):
        why = why_none(labels[index], values[index])
        if why is None or why[1]:  # equal values have no ranks, but they have means
            real = index[labels[index] == 0]
            yield real_means.setdefault(real.tobytes(), Mean(real, values)), g, index


def _check(labels, groups, arrays, clusters, replicates) -> None:
    if replicates < 1:
        raise ValueError(f"{replicates} replicates; at least 1 is needed")
    more = arrays if clusters is None else [*arrays, clusters]
    shapes = [list(x.shape) for x in (labels, *more)]
    if labels.ndim != 1 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"labels, scores and clusters must be [N], found {shapes}")
    for name, index in groups.items():
        index = np.asarray(index)
        if len(index) and not (0 <= index.min() and index.max() < len(labels)):
            raise ValueError(f"group {name!r} has rows that do not exist")
        if len(np.unique(index)) != len(index):
            raise ValueError(f"group {name!r} has a row twice")
        if not np.isin(labels[index], (0, 1)).all():
            raise ValueError(f"group {name!r} has labels other than 0 and 1")
