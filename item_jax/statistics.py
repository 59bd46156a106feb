"""Figures with intervals and p values: of generators, averages, seeds, differences.

`estimate` takes scores; what it returns gives every figure as an `Interval`. An average
over generators or training seeds, and a difference of two methods, is a weighted sum of
figures that vary together, because generators share real images and methods are tested
on the same ones. Each figure has its own score interval (`item_jax.influence`). The
distances to its ends are added as standard errors are, with the correlations of the
figures: "square and add", Newcombe (Statistics in Medicine 1998), Zou and Donner
(Statistics in Medicine 2008).

Seeds add the variance of their mean; the quantile is then the mean of the normal one
and Student's, weighted by the variances (Cochran and Cox, 1950). What images move in
one seed and not in all is part of the variance over seeds, and counted there. Few
errors say little of correlations, which are then taken to be worse than measured. A p
value is the level at which the interval of a difference reaches zero, so the two never
contradict each other. Nothing is drawn at random.

How often 95% intervals cover the truth: `scripts/interval_coverage.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from item_jax import influence
from item_jax.influence import FIGURES, NEEDS_RANKS, Cell
from item_jax.metrics import THRESHOLD
from item_jax.square_and_add import Sum, products, welch

LEVEL = 0.95

FEWEST = 2
"""Of fewer images of a class the variance is not known."""

Name = TypeVar("Name", bound=Hashable)
Groups = str | Sequence[str] | None


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure, an average or a difference, and what it rests on.

    Attributes:
      value: in [0, 1]; of a difference in [-1, 1].
      low, high: ends of the interval. Where AP of few images is too high on average,
        the interval lies lower than around the value.
      level: probability that the interval holds the true value.
      n_real, n_fake: images. One that several generators share counts once.
      seeds: training seeds that `value` is the mean over. With one, the interval does
        not say how far another seed would be.
      std: standard deviation over seeds (n - 1); None for one seed and for differences.
      p: two-sided, of a difference; below 1 - level if zero is outside the interval.
      other_seeds: of the method that is subtracted, if this is a difference.
    """

    value: float
    low: float
    high: float
    level: float
    n_real: int
    n_fake: int
    seeds: int = 1
    std: float | None = None
    p: float | None = None
    other_seeds: int | None = None

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def covers(self) -> str:
        """Says whose chance is in the interval, and whose is not."""
        own = (
            [self.seeds] if self.other_seeds is None else [self.seeds, self.other_seeds]
        )
        several = " and ".join(str(k) for k in own if k > 1)
        if not several:
            return "test images; not training seeds or the choice of training images"
        one = " (one method has one seed)" if 1 in own else ""
        return (
            f"test images and {several} training seeds{one}; "
            "not the choice of training images"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes that are not None, and `covers`."""
        known = {k: v for k, v in dataclasses.asdict(self).items() if v is not None}
        return known | {"covers": self.covers()}


def why_none(labels: np.ndarray, scores: np.ndarray) -> tuple[str, bool] | None:
    """Says why a group has no AP and AUC with an interval.

    Args:
      labels: int `[n]`, real 0 and fake 1.
      scores: float `[n]`.

    Returns:
      The reason and whether the group has an accuracy nevertheless; None if nothing is
      wrong.
    """
    for label, name in enumerate(("real", "fake")):
        count = int((labels == label).sum())
        if count < FEWEST:
            found = f"{count or 'no'} {name} image"
            return f"{found}; at least {FEWEST} of each class are needed", False
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        return f"{wrong} of {len(scores)} scores are not finite", False
    if (scores == scores[0]).all():
        return "all scores are equal, which ranks nothing", True
    return None


def estimate(
    labels: ArrayLike,
    groups: Mapping[str, ArrayLike],
    columns: Mapping[Any, ArrayLike],
    *,
    thresholds: Mapping[Any, float] | None = None,
    means: Mapping[str, ArrayLike] | None = None,
) -> Estimates:
    """Takes scores, to give figures of groups with intervals.

    Args:
      labels: int `[N]`, real 0, fake 1; images of no group may have any other.
      groups: row numbers, int, by name; a row may belong to several.
      columns: scores, float `[N]`, higher for fake; one for each method and seed.
      thresholds: of each column, for `acc`; `metrics.THRESHOLD` by default.
      means: values, float `[N]`, whose means of fake and real are compared.

    Raises:
      ValueError: for arrays of different lengths, or row numbers or labels that do not
        exist.
    """
    labels = np.asarray(labels)
    scores = {name: np.asarray(x, np.float64) for name, x in columns.items()}
    values = {name: np.asarray(x, np.float64) for name, x in (means or {}).items()}
    rows = {name: np.sort(np.asarray(x, np.int64)) for name, x in groups.items()}
    _check(labels, rows, [*scores.values(), *values.values()])
    return Estimates(labels, rows, scores, dict(thresholds or {}), values)


class Estimates:
    """Figures of columns of scores on groups of images.

    Attributes:
      groups: the names of the groups, in order.
      left_out: {column: {group: reason}}: the figures that cannot be computed. A
        reason that concerns the scores leaves the accuracies in.
    """

    def __init__(self, labels, rows, scores, thresholds, values):
        self.groups: tuple[str, ...] = tuple(rows)
        self._labels, self._rows = labels, rows
        self._scores, self._thresholds, self._values = scores, thresholds, values
        self._cells: dict[tuple, Cell] = {}
        self._why = {
            name: {g: why_none(labels[at], own[at]) for g, at in rows.items()}
            for name, own in scores.items()
        }
        self.left_out: dict[Hashable, dict[str, str]] = {
            name: {g: why[0] for g, why in found.items() if why}
            for name, found in self._why.items()
        }

    def value(self, column: Hashable, figure: str, group: str) -> float | None:
        """Returns a figure of a group; None where left out."""
        if not self._has(column, figure, group):
            return None
        return self._cell(column, figure, group).value

    def averaged(
        self, columns: Sequence[Hashable], figure: str, groups: Groups = None
    ) -> list[str]:
        """Returns the groups that a figure is averaged over: those that have it.

        Args:
          columns: that must all have it.
          figure: one of `FIGURES`.
          groups: to choose from; None is all.
        """
        names = [groups] if isinstance(groups, str) else groups
        return [
            name
            for name in (self.groups if names is None else names)
            if all(self._has(column, figure, name) for column in columns)
        ]

    def figure(
        self,
        columns: Sequence[Hashable],
        figure: str,
        group: Groups = None,
        *,
        level: float = LEVEL,
    ) -> Interval | None:
        """Returns a figure of a method, with the images and its seeds in the interval.

        Args:
          columns: the seeds of the method, one or more; the value is their mean.
          figure: one of `FIGURES`.
          group: its name; several, or None for all, give the unweighted mean over those
            that have the figure.
          level: of the interval, in (0, 1).

        Returns:
          The figure; None if no group has it.

        Raises:
          ValueError: without a column.
        """
        return self._any([columns], figure, group, level)

    def difference(
        self,
        columns: Sequence[Hashable],
        others: Sequence[Hashable],
        figure: str,
        group: Groups = None,
        *,
        level: float = LEVEL,
    ) -> Interval | None:
        """Returns how much higher a figure of `columns` is than that of `others`.

        Both are of the same images, and means over their own seeds, which are taken for
        independent of each other.

        Args:
          columns, others: the seeds of each method, one or more.
          figure, group, level: as in `figure`.
        """
        return self._any([columns, others], figure, group, level)

    def minimum(
        self, columns: Sequence[Hashable], figure: str, *, level: float = LEVEL
    ) -> tuple[Interval, str] | None:
        """Returns the least figure over groups, and its group.

        The interval is that of the least true figure, whichever group it is of, not of
        that group: its low end is the least of all low ends, its high end the least of
        all high ends at a level that allows for the number of groups (Bonferroni).
        """
        names = self.averaged(columns, figure)
        if not names:
            return None
        strict = 1 - (1 - level) / len(names)
        each = [self._sum([columns], figure, [name], level) for name in names]
        high = [self._sum([columns], figure, [name], strict) for name in names]
        least = int(np.argmin([found.value for found in each]))
        interval = dataclasses.replace(
            each[least],
            low=min(found.low for found in each),
            high=min(found.high for found in high),
        )
        return interval, names[least]

    def mean_difference(
        self, name: str, group: str, *, level: float = LEVEL
    ) -> Interval | None:
        """Returns mean of the fakes - mean of the real images (Welch 1947)."""
        at = self._rows[group]
        labels, values = self._labels[at], self._values[name][at]
        why = why_none(labels, values)
        if why is not None and not why[1]:
            return None
        sides = [values[labels == label] for label in (1, 0)]
        difference = float(sides[0].mean() - sides[1].mean())
        errors = [float(own.var(ddof=1)) / len(own) for own in sides]
        reach = 0.0
        if sum(errors) > 0:
            degrees = welch(errors, [len(own) - 1 for own in sides])
            reach = -float(stdtrit(degrees, (1 - level) / 2)) * sum(errors) ** 0.5
        n_fake, n_real = map(len, sides)
        ends = difference - reach, difference + reach
        return Interval(difference, *ends, level, n_real, n_fake)

    def _has(self, column: Hashable, figure: str, group: str) -> bool:
        if figure not in FIGURES:
            raise ValueError(f"no figure {figure!r}; those with intervals: {FIGURES}")
        why = self._why[column][group]
        return why is None or (why[1] and figure not in NEEDS_RANKS)

    def _cell(self, column: Hashable, figure: str, group: str) -> Cell:
        key = column, figure, group
        if key not in self._cells:
            at = self._rows[group]
            threshold = self._thresholds.get(column, THRESHOLD)
            scores = self._scores[column][at]
            self._cells[key] = influence.cell(
                self._labels[at], scores, figure, threshold
            )
        return self._cells[key]

    def _any(
        self,
        sides: Sequence[Sequence[Hashable]],
        figure: str,
        group: Groups,
        level: float,
    ) -> Interval | None:
        if not all(sides):
            raise ValueError("a figure needs one column or more")
        names = self.averaged([c for side in sides for c in side], figure, group)
        return self._sum(sides, figure, names, level) if names else None

    def _sum(
        self,
        sides: Sequence[Sequence[Hashable]],
        figure: str,
        names: Sequence[str],
        level: float,
    ) -> Interval:
        """The first side's mean over seeds and groups, less the second's."""
        if not 0 < level < 1:
            raise ValueError(f"level {level!r} is not in (0, 1)")
        cells: list[Cell] = []
        rows: list[np.ndarray] = []
        weights: list[float] = []
        value = centre = 0.0
        spread: list[float] = []
        for side, sign in zip(sides, (1, -1)):
            own = [[self._cell(c, figure, name) for name in names] for c in side]
            k = len(side)
            value += sign * float(np.mean([[c.value for c in row] for row in own]))
            by_seed = [np.mean([c.centre for c in row]) for row in own]
            centre += sign * float(np.mean(by_seed))
            spread.append(float(np.var(by_seed, ddof=1)) if k > 1 else 0.0)
            for row in own:
                cells += row
                rows += [self._rows[name] for name in names]
                weights += [sign / (k * len(names))] * len(names)
        total = Sum(
            cells,
            np.array(weights),
            products(cells, rows),
            centre,
            [len(side) for side in sides],
            spread,
        )
        bounds = (0.0, 1.0) if len(sides) == 1 else (-1.0, 1.0)
        low, high = (min(max(x, bounds[0]), bounds[1]) for x in total.ends(1 - level))
        images = np.unique(np.concatenate([self._rows[name] for name in names]))
        n_fake = int((self._labels[images] == 1).sum())
        pair = len(sides) == 2
        return Interval(
            value=value,
            low=low,
            high=high,
            level=level,
            n_real=len(images) - n_fake,
            n_fake=n_fake,
            seeds=len(sides[0]),
            std=None if pair or len(sides[0]) == 1 else spread[0] ** 0.5,
            p=total.p() if pair else None,
            other_seeds=len(sides[1]) if pair else None,
        )


def holm(p: Mapping[Name, float]) -> dict[Name, float]:
    """Adjusts p values of a family of tests (Holm, 1979): step-down Bonferroni."""
    adjusted: dict[Name, float] = {}
    most = 0.0
    for k, name in enumerate(sorted(p, key=lambda name: p[name])):
        most = max(most, min(1.0, (len(p) - k) * p[name]))
        adjusted[name] = most
    return {name: adjusted[name] for name in p}


def _check(labels, groups, arrays) -> None:
    shapes = [list(x.shape) for x in (labels, *arrays)]
    if labels.ndim != 1 or any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"labels and scores must be [N], found {shapes}")
    for name, index in groups.items():
        if len(index) and not (0 <= index.min() and index.max() < len(labels)):
            raise ValueError(f"group {name!r} has rows that do not exist")
        if len(np.unique(index)) != len(index):
            raise ValueError(f"group {name!r} has a row twice")
        if not np.isin(labels[index], (0, 1)).all():
            raise ValueError(f"group {name!r} has labels other than 0 and 1")
