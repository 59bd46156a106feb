"""Thresholds, temperature and reliability against scikit-learn, SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from item_jax import calibration, metrics


def case(seed=0, *, n=300, levels=None, sharp=1.0):
    rng = np.random.default_rng(seed)
    labels = (rng.uniform(size=n) < 0.3).astype(int)
    labels[:2] = 0, 1
    scores = expit(sharp * rng.normal(2 * labels - 1))
    return labels, scores if levels is None else np.round(scores * levels) / levels


@pytest.mark.parametrize("levels", [None, 10, 2])
@pytest.mark.parametrize("seed", range(5))
def test_the_best_accuracy_is_that_of_all_thresholds(seed, levels):
    labels, scores = case(seed, levels=levels)
    found = calibration.best_accuracy(labels, scores)
    every = [-1e-9, *scores]
    best = max(accuracy_score(labels, scores > t) for t in every)
    assert found.accuracy == pytest.approx(best, abs=1e-12)
    assert found.accuracy == metrics.accuracy(labels, scores, threshold=found.threshold)
    real, fake = metrics.class_accuracy(labels, scores, threshold=found.threshold)
    assert (found.fpr, found.tpr) == pytest.approx((1 - real, fake))
    assert 0 <= found.threshold <= 1


def test_best_accuracy_at_the_ends():
    found = calibration.best_accuracy([1, 1, 0], [0.2, 0.3, 0.9])
    assert found.accuracy == pytest.approx(2 / 3) and found.threshold < 0.2
    found = calibration.best_accuracy([0, 0, 1], [0.2, 0.3, 0.1])
    assert found.accuracy == pytest.approx(2 / 3) and found.threshold >= 0.3
    assert calibration.best_accuracy([0, 1], [0.2, 0.8]).threshold == 0.5
    above = np.nextafter(0.5, 1)  # nothing lies between them
    assert calibration.best_accuracy([0, 1], [0.5, above]).accuracy == 1


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.1, 0.5])
def test_the_false_positive_rate_holds_on_new_images(fpr):
    """On average over many draws of the images the threshold is fitted on."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        labels = np.repeat([0, 1], [120, 20])
        scores = rng.uniform(size=140)  # so that a threshold t has the rate 1 - t
        found = calibration.at_fpr(labels, scores, fpr)
        assert found.fpr <= fpr
        rates.append(1 - found.threshold)
    assert np.mean(rates) <= fpr + 3 * np.std(rates) / 20
    assert np.mean(rates) > fpr - 1 / 121 - 3 * np.std(rates) / 20


def test_a_rate_needs_enough_real_images():
    scores = np.linspace(0, 1, 20)
    labels = np.r_[np.zeros(19, int), 1]
    assert calibration.at_fpr(labels, scores, 0.05).threshold == scores[18]
    with pytest.raises(
        ValueError, match="0.05 needs at least 19 real images, found 18"
    ):
        calibration.at_fpr(labels[1:], scores[1:], 0.05)
    with pytest.raises(ValueError, match="0.01 needs at least 99"):
        calibration.at_fpr(labels, scores, 0.01)
    for fpr in (0, 1, -0.1, np.nan):
        with pytest.raises(ValueError, match="not a fraction in"):
            calibration.at_fpr(labels, scores, fpr)


@pytest.mark.parametrize("sharp", [0.3, 1, 4])
def test_the_temperature_is_the_most_likely(sharp):
    labels, scores = case(sharp=sharp, n=500)
    found = calibration.temperature(labels, scores)

    def loss(log_t):
        return log_loss(labels, expit(logit(scores) / np.exp(log_t)))

    expected = minimize_scalar(loss, bounds=(-5, 5), method="bounded").x
    assert np.log(found) == pytest.approx(expected, abs=1e-4)
    after = calibration.apply_temperature(scores, found)
    assert log_loss(labels, after) <= log_loss(labels, scores)
    assert (np.argsort(after) == np.argsort(scores)).all()
    again = calibration.temperature(labels, after)
    assert again == pytest.approx(1, abs=1e-6)


