"""A figure of one test set: its value, its interval, and what each image adds to it.

The interval of a figure is a score interval: all true values `t` from which the figure
found is at most q standard errors away, with the standard error at `t`. That error is
the one of normal scores (binomial verdicts for ACC), times a ratio that is measured on
the images and trusted in so far as there are errors to measure it by. Unlike value +-
q standard errors, such an interval is not empty where the classes are separable.

How figures vary together (generators that share real images, methods and seeds on the
same images) is read off influences: the derivative of a figure by the weight of each
image, which for AUC gives DeLong's covariance. NumPy and SciPy only;
`item_jax.statistics` is what callers see.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri, owens_t, stdtrit
from scipy.stats import rankdata

FIGURES = ("acc", "balanced_acc", "ap", "ap_balanced", "auc")
"""Those with intervals. `balanced_acc` and `ap_balanced` are ACC and AP of a test set
with as many real images as fakes."""

NEEDS_RANKS = ("ap", "ap_balanced", "auc")

TRUST = 4.0
"""So many expected errors count as much as the model of the variance does. From 2 to 8
the coverage of `scripts/interval_coverage.py` moves by a point."""

NEWCOMBE = 0.25
"""Share of the exponential model of the variance of an AUC (method 5 of Newcombe,
Statistics in Medicine 2006); the rest is that of normal scores. The first covers too
much where scores are normal, the second too little where fakes vary more than real
images do."""

GRID = expit(np.linspace(-18, 18, 1201))
"""True values of a figure for which its distribution is tabulated."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """The distribution of a figure of n_real and n_fake images by its true value.

    Attributes:
      true: float `[P]`, increasing; the first is the lowest that a figure can have.
      mean: float `[P]`, of the figure found: AP of few images is too high on average.
      variance: float `[P]`.
    """

    true: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Cell:
    """A figure of one column of scores on one group.

    Attributes:
      value: as it is printed.
      centre: the true value that has this mean.
      images: their number.
      errors: how many the variance is measured by: 2 n t (1 - t) for the smaller class.
      influence: float32 `[n]`, of a vector of length 1; the product of two of them,
        over the images that they share, is the correlation of two figures.
    """

    value: float
    centre: float
    images: int
    errors: float
    influence: np.ndarray
    _true: np.ndarray
    _distance: np.ndarray

    def ends(self, outside: float) -> tuple[float, float]:
        """Returns the interval outside which the true value lies with a probability.

        Args:
          outside: this probability, half of it on each side; in (0, 1].
        """
        q = -float(stdtrit(self.images - 2, outside / 2))
        low, high = np.interp([-q, q], self._distance, self._true)
        return min(low, self.centre, self.value), max(high, self.centre, self.value)


def cell(labels: np.ndarray, scores: np.ndarray, figure: str, threshold: float) -> Cell:
    """Computes a figure.

    Args:
      labels: int `[n]`, two or more of each class.
      scores: float `[n]`, finite; not all equal if the figure `NEEDS_RANKS`.
      figure: one of `FIGURES`.
      threshold: a score above it says fake.
    """
    fake = labels == 1
    counts = int((~fake).sum()), int(fake.sum())
    if figure == "auc":
        value, influence = _auc(fake, scores)
    elif figure in ("ap", "ap_balanced"):
        value, influence = _ap(fake, scores, figure == "ap_balanced")
    else:
        value, influence = _acc(fake, scores > threshold, figure == "balanced_acc")
    curve = model(figure, *counts)
    centre = value
    if figure in ("ap", "ap_balanced"):
        centre = float(np.interp(value, curve.mean, curve.true))
    measured = float(influence @ influence)
    expected = float(np.interp(centre, curve.true, curve.variance))
    errors = 2 * min(counts) * centre * (1 - centre)
    trust = errors / (errors + TRUST) if expected > 0 else 0.0
    ratio = 1 - trust + (trust * measured / expected if trust else 0.0)
    # From the lowest true value up: how far above the value it is, in standard errors.
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (curve.mean - value) / np.sqrt(ratio * curve.variance)
    distance = np.maximum.accumulate(np.where(np.isnan(distance), 0.0, distance))
    # Where nothing is measured, such as without any error, ranks stand in.
    by_rank = rankdata(scores)
    for own in (fake, ~fake):
        by_rank[own] = (by_rank[own] - by_rank[own].mean()) / own.sum()
    by_rank[~fake] *= -1
    joint = trust * _unit(influence) + (1 - trust) * _unit(by_rank)
    return Cell(
        value=value,
        centre=centre,
        images=len(labels),
        errors=errors,
        influence=_unit(joint).astype(np.float32),
        _true=curve.true,
        _distance=distance,
    )


def _unit(x: np.ndarray) -> np.ndarray:
    length = float(np.sqrt(x @ x))
    return x / length if length > 1e-12 else np.zeros_like(x)


def _centred(influence: np.ndarray, fake: np.ndarray, ddof: int) -> np.ndarray:
    """Influences whose sum of squares is the variance, classes drawn apart."""
    out = np.empty(len(influence))
    for own in (fake, ~fake):
        n = int(own.sum())
        out[own] = (influence[own] - influence[own].mean()) * (n / (n - ddof)) ** 0.5
    return out


def _acc(
    fake: np.ndarray, called_fake: np.ndarray, balanced: bool
) -> tuple[float, np.ndarray]:
    right = (fake == called_fake).astype(float)
    weights = _weights(fake, balanced)
    value = (right[fake].mean() + right[~fake].mean()) / 2 if balanced else right.mean()
    return float(value), _centred(weights * right, fake, 0)


def _weights(fake: np.ndarray, balanced: bool) -> np.ndarray:
    if not balanced:
        return np.full(len(fake), 1 / len(fake))
    return np.where(fake, 0.5 / fake.sum(), 0.5 / (~fake).sum())


def _auc(fake: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Placements by mid-ranks (Sun and Xu, IEEE Signal Processing Letters 2014)."""
    together, m, n = rankdata(scores), int(fake.sum()), int((~fake).sum())
    influence = np.empty(len(scores))
    influence[fake] = (together[fake] - rankdata(scores[fake])) / n
    influence[~fake] = 1 - (together[~fake] - rankdata(scores[~fake])) / m
    value = float(influence[fake].mean())
    return value, _centred(influence / np.where(fake, m, n), fake, 1)


