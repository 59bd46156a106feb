"""Metrics against scikit-learn and against numbers counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from item_jax import metrics
from item_jax.metrics import (
    accuracy,
    average_precision,
    balanced_accuracy,
    calibration_error_floor,
    class_accuracy,
    equal_error_rate,
    expected_calibration_error,
    roc_auc,
    summary,
    tpr_at_fpr,
)

# Ten images, fake and real by score:   F    F    R    F    F    R    R    F    R    R
LABELS = np.array([1, 1, 0, 1, 1, 0, 0, 1, 0, 0])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1])
CURVES = (average_precision, roc_auc, equal_error_rate)


def random_case(seed: int, levels: int | None = None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 300)
    labels[:2] = 0, 1
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.2), 0, 1)
    return labels, scores if levels is None else np.round(scores * levels) / levels


def test_counted_by_hand():
    assert accuracy(LABELS, SCORES) == 0.8  # wrong: the real 0.7, the fake 0.3
    assert class_accuracy(LABELS, SCORES) == (0.8, 0.8)
    # Precision at each fake found: 1/1, 2/2, 3/4, 4/5, 5/8.
    assert average_precision(LABELS, SCORES) == pytest.approx(
        (1 + 1 + 3 / 4 + 4 / 5 + 5 / 8) / 5
    )
    # Pairs in order: real 0.7 has 2 fakes above it; 0.5 and 0.4 four; 0.2, 0.1 five.
    assert roc_auc(LABELS, SCORES) == pytest.approx((2 + 4 + 4 + 5 + 5) / 25)
    assert tpr_at_fpr(LABELS, SCORES, 0) == 0.4
    assert tpr_at_fpr(LABELS, SCORES, 0.19) == 0.4
    assert tpr_at_fpr(LABELS, SCORES, 0.2) == 0.8
    assert tpr_at_fpr(LABELS, SCORES, 0.6) == 1
    assert tpr_at_fpr(LABELS, SCORES, 1) == 1
    assert equal_error_rate(LABELS, SCORES) == pytest.approx(0.2)


@pytest.mark.parametrize("levels", [None, 20, 3, 1])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_scikit_learn(seed, levels):
    labels, scores = random_case(seed, levels)
    fake = scores > 0.5
    assert accuracy(labels, scores) == sklearn_metrics.accuracy_score(labels, fake)
    assert class_accuracy(labels, scores) == pytest.approx(
        sklearn_metrics.recall_score(labels, fake, average=None)
    )
    assert average_precision(labels, scores) == (
        sklearn_metrics.average_precision_score(labels, scores)
    )
    assert roc_auc(labels, scores) == sklearn_metrics.roc_auc_score(labels, scores)


def test_the_threshold_itself_says_real():
    assert accuracy([0, 1], [0.5, 0.5]) == 0.5
    assert class_accuracy([0, 1], [0.5, 0.5]) == (1, 0)
    assert class_accuracy([0, 1], np.nextafter([0.5, 0.5], 1)) == (0, 1)
    assert accuracy([0, 1], np.array([0.5, 0.5], np.float32)) == 0.5
    assert class_accuracy(LABELS, SCORES, threshold=0.3) == (0.4, 0.8)
    assert class_accuracy(LABELS, SCORES, threshold=0.29) == (0.4, 1)


def test_ties():
    # One threshold takes all four at 0.5: 3 of 4 fakes with 1 of 4 reals.
    labels, scores = [1, 1, 1, 0, 0, 0, 0, 1], [0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0]
    assert average_precision(labels, scores) == pytest.approx(0.75 * 3 / 4 + 0.25 * 0.5)
    assert roc_auc(labels, scores) == pytest.approx(0.75)
    assert tpr_at_fpr(labels, scores, 0.24) == 0
    assert tpr_at_fpr(labels, scores, 0.25) == 0.75
    assert equal_error_rate(labels, scores) == pytest.approx(0.25)
    # A threshold between two others on one line of the curve can be chosen too.
    assert tpr_at_fpr([1, 0] * 3, [3, 3, 2, 2, 1, 1], 0.7) == pytest.approx(2 / 3)
    # The order of tied images must not matter.
    mixed = np.random.default_rng(0).permutation(8)
    for curve in CURVES:
        assert curve(np.array(labels)[mixed], np.array(scores)[mixed]) == (
            curve(labels, scores)
        )


def test_scores_all_equal_know_nothing():
    labels, scores = [0, 0, 0, 1], [0.7] * 4
    assert roc_auc(labels, scores) == 0.5
    assert average_precision(labels, scores) == 0.25  # the share of fakes
    assert equal_error_rate(labels, scores) == 0.5
    assert tpr_at_fpr(labels, scores, 0.5) == 0
    assert class_accuracy(labels, scores) == (0, 1)


def test_perfect_and_upside_down():
    labels, scores = [0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]
    assert (average_precision(labels, scores), roc_auc(labels, scores)) == (1, 1)
    assert equal_error_rate(labels, scores) == 0
    assert tpr_at_fpr(labels, scores, 0) == 1
    down = [1 - s for s in scores]
    assert roc_auc(labels, down) == 0 and equal_error_rate(labels, down) == 1
    assert average_precision(labels, down) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_equal_error_rate_between_two_thresholds():
    # ROC: (0, 0), (0, 1/2), (1/3, 1/2), (1/3, 1), (1, 1): crosses 1 - TPR at FPR 1/3.
    assert equal_error_rate([1, 0, 1, 0, 0], [5, 4, 3, 2, 1]) == pytest.approx(1 / 3)
    # ROC: (0, 0), (0, 1/3), (1, 1): the line between meets 1 - FPR at 2/5.
    labels, scores = [1, 1, 1, 0, 0], [0.9, 0.5, 0.5, 0.5, 0.5]
    assert equal_error_rate(labels, scores) == pytest.approx(2 / 5)
    normal = np.random.default_rng(0).normal(size=40_000)
    labels = np.repeat([0, 1], 20_000)
    # Two normal classes, two deviations apart: both errors are the tail beyond one.
    assert equal_error_rate(labels, normal + 2 * labels) == pytest.approx(
        0.1587, abs=0.005
    )


def test_calibration_error_by_hand():
    # Two bins: scores .2 .4 (one fake of two) and .6 .8 1.0 (two of three).
    labels, scores = [0, 1, 1, 0, 1], [0.2, 0.4, 0.6, 0.8, 1.0]
    by_hand = 2 / 5 * abs(0.3 - 1 / 2) + 3 / 5 * abs(0.8 - 2 / 3)
    assert expected_calibration_error(labels, scores, bins=2) == pytest.approx(by_hand)
    # One bin: only the means count.
    one = expected_calibration_error(labels, scores, bins=1)
    assert one == pytest.approx(abs(0.6 - 3 / 5))
    # 0.5 is the first of the upper half, 1 the last of it.
    assert expected_calibration_error([0, 1], [0.5, 1.0], bins=2) == pytest.approx(0.25)
    assert expected_calibration_error([0, 1], [0.49, 1.0], bins=2) == pytest.approx(
        0.245
    )
    assert expected_calibration_error([1, 0], [0.5, 1.0], bins=2) == pytest.approx(0.25)
    assert expected_calibration_error([0, 1], [0.0, 1.0]) == 0
    assert expected_calibration_error([1, 0], [0.0, 1.0]) == 1


def test_calibration_error_tells_honest_scores_from_boastful():
    rng = np.random.default_rng(0)
    honest = rng.uniform(size=50_000)
    labels = (rng.uniform(size=50_000) < honest).astype(int)
    assert expected_calibration_error(labels, honest) < 0.01
    boastful = np.clip(honest + 0.3 * np.sign(honest - 0.5), 0, 1)
    assert expected_calibration_error(labels, boastful) > 0.15
    # Against scikit-learn's calibration curve, bins without ends in the data.
    from sklearn.calibration import calibration_curve

    share, mean = calibration_curve(labels, honest, n_bins=15)
    weights = np.histogram(honest, bins=15, range=(0, 1))[0] / len(honest)
    assert expected_calibration_error(labels, honest) == pytest.approx(
        (weights * np.abs(share - mean)).sum()
    )


def test_scores_that_are_no_probabilities_have_no_calibration():
    assert expected_calibration_error([0, 1], [-0.1, 0.5]) is None
    assert expected_calibration_error([0, 1], [0.5, 7.0]) is None
    result = summary([0, 1], [-3.0, 7.0])
    assert result["ece"] is None and result["auc"] == 1 and result["acc"] == 1


# ----------------------------------------------------------------------- summary


def test_summary():
    result = summary(LABELS, SCORES)
    assert result == {
        "n": 10,
        "n_real": 5,
        "n_fake": 5,
        "acc": 0.8,
        "r_acc": 0.8,
        "f_acc": 0.8,
        "balanced_acc": 0.8,
        "ap": average_precision(LABELS, SCORES),
        "ap_balanced": average_precision(LABELS, SCORES),
        "auc": 0.8,
        "eer": pytest.approx(0.2),
        "tpr_at_fpr_1": 0.4,
        "tpr_at_fpr_5": 0.4,
        "tpr_at_fpr_10": 0.4,
        "ece": expected_calibration_error(LABELS, SCORES),
        "ece_floor": calibration_error_floor(SCORES),
        "majority": 0.5,
        "ap_chance": 0.5,
    }
    assert all(type(value) in (int, float) for value in result.values())
    assert json.loads(json.dumps(result)) == result
    assert summary(LABELS, SCORES, threshold=0.85)["f_acc"] == 0.2


@pytest.mark.parametrize(
    ("label", "count", "missing"), [(0, "n_real", "f_acc"), (1, "n_fake", "r_acc")]
)
def test_one_class_only(label, count, missing):
    labels, scores = np.full(4, label), np.array([0.2, 0.4, 0.6, 0.9])
    result = summary(labels, scores)
    assert result["n"] == result[count] == 4
    assert result["acc"] == 0.5 and result["ece"] is not None
    undefined = {key for key, value in result.items() if value is None}
    assert undefined == {
        missing,
        "balanced_acc",
        "ap",
        "ap_balanced",
        "ap_chance",
        "auc",
        "eer",
        "tpr_at_fpr_1",
        "tpr_at_fpr_5",
        "tpr_at_fpr_10",
    }
    for curve in CURVES:
        assert curve(labels, scores) is None


def test_no_images():
    result = summary([], [])
    assert result["n"] == result["n_real"] == result["n_fake"] == 0
    assert all(value is None for key, value in result.items() if key[0:1] != "n")


def test_lists_booleans_and_float_labels_are_the_same():
    expected = summary(LABELS, SCORES)
    assert summary(LABELS.tolist(), SCORES.tolist()) == expected
    assert summary(LABELS == 1, SCORES) == expected
    assert summary(LABELS.astype(float), SCORES) == expected


# ------------------------------------------------------------------------- refusals

ALL = [
    accuracy,
    class_accuracy,
    *CURVES,
    expected_calibration_error,
    summary,
    lambda labels, scores: tpr_at_fpr(labels, scores, 0.1),
]


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize(
    ("labels", "scores", "said"),
    [
        ([0, 1, 0], [0.1, 0.2], r"one length \[N\], not \[3\] and \[2\]"),
        ([[0, 1]], [[0.1, 0.2]], r"not \[1, 2\] and \[1, 2\]"),
        (0, 0.5, r"not \[\] and \[\]"),
        ([0, 1, 2, -1], [0.1] * 4, r"label .*2.* at index 2 \(2 such\); allowed: 0 "),
        ([0, 0.5], [0.1] * 2, "label .*0.5.* at index 1"),
        ([None, 1], [0.1] * 2, "label None at index 0"),
        (["real", "fake"], [0.1] * 2, "label .*'real'.* at index 0"),
        ([0, 1, 1], [0.1, np.nan, np.nan], r"score nan at index 1 \(2 such\)"),
        ([0, 1], [0.1, np.inf], "score inf at index 1"),
        ([0, 1], [-np.inf, 0.1], "score -inf at index 0"),
    ],
)
def test_refusals(metric, labels, scores, said):
    with pytest.raises(ValueError, match=said):
        metric(labels, scores)


def test_wrong_options():
    for fpr in (-0.1, 5, float("nan")):
        with pytest.raises(ValueError, match="is not a fraction"):
            tpr_at_fpr(LABELS, SCORES, fpr)
    with pytest.raises(ValueError, match="bins 0"):
        expected_calibration_error(LABELS, SCORES, bins=0)


def test_threshold_is_unifds():
    assert metrics.THRESHOLD == 0.5


# ---------------------------------------------------- classes of different numbers


def unequal(reals=70, fakes=10, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [reals, fakes])
    return labels, 1 / (1 + np.exp(-rng.normal(labels * 2.0 - 1)))


def test_balanced_figures_are_those_of_repeated_images():
    labels, scores = unequal()
    again = np.repeat(np.arange(80), np.where(labels == 1, 7, 1))  # 70 of each
    found = summary(labels, scores)
    assert found["balanced_acc"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(labels, scores > 0.5)
    )
    assert found["balanced_acc"] == pytest.approx(
        accuracy(labels[again], scores[again])
    )
    assert found["ap_balanced"] == pytest.approx(
        sklearn_metrics.average_precision_score(labels[again], scores[again])
    )
    assert found["ap_balanced"] > found["ap"]


def test_what_is_to_be_had_without_looking():
    labels, _ = unequal()
    rng = np.random.default_rng(0)
    found = summary(labels, rng.permutation(80) / 80)
    assert found["majority"] == accuracy(labels, np.zeros(80)) == 0.875
    assert found["ap_chance"] == average_precision(labels, np.zeros(80)) == 0.125
    assert summary(1 - labels, np.zeros(80))["majority"] == 0.875
    assert balanced_accuracy(labels, np.zeros(80)) == 0.5
    assert balanced_accuracy(np.zeros(4, int), np.zeros(4)) is None
    flat = np.full(80, 0.3)
    assert average_precision(labels, flat, balanced=True) == pytest.approx(0.5)


@pytest.mark.parametrize("n", [20, 100, 2000])
@pytest.mark.parametrize("kind", ["even", "sure", "unsure"])
def test_the_floor_is_the_error_of_honest_scores(n, kind):
    rng = np.random.default_rng(n)
    scores = rng.beta(*{"even": (1, 1), "sure": (0.2, 0.3), "unsure": (9, 7)}[kind], n)
    errors = [
        expected_calibration_error((rng.random(n) < scores).astype(int), scores)
        for _ in range(800)
    ]
    floor = calibration_error_floor(scores)
    assert floor == pytest.approx(np.mean(errors), rel=0.05)


@pytest.mark.parametrize(("reals", "fakes"), [(100, 100), (500, 150), (40, 400)])
def test_the_balanced_floor_is_the_error_of_honest_scores(reals, fakes):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [reals, fakes])

    def honest():
        """P(fake) by Bayes' rule, as many fakes as reals: N(0, 1) against N(1.5, 1)."""
        x = rng.normal(1.5 * labels)
        return 1 / (1 + np.exp(-(1.5 * x - 1.5**2 / 2)))

    several = [honest() for _ in range(300)]
    errors = [expected_calibration_error(labels, s, balanced=True) for s in several]
    floors = [calibration_error_floor(s, labels=labels, balanced=True) for s in several]
    assert np.mean(floors) == pytest.approx(np.mean(errors), rel=0.08)


def test_the_floor_is_none_where_the_error_is():
    assert calibration_error_floor([]) is None
    assert calibration_error_floor([0.2, 1.3]) is None
    assert calibration_error_floor([0.2], labels=[1], balanced=True) is None
    assert calibration_error_floor([0.0, 1.0, 1.0]) == 0
    with pytest.raises(ValueError, match="balanced=True needs labels"):
        calibration_error_floor([0.2, 0.3], balanced=True)
    with pytest.raises(ValueError, match="bins 0"):
        calibration_error_floor([0.2], bins=0)