def test_scores_without_a_temperature():
    with pytest.raises(ValueError, match="separate the classes"):
        calibration.temperature([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9])
    with pytest.raises(ValueError, match="not higher for fake"):
        calibration.temperature([1, 1, 0, 0], [0.1, 0.4, 0.6, 0.9])
    with pytest.raises(ValueError, match="not higher for fake"):
        calibration.temperature([0, 1], [0.5, 0.5])


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_losses_are_scikit_learns(seed, balanced):
    labels, scores = case(seed)
    weights = None
    if balanced:
        weights = 1 / np.bincount(labels)[labels]
    options = {"balanced": balanced}
    assert calibration.negative_log_likelihood(
        labels, scores, **options
    ) == pytest.approx(log_loss(labels, scores, sample_weight=weights), abs=1e-10)
    assert calibration.brier(labels, scores, **options) == pytest.approx(
        brier_score_loss(labels, scores, sample_weight=weights), abs=1e-10
    )


def test_certain_and_wrong_is_finite():
    worst = calibration.negative_log_likelihood([1, 0], [0.0, 1.0])
    assert worst == pytest.approx(-np.log(calibration.CLIP))


def test_the_reliability_curve_is_scikit_learns():
    labels, scores = case(n=2000)
    curve = calibration.reliability(labels, scores, bins=10, balanced=False)
    fake, mean = calibration_curve(labels, scores, n_bins=10)
    np.testing.assert_allclose([b["fake"] for b in curve], fake, atol=1e-10)
    np.testing.assert_allclose([b["score"] for b in curve], mean, atol=1e-10)
    assert sum(b["n"] for b in curve) == 2000
    assert sum(b["weight"] for b in curve) == pytest.approx(1)
    for balanced in (False, True):
        curve = calibration.reliability(labels, scores, balanced=balanced)
        away = sum(b["weight"] * abs(b["score"] - b["fake"]) for b in curve)
        error = metrics.expected_calibration_error(labels, scores, balanced=balanced)
        assert error == pytest.approx(away, abs=1e-12)


def test_a_balanced_curve_is_that_of_as_many_of_each():
    """An honest score of a balanced world stays honest with few fakes."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [20_000, 2_000])
    logits = rng.normal(2 * labels - 1, 2**0.5)  # log odds at equal numbers
    scores = expit(logits * 2)
    error = metrics.expected_calibration_error
    honest = error(labels, expit(logits * 2 / 2), balanced=True)
    assert honest < 0.02
    assert error(labels, scores, balanced=True) > 0.05
    few = error(labels, expit(logits))
    assert few > 0.1, "prevalence alone, and no fault of the score"
    # Each fake ten times gives the same curve.
    many = np.r_[np.arange(20_000), np.repeat(np.arange(20_000, 22_000), 10)]
    a = calibration.reliability(labels, scores)
    b = calibration.reliability(labels[many], scores[many], balanced=False)
    for name in ("weight", "score", "fake"):
        np.testing.assert_allclose([x[name] for x in a], [x[name] for x in b])


def test_one_class_only_and_no_probabilities():
    for function in (
        calibration.best_accuracy,
        calibration.temperature,
        calibration.reliability,
        calibration.summary,
        lambda y, s: calibration.at_fpr(y, s, 0.5),
        lambda y, s: calibration.brier(y, s, balanced=True),
    ):
        with pytest.raises(ValueError, match="both classes .* found 0 real, 2 fake"):
            function([1, 1], [0.2, 0.3])
        with pytest.raises(ValueError, match=r"from -1 to 3 are not in \[0, 1\]"):
            function([0, 1], [-1.0, 3.0])
        with pytest.raises(ValueError, match="score nan at index 1"):
            function([0, 1], [0.1, np.nan])
        with pytest.raises(ValueError, match="no image"):
            function([], [])
    with pytest.raises(ValueError, match="bins 0"):
        calibration.reliability([0, 1], [0.1, 0.2], bins=0)


def test_a_threshold_transferred():
    labels, scores = case(0)
    fitted = calibration.at_fpr(labels, scores, 0.1)
    others, other_scores = case(1)
    found = calibration.apply_threshold(others, other_scores, fitted.threshold)
    real, fake = metrics.class_accuracy(
        others, other_scores, threshold=fitted.threshold
    )
    assert (found.fpr, found.tpr) == pytest.approx((1 - real, fake))
    assert found.fpr != fitted.fpr