def _ap(
    fake: np.ndarray, scores: np.ndarray, balanced: bool
) -> tuple[float, np.ndarray]:
    """Step-wise AP, and its derivatives by the weight of each image.

    At a fake with F fakes and R real images at its score or above, the precision is
    F / (F + R). Its derivative by F is R / (F + R)^2, by R -F / (F + R)^2; an image
    counts at every fake whose score is not above its own.
    """
    order = np.argsort(-scores, kind="stable")
    down, hit = -scores[order], fake[order]
    m = int(hit.sum())
    weight = m / (len(hit) - m) if balanced else 1.0
    last = np.searchsorted(down, down, "right") - 1
    first = np.searchsorted(down, down, "left")
    fakes, reals = np.cumsum(hit)[last], weight * np.cumsum(~hit)[last]
    total = fakes + reals
    precision = fakes / total
    by_fake, by_real = (
        np.cumsum((hit * x / total**2)[::-1])[::-1][first] / m for x in (reals, -fakes)
    )
    influence = np.empty(len(hit))
    influence[order] = np.where(hit, precision / m + by_fake, weight * by_real)
    return float(precision[hit].mean()), _centred(influence, fake, 1)


@functools.lru_cache(maxsize=512)
def model(figure: str, n_real: int, n_fake: int) -> Curve:
    """Returns the distribution of a figure where scores are normal.

    Real scores are N(0, 1) and fakes N(d, 1), for every d; ACC is binomial, with the
    same share right in both classes.
    """
    if figure in ("ap", "ap_balanced"):
        return _ap_model(n_real, n_fake, figure == "ap_balanced")
    if figure == "auc":
        variance = (1 - NEWCOMBE) * _normal(n_real, n_fake)
        variance += NEWCOMBE * _exponential(n_real, n_fake)
    elif figure == "balanced_acc":
        variance = GRID * (1 - GRID) * (0.25 / n_real + 0.25 / n_fake)
    else:
        variance = GRID * (1 - GRID) / (n_real + n_fake)
    # The ends themselves: a figure of 0 or 1 does not vary.
    true = np.r_[0.0, GRID, 1.0]
    return Curve(true, true, np.r_[0.0, variance, 0.0])


