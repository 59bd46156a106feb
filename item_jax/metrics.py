"""Metrics of a detector: how well scores tell fake (1) from real (0).

Every function takes `labels`, integers [N], real 0 and fake 1, and `scores`, floats
[N], higher for fake; the threshold and the calibration error suppose that a score is
P(fake) in [0, 1]. Every figure is a fraction in [0, 1], a plain `float`, or None where
it is not defined, as the area under a curve is not with one class only. Arrays of
different lengths, labels other than 0 and 1, and scores that are NaN or infinite raise
ValueError, which names the first offender. Intervals and tests are in
`item_jax.statistics`, thresholds in `item_jax.calibration`.
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


def balanced_accuracy(
    labels: ArrayLike, scores: ArrayLike, *, threshold: float = THRESHOLD
) -> float | None:
    """Mean of the accuracies of the classes; None unless both classes are present."""
    real, fake = class_accuracy(labels, scores, threshold=threshold)
    return None if real is None or fake is None else (real + fake) / 2


def average_precision(
    labels: ArrayLike, scores: ArrayLike, *, balanced: bool = False
) -> float | None:
    """AP with fake as the positive class, step-wise as in scikit-learn and the paper.

    The AP of scores that tell nothing is the share of fakes, so that those of test sets
    with other shares cannot be compared.

    Args:
      labels: integers [N], real 0 and fake 1.
      scores: floats [N].
      balanced: whether each class counts half: AP at a share of fakes of one half.

    Returns:
      The AP; None unless both classes are present.
    """
    labels, scores = check(labels, scores)
    if not _both(labels):
        return None
    from sklearn.metrics import average_precision_score  # a verdict needs none of it

    weights = image_weights(labels, True) if balanced else None
    return float(average_precision_score(labels, scores, sample_weight=weights))


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


def calibration_error_floor(
    scores: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    bins: int = 15,
    balanced: bool = False,
) -> float | None:
    """The calibration error that honest scores have on average.

    Even if a share P of the images with P(fake) = P is fake, few images show another
    share: an `expected_calibration_error` near this floor is no sign of dishonesty.
    In each part of [0, 1] the number of fakes is taken for binomial, whose mean
    absolute deviation is known exactly (De Moivre); with `balanced` the gap is taken
    for normal.

    Args:
      scores: P(fake), floats [N].
      labels: integers [N], real 0 and fake 1; used with `balanced` only, which needs
        the numbers of real and fake images.
      bins, balanced: as of `expected_calibration_error`.

    Returns:
      The expected error; None where the error itself would be.

    Raises:
      ValueError: for scores that are not finite, less than one part, or `balanced`
        without labels.
    """
    if balanced and labels is None:
        raise ValueError("balanced=True needs labels")
    scores = np.asarray(scores, np.float64)
    labels, scores = check(
        np.zeros(len(scores), int) if labels is None else labels, scores
    )
    if bins < 1:
        raise ValueError(f"bins {bins!r} is not a number >= 1")
    if len(scores) == 0 or scores.min() < 0 or scores.max() > 1:
        return None
    part = np.minimum((scores * bins).astype(int), bins - 1)

    def per_part(x):
        return np.bincount(part, weights=x, minlength=bins)

    if not balanced:
        count = np.bincount(part, minlength=bins)
        p = per_part(scores) / np.maximum(count, 1)
        return float(_mean_absolute_deviation(count, p).sum() / len(scores))
    if not _both(labels):
        return None
    # Honest scores: images of the mixture are fake with P(fake). Each class is drawn
    # from the mixture by that, and adds `gap` to the part that an image falls into.
    weights = image_weights(labels, True)
    variance = np.zeros(bins)
    for label, chance, gap in ((0, 1 - scores, scores), (1, scores, scores - 1)):
        own = int((labels == label).sum())
        drawn = weights * chance
        if drawn.sum() == 0:
            return None
        drawn = drawn / drawn.sum()
        mean, square = per_part(drawn * gap), per_part(drawn * gap**2)
        variance += 0.25 / own * np.maximum(square - mean**2, 0)
    return float(np.sqrt(2 * variance / np.pi).sum())


def _mean_absolute_deviation(n: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Of binomial numbers: 2 k C(n, k) p^k (1 - p)^(n - k + 1), k the next above np."""
    from scipy.special import gammaln, xlog1py, xlogy

    k = np.minimum(np.floor(n * p) + 1, np.maximum(n, 1))
    log = gammaln(n + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1)
    log = log + xlogy(k, p) + xlog1py(n - k + 1, -p)
    return np.where(n > 0, 2 * k * np.exp(log), 0.0)


def summary(
    labels: ArrayLike, scores: ArrayLike, *, threshold: float = THRESHOLD
) -> dict[str, int | float | None]:
    """All metrics at once, ready for JSON.

    Returns:
      `n`, `n_real`, `n_fake` (images), `acc`, `r_acc`, `f_acc`, `balanced_acc`, `ap`,
      `ap_balanced` (with as many real images as fakes), `auc`, `eer`, `tpr_at_fpr_1`,
      `_5` and `_10` (at 1, 5 and 10 % false alarms), `ece`, `ece_floor`; and what is to
      be had without looking: `majority`, the ACC of calling every image what most are,
      and `ap_chance`, the share of fakes (balanced, and of AUC, it is 0.5). None where
      undefined.
    """
    labels, scores = check(labels, scores)
    r_acc, f_acc = class_accuracy(labels, scores, threshold=threshold)
    fakes = float((labels == 1).mean()) if len(labels) else 0.0
    return {
        "n": len(labels),
        "n_real": int((labels == 0).sum()),
        "n_fake": int((labels == 1).sum()),
        "acc": accuracy(labels, scores, threshold=threshold),
        "r_acc": r_acc,
        "f_acc": f_acc,
        "balanced_acc": balanced_accuracy(labels, scores, threshold=threshold),
        "ap": average_precision(labels, scores),
        "ap_balanced": average_precision(labels, scores, balanced=True),
        "auc": roc_auc(labels, scores),
        "eer": equal_error_rate(labels, scores),
        **{
            f"tpr_at_fpr_{fpr * 100:g}": tpr_at_fpr(labels, scores, fpr)
            for fpr in FALSE_POSITIVE_RATES
        },
        "ece": expected_calibration_error(labels, scores),
        "ece_floor": calibration_error_floor(scores),
        "majority": max(fakes, 1 - fakes) if len(labels) else None,
        "ap_chance": fakes if _both(labels) else None,
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
