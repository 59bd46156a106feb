"""Metrics of a detector: how well scores tell fake (1) from real (0).

Every function takes `labels`, integers [N], real 0 and fake 1, and `scores`, floats
[N], higher for fake; the threshold and the calibration error suppose that a score is
P(fake) in [0, 1]. Every figure is a fraction in [0, 1], a plain `float`, or None where
it is not defined, as the area under a curve is not with one class only. Arrays of
different lengths, labels other than 0 and 1, and scores that are NaN or infinite raise
ValueError, which names the first offender. Intervals and tests are in
`item_jax.statistics` and `item_jax.paired`, thresholds in `item_jax.calibration`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

THRESHOLD = 0.5
"""A score above this, not equal to it, says fake; UniFD's `validate.py`, strict >."""

FALSE_POSITIVE_RATES = (0.01, 0.05, 0.1)
"""Where `summary` gives the true positive rate. Not in the paper."""


def accuracy(
    labels: ArrayLike, scores: ArrayLike, *, threshold: float = THRESHOLD
) -> float | None:
    """Share of the images that are called rightly; None without images."""
    labels, scores = check(labels, scores)
    return _mean((scores > threshold) == (labels == 1))


def class_accuracy(
    labels: ArrayLike, scores: ArrayLike, *, threshold: float = THRESHOLD
) -> tuple[float | None, float | None]:
    """(r_acc, f_acc): share of the real images called real, of the fake called fake.

    None for a class without images.
    """
    labels, scores = check(labels, scores)
    fake = scores > threshold
    return _mean(~fake[labels == 0]), _mean(fake[labels == 1])


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """AP with fake as the positive class, step-wise as in scikit-learn and the paper.

    None unless both classes are present.
    """
    labels, scores = check(labels, scores)
    if not _both(labels):
        return None
    from sklearn.metrics import average_precision_score  # a verdict needs none of it

    return float(average_precision_score(labels, scores))


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve; None unless both classes are present."""
    labels, scores = check(labels, scores)
    if not _both(labels):
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, fpr: float) -> float | None:
    """Largest share of the fake images found with at most `fpr` false alarms.

    Taken at a threshold that exists, not interpolated: what one can really have.

    Args:
      labels: integers [N], real 0 and fake 1.
      scores: floats [N].
      fpr: share of the real images that may be called fake, in [0, 1].

    Returns:
      The true positive rate; None unless both classes are present.
    """
    labels, scores = check(labels, scores)
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr {fpr!r} is not a fraction in [0, 1]")
    if not _both(labels):
        return None
    false, true = _roc_curve(labels, scores)
    return float(true[false <= fpr].max())


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Where the false alarms are as frequent as the misses, on the ROC curve.

    The curve is a chain of straight lines, so the point is interpolated. None unless
    both classes are present.
    """
    labels, scores = check(labels, scores)
    if not _both(labels):
        return None
    false, true = _roc_curve(labels, scores)
    # false - (1 - true) grows from -1 to 1; its zero is the point.
    return float(np.interp(0.0, false + true - 1, false))


def expected_calibration_error(
    labels: ArrayLike, scores: ArrayLike, *, bins: int = 15, balanced: bool = False
) -> float | None:
    """How far P(fake) is from the share of fakes, on average over the images.

    The scores are sorted into `bins` equal parts of [0, 1] (the upper end belongs to
    the next, 1 to the last); each part adds |mean score - share of fakes|, weighted by
    its images. This is the error of the probability of one class (Naeini et al., AAAI
    2015), not of the confidence in the winner (Guo et al., ICML 2017, whose 15 bins
    are the default here). With `balanced` each class counts half, whatever its number
    of images; without both classes the error is then None.

    Returns:
      The error; None without images, or if scores leave [0, 1] and so are no
      probabilities.
    """
    labels, scores = check(labels, scores)
    if bins < 1:
        raise ValueError(f"bins {bins!r} is not a number >= 1")
    if len(scores) == 0 or scores.min() < 0 or scores.max() > 1:
        return None
    if balanced and not _both(labels):
        return None
    weights = image_weights(labels, balanced)
    part = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = np.bincount(part, weights=weights * (scores - labels), minlength=bins)
    return float(np.abs(gaps).sum())


def summary(
    labels: ArrayLike, scores: ArrayLike, *, threshold: float = THRESHOLD
) -> dict[str, int | float | None]:
    """All metrics at once, ready for JSON.

    Returns:
      `n`, `n_real`, `n_fake` (images), `acc`, `r_acc`, `f_acc`, `ap`, `auc`, `eer`,
      `tpr_at_fpr_1`, `_5` and `_10` (at 1, 5 and 10 % false alarms), `ece`; None where
      undefined.
    """
    labels, scores = check(labels, scores)
    r_acc, f_acc = class_accuracy(labels, scores, threshold=threshold)
    return {
        "n": len(labels),
        "n_real": int((labels == 0).sum()),
        "n_fake": int((labels == 1).sum()),
        "acc": accuracy(labels, scores, threshold=threshold),
        "r_acc": r_acc,
        "f_acc": f_acc,
        "ap": average_precision(labels, scores),
        "auc": roc_auc(labels, scores),
        "eer": equal_error_rate(labels, scores),
        **{
            f"tpr_at_fpr_{fpr * 100:g}": tpr_at_fpr(labels, scores, fpr)
            for fpr in FALSE_POSITIVE_RATES
        },
        "ece": expected_calibration_error(labels, scores),
    }


def image_weights(labels: np.ndarray, balanced: bool) -> np.ndarray:
    """Returns weights `[N]` that sum to 1.

    Args:
      labels: int64 `[N]`, real 0 and fake 1.
      balanced: whether each class counts half, whatever its number of images.

    Raises:
      ValueError: if balanced, unless there are images of both classes.
    """
    if not balanced:
        return np.full(len(labels), 1 / len(labels))
    counts = np.bincount(labels, minlength=2)
    if not counts.all():
        raise ValueError(missing_class(counts))
    return 0.5 / counts[labels]


def missing_class(counts: np.ndarray) -> str:
    """Returns the message for a set of one class; counts are [real, fake]."""
    return (
        f"images of both classes are needed, found {counts[0]} real, {counts[1]} fake"
    )


def check(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels, int64 `[N]`, and scores, float64 `[N]`.

    Raises:
      ValueError: as described at the top.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or scores.ndim != 1 or len(labels) != len(scores):
        raise ValueError(
            "labels and scores must be of one length [N], not "
            f"{list(labels.shape)} and {list(scores.shape)}"
        )
    wrong = np.flatnonzero(~((labels == 0) | (labels == 1)))
    if len(wrong):
        raise ValueError(
            f"label {labels[wrong[0]]!r} at index {wrong[0]} ({len(wrong)} such); "
            "allowed: 0 (real) and 1 (fake)"
        )
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise ValueError(
            f"score {scores[wrong[0]]} at index {wrong[0]} ({len(wrong)} such); "
            "allowed: finite numbers"
        )
    return labels.astype(np.int64), scores


def _roc_curve(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at every threshold."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    return false, true


def _both(labels: np.ndarray) -> bool:
    return bool((labels == 0).any() and (labels == 1).any())


def _mean(right: np.ndarray) -> float | None:
    return float(right.mean()) if len(right) else None
