"""Tests of whether two methods differ on the same images, and Holm's correction.

`labels` are integers [N], real 0 and fake 1; scores are floats [N], higher for fake.
A test that cannot be made raises ValueError with the reason. NumPy and SciPy only.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, ndtr
from scipy.stats import rankdata

from item_jax.metrics import THRESHOLD
from item_jax.statistics import why_none

EXACT_BELOW = 1000
"""McNemar's test is exact when fewer images than this are judged differently; above,
the exact and the approximate p agree to three digits."""

Name = TypeVar("Name", bound=Hashable)


class Comparison(NamedTuple):
    """A test of two methods.

    Attributes:
      difference: first - second.
      p: two-sided.
      interval_95: of the difference, where the test has one.
    """

    difference: float
    p: float
    interval_95: tuple[float, float] | None = None


def delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> Comparison:
    """Compares two AUC on the same images (DeLong et al., Biometrics 1988).

    The covariance is computed from mid-ranks (Sun and Xu, IEEE SPL 2014), in
    O(N log N).

    Raises:
      ValueError: if a class has fewer than two images, a score is not finite, or the
        difference does not vary although it is not zero.
    """
    y = np.asarray(labels)
    auc, covariance = delong_covariance(
        y, np.stack([np.asarray(first), np.asarray(second)])
    )
    difference = float(auc[0] - auc[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-12 * float(covariance.trace()):  # zero, but for rounding
        if abs(difference) > 1e-12:
            raise ValueError("the difference of the AUC has no variance")
        return Comparison(0.0, 1.0, (0.0, 0.0))
    error = variance**0.5
    return Comparison(
        difference,
        float(2 * ndtr(-abs(difference) / error)),
        (
            difference - 1.959963984540054 * error,
            difference + 1.959963984540054 * error,
        ),
    )


def delong_covariance(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    """The AUC of several methods on the same images, and their covariance.

    Args:
      labels: int `[N]`.
      scores: float `[K, N]`.

    Returns:
      float `[K]` and `[K, K]`.

    Raises:
      ValueError: if a class has fewer than two images or a score is not finite.
    """
    y, s = np.asarray(labels), np.asarray(scores, np.float64)
    for own in s:
        why = why_none(y, own)
        if why is not None and not why[1]:
            raise ValueError(why[0])
    fake, real = s[:, y == 1], s[:, y == 0]
    m, n = fake.shape[1], real.shape[1]
    together = rankdata(np.concatenate([fake, real], 1), axis=1)
    v10 = (together[:, :m] - rankdata(fake, axis=1)) / n
    v01 = 1 - (together[:, m:] - rankdata(real, axis=1)) / m
    covariance = np.cov(v10, ddof=1) / m + np.cov(v01, ddof=1) / n
    return v10.mean(1), np.atleast_2d(covariance)


def mcnemar(
    labels: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    thresholds: tuple[float, float] = (THRESHOLD, THRESHOLD),
) -> Comparison:
    """Compares two accuracies on the same images (McNemar, Psychometrika 1947).

    Exact (two-sided binomial) below `EXACT_BELOW` images that only one of the methods
    judges rightly; chi-square with Edwards's correction from there.

    Args:
      labels: int `[N]`.
      first, second: scores, float `[N]`.
      thresholds: of each method; a score above it says fake.

    Raises:
      ValueError: without images, or if a score is not finite.
    """
    y = np.asarray(labels)
    scores = np.stack([np.asarray(x, np.float64) for x in (first, second)])
    if not len(y):
        raise ValueError("no image")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    right = (scores > np.array(thresholds)[:, None]) == (y == 1)
    only_first = int((right[0] & ~right[1]).sum())
    only_second = int((right[1] & ~right[0]).sum())
    differing = only_first + only_second
    if differing < EXACT_BELOW:
        fewer = min(only_first, only_second)
        p = min(1.0, 2 * float(bdtr(fewer, differing, 0.5))) if differing else 1.0
    else:
        gap = max(abs(only_first - only_second) - 1, 0)
        p = float(2 * ndtr(-gap / differing**0.5))
    return Comparison((only_first - only_second) / len(y), p)


def bootstrap_p(draws: np.ndarray) -> float:
    """The two-sided p of a difference from its replicates.

    Twice the smaller share of replicates on one side of zero, each side counted once
    more than it has, so that p is never 0.

    Args:
      draws: float `[R]`, the difference on each replicate; NaN are dropped.

    Raises:
      ValueError: without replicates.
    """
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        raise ValueError("no replicate has the difference")
    below, above = (finite <= 0).sum(), (finite >= 0).sum()
    return min(1.0, 2 * float(min(below, above) + 1) / (len(finite) + 1))


def holm(p: Mapping[Name, float]) -> dict[Name, float]:
    """Adjusts p values of a family of tests (Holm, 1979): step-down Bonferroni."""
    adjusted: dict[Name, float] = {}
    most = 0.0
    for k, name in enumerate(sorted(p, key=lambda name: p[name])):
        most = max(most, min(1.0, (len(p) - k) * p[name]))
        adjusted[name] = most
    return {name: adjusted[name] for name in p}
