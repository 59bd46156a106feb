"""Thresholds and temperatures fitted on held-out images; how honest P(fake) is.

Every function takes `labels`, integers [N], real 0 and fake 1, and `scores`, P(fake)
in [0, 1]. An image is called fake when its score is above the threshold, not equal to
it. What cannot be computed raises ValueError with the reason.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, xlogy

from item_jax.metrics import (
    calibration_error_floor,
    check,
    expected_calibration_error,
    image_weights,
    missing_class,
)

CLIP = 1e-7
"""P(fake) is kept this far from 0 and 1 where its logarithm is taken: about the
precision of float32."""

BINS = 15
"""Of a reliability curve, as in Guo et al. (ICML 2017)."""

SHARPEST = 1000.0
"""Temperatures lie between 1 / SHARPEST and SHARPEST."""


class Threshold(NamedTuple):
    """A threshold and what it does on the images it was fitted on.

    Attributes:
      threshold: in [0, 1].
      accuracy: share of the images called rightly.
      fpr: share of the real images called fake.
      tpr: share of the fake images called fake.
    """

    threshold: float
    accuracy: float
    fpr: float
    tpr: float


def apply_threshold(
    labels: ArrayLike, scores: ArrayLike, threshold: float
) -> Threshold:
    """Says what a threshold does on some images, such as of another generator."""
    y, s = _both_classes(labels, scores)
    fake = s > threshold
    return Threshold(
        threshold=float(threshold),
        accuracy=float((fake == (y == 1)).mean()),
        fpr=float(fake[y == 0].mean()),
        tpr=float(fake[y == 1].mean()),
    )


def best_accuracy(labels: ArrayLike, scores: ArrayLike) -> Threshold:
    """Fits the threshold of the highest accuracy.

    It lies midway between two neighbouring scores; of several it is the one nearest to
    0.5. On the images that a figure is computed on, it is an oracle's.

    Raises:
      ValueError: unless there are images of both classes.
    """
    y, s = _both_classes(labels, scores)
    order = np.argsort(s, kind="stable")
    values, start = np.unique(s[order], return_index=True)
    fakes = np.r_[0, np.cumsum(y[order])]
    ends = np.r_[start[1:], len(s)]
    # Right with everything up to `values[i]` called real; and with nothing called real.
    right = np.r_[y.sum(), ends - fakes[ends] + y.sum() - fakes[ends]]
    middle = (values[:-1] + values[1:]) / 2
    # A middle may round to the upper score, which must stay above.
    middle = np.where(middle < values[1:], middle, values[:-1])
    places = np.r_[values[0] / 2 if values[0] > 0 else np.nan, middle, values[-1]]
    right = np.where(np.isnan(places), -1, right)
    best = np.flatnonzero(right == right.max())
    chosen = best[np.abs(places[best] - 0.5).argmin()]
    return apply_threshold(y, s, float(places[chosen]))


def at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> Threshold:
    """Fits the threshold that calls at most a share of real images fake.

    It is the real score of rank ceil((n + 1) (1 - fpr)) of n. A new real image, drawn
    as those were, then exceeds it with a probability of at most `fpr` (split conformal
    prediction, Vovk et al. 2005).

    Raises:
      ValueError: for a rate outside (0, 1), images of one class only, or too few real
        images for the rate, with how many are needed.
    """
    y, s = _both_classes(labels, scores)
    if not 0 < fpr < 1:
        raise ValueError(f"fpr {fpr!r} is not a fraction in (0, 1)")
    real = np.sort(s[y == 0])
    # Rounded, or 20 x 0.95 would be 19.000000000000004 for one rate or another.
    rank = math.ceil(round((len(real) + 1) * (1 - fpr), 9))
    if rank > len(real):
        needed = math.ceil(round(1 / fpr, 9)) - 1
        raise ValueError(
            f"a false positive rate of {fpr:g} needs at least {needed} real images, "
            f"found {len(real)}"
        )
    return apply_threshold(y, s, float(real[rank - 1]))


def temperature(labels: ArrayLike, scores: ArrayLike) -> float:
    """Fits T of P' = sigmoid(logit(P) / T) by the likelihood (Guo et al., ICML 2017).

    Raises:
      ValueError: if no finite T is best: the scores separate the classes, or are higher
        for real images.
    """
    y, s = _both_classes(labels, scores)
    logits = _logit(s)

    def slope(log_sharpness: float) -> float:
        """Of the loss in 1 / T, in which it is convex."""
        return float(np.mean((expit(math.exp(log_sharpness) * logits) - y) * logits))

    end = math.log(SHARPEST)
    if slope(-end) >= 0:
        raise ValueError("no temperature: the scores are not higher for fake images")
    if slope(end) <= 0:
        raise ValueError("no temperature: the scores separate the classes")
    return math.exp(-float(brentq(slope, -end, end, xtol=1e-12)))


def apply_temperature(scores: ArrayLike, temperature: float) -> np.ndarray:
    """Returns sigmoid(logit(P) / T), float64 `[N]`; the order of scores stays."""
    return expit(_logit(np.asarray(scores, np.float64)) / temperature)


def negative_log_likelihood(
    labels: ArrayLike, scores: ArrayLike, *, balanced: bool = False
) -> float:
    """Mean of -log P(label), with P kept `CLIP` from 0 and 1; natural logarithm.

    Args:
      labels, scores: `[N]`.
      balanced: whether each class counts half, whatever its number of images.
    """
    y, s = _probabilities(labels, scores)
    s = np.clip(s, CLIP, 1 - CLIP)
    loss = -(xlogy(y, s) + xlogy(1 - y, 1 - s))
    return float(image_weights(y, balanced) @ loss)


def brier(labels: ArrayLike, scores: ArrayLike, *, balanced: bool = False) -> float:
    """Mean of (P(fake) - label)^2 (Brier 1950); see `negative_log_likelihood`."""
    y, s = _probabilities(labels, scores)
    return float(image_weights(y, balanced) @ (s - y) ** 2)


def reliability(
    labels: ArrayLike, scores: ArrayLike, *, bins: int = BINS, balanced: bool = True
) -> list[dict[str, Any]]:
    """The reliability curve: what share of images with such a score is fake.

    Args:
      labels, scores: `[N]`.
      bins: equal parts of [0, 1]; the upper end of one belongs to the next.
      balanced: whether each class counts half. Otherwise a test set of few fakes makes
        an honest score look boastful.

    Returns:
      For each part with images `low`, `high`, `n` (images), `weight` (share of the
      whole), `score` (mean P(fake)) and `fake` (share of fakes), both weighted.
    """
    y, s = _probabilities(labels, scores)
    if bins < 1:
        raise ValueError(f"bins {bins!r} is not a number >= 1")
    weights = image_weights(y, balanced)
    part = np.minimum((s * bins).astype(int), bins - 1)
    total, score, fake = (
        np.bincount(part, weights=w, minlength=bins)
        for w in (weights, weights * s, weights * y)
    )
    count = np.bincount(part, minlength=bins)
    return [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "n": int(count[i]),
            "weight": float(total[i]),
            "score": float(score[i] / total[i]),
            "fake": float(fake[i] / total[i]),
        }
        for i in np.flatnonzero(count)
    ]


def summary(labels: ArrayLike, scores: ArrayLike) -> dict[str, float | None]:
    """Class-balanced `nll`, `brier`, `ece_balanced` and its floor, the oracle's ACC.

    `oracle_acc` is the highest accuracy that any threshold has on these very images: a
    bound, and no result.

    Raises:
      ValueError: unless there are images of both classes.
    """
    return {
        "nll": negative_log_likelihood(labels, scores, balanced=True),
        "brier": brier(labels, scores, balanced=True),
        "ece_balanced": expected_calibration_error(labels, scores, balanced=True),
        "ece_balanced_floor": calibration_error_floor(
            scores, labels=labels, balanced=True
        ),
        "oracle_acc": best_accuracy(labels, scores).accuracy,
    }


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, CLIP, 1 - CLIP)
    return np.log(p) - np.log1p(-p)


def _probabilities(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    y, s = check(labels, scores)
    if not len(y):
        raise ValueError("no image")
    if s.min() < 0 or s.max() > 1:
        raise ValueError(f"scores from {s.min():g} to {s.max():g} are not in [0, 1]")
    return y, s


def _both_classes(
    labels: ArrayLike, scores: ArrayLike
) -> tuple[np.ndarray, np.ndarray]:
    y, s = _probabilities(labels, scores)
    counts = np.bincount(y, minlength=2)
    if not counts.all():
        raise ValueError(missing_class(counts))
    return y, s