def _normal(n_real: int, n_fake: int) -> np.ndarray:
    """Variance of an AUC of normal scores."""
    # P(two fakes above one real): of normals that correlate by 1/2 (Owen 1956).
    a = ndtri(GRID)
    both = GRID - 2 * owens_t(a, 3**-0.5)
    pairs = GRID * (1 - GRID) + (n_real + n_fake - 2) * (both - GRID**2)
    return pairs / (n_real * n_fake)


def _exponential(n_real: int, n_fake: int) -> np.ndarray:
    """Variance of an AUC by Hanley and McNeil (1982), as Newcombe's method 5 has it."""
    more = (n_real + n_fake) / 2 - 1
    share = (1 - GRID) / (2 - GRID) + GRID / (1 + GRID)
    return GRID * (1 - GRID) * (1 + more * share) / (n_real * n_fake)


def _ap_model(n_real: int, n_fake: int, balanced: bool) -> Curve:
    """AP of normal scores by integrals over the scores of fakes.

    The bias is that of the precision at a fake, which counts itself, and whose numbers
    of images above it are random: with Poisson numbers of mean D in all, E[(1 + k) / (1
    + k + r)] is p + (1 - p) (1 - exp(-D)) / D; binomial ones vary less.
    """
    weight = n_fake / n_real if balanced else 1.0
    d = np.linspace(-6, 9, 121)[:, None]
    s, step = np.linspace(-11, 14, 1001, retstep=True)
    fakes, reals = ndtr(d - s), ndtr(-s)[None]
    total = n_fake * fakes + weight * n_real * reals
    precision = n_fake * fakes / total
    density = np.exp(-((s - d) ** 2) / 2) * step / (2 * np.pi) ** 0.5
    real_density = np.exp(-(s**2) / 2)[None] * step / (2 * np.pi) ** 0.5
    ap = (precision * density).sum(1)
    by_fake = np.cumsum(density * n_fake * weight * n_real * reals / total**2, axis=1)
    by_real = np.cumsum(density * n_fake * weight * n_real * fakes / total**2, axis=1)
    variance = _variance(precision + by_fake, density) / n_fake
    variance += _variance(by_real, real_density) / n_real
    noise = (1 - fakes) * (1 - precision) + precision * weight * (1 - reals)
    bias = ((1 - precision) * -np.expm1(-total) / total * noise * density).sum(1)
    kept = ap < 1 - 1e-9
    # As shares of what is left to 1, which are smooth.
    at, rest = logit(ap[kept]), 1 - ap[kept]
    true = np.r_[ap[0], GRID[GRID > ap[0]]]
    place = np.minimum(logit(true), at[-1])
    bias = (1 - true) * np.interp(place, at, bias[kept] / rest)
    variance = (1 - true) * np.interp(place, at, variance[kept] / rest)
    return Curve(np.r_[true, 1.0], np.r_[true + bias, 1.0], np.r_[variance, 0.0])


def _variance(x: np.ndarray, density: np.ndarray) -> np.ndarray:
    mean = (x * density).sum(1, keepdims=True)
    return ((x - mean) ** 2 * density).sum(1)
