"""Figures against scikit-learn, intervals against closed forms and SciPy."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
)

from item_jax import influence, statistics
from item_jax.statistics import FIGURES, estimate, holm

LEARN = {
    "acc": lambda y, s, w: accuracy_score(y, s > 0.5, sample_weight=w),
    "balanced_acc": lambda y, s, w: balanced_accuracy_score(
        y, s > 0.5, sample_weight=w
    ),
    "ap": lambda y, s, w: average_precision_score(y, s, sample_weight=w),
    "ap_balanced": lambda y, s, w: average_precision_score(
        y, s, sample_weight=w / np.bincount(y, weights=w)[y]
    ),
    "auc": lambda y, s, w: roc_auc_score(y, s, sample_weight=w),
}


def world(seed=0, *, reals=60, fakes=40, generators=3, levels=None, seeds=1):
    """Shared real images, fakes of several generators, two methods with seeds."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [reals, fakes * generators])
    common = rng.normal(size=len(labels))
    columns = {}
    for name, shift in (("a", 1.2), ("b", 0.8)):
        for k in range(seeds):
            own = shift * (labels - 0.5) + (common + rng.normal(size=len(labels))) / 2
            columns[name, k] = 1 / (1 + np.exp(-own))
    if levels:
        columns = {k: np.round(x * levels) / levels for k, x in columns.items()}
    groups = {
        f"g{k}": np.r_[:reals, reals + k * fakes : reals + (k + 1) * fakes]
        for k in range(generators)
    }
    place = np.argsort(shuffle := rng.permutation(len(labels)))
    groups = {name: rng.permutation(place[index]) for name, index in groups.items()}
    return labels[shuffle], groups, {k: x[shuffle] for k, x in columns.items()}


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize("levels", [None, 12, 3])
@pytest.mark.parametrize("figure", FIGURES)
def test_figures_are_scikit_learns(figure, levels):
    labels, groups, columns = world(levels=levels)
    found = estimate(labels, groups, columns)
    values = []
    for name, index in groups.items():
        y, s = labels[index], columns["a", 0][index]
        values.append(LEARN[figure](y, s, np.ones(len(y))))
        own = found.figure([("a", 0)], figure, name)
        assert own.value == pytest.approx(values[-1], abs=1e-12)
        assert found.value(("a", 0), figure, name) == own.value
        assert (own.n_real, own.n_fake, own.seeds, own.std) == (60, 40, 1, None)
        assert 0 <= own.low < own.value < own.high <= 1
    macro = found.figure([("a", 0)], figure)
    assert macro.value == pytest.approx(np.mean(values), abs=1e-12)
    # Shared real images count once.
    assert (macro.n_real, macro.n_fake) == (60, 120)
    some = found.figure([("a", 0)], figure, ["g0", "g2"])
    assert some.value == pytest.approx((values[0] + values[2]) / 2, abs=1e-12)
    assert (some.n_real, some.n_fake) == (60, 80)


def test_thresholds_are_each_columns_own():
    labels, groups, columns = world()
    found = estimate(labels, groups, columns, thresholds={("a", 0): 0.7})
    index = groups["g1"]
    for key, threshold in ((("a", 0), 0.7), (("b", 0), 0.5)):
        expected = ((columns[key][index] > threshold) == labels[index]).mean()
        assert found.value(key, "acc", "g1") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("levels", [None, 6])
@pytest.mark.parametrize("figure", FIGURES)
def test_influences_are_derivatives_by_the_weight_of_an_image(figure, levels):
    labels, groups, columns = world(reals=24, fakes=16, generators=1, levels=levels)
    y, s = labels, columns["a", 0]
    n = np.bincount(y)[y]
    if figure == "acc":
        _, found = influence._acc(y == 1, s > 0.5, False)
    elif figure == "balanced_acc":
        _, found = influence._acc(y == 1, s > 0.5, True)
    elif figure == "auc":
        _, found = influence._auc(y == 1, s)
    else:
        _, found = influence._ap(y == 1, s, figure == "ap_balanced")
    step, numeric = 1e-6, np.empty(len(y))
    for i in range(len(y)):
        both = []
        for sign in (1, -1):
            w = np.ones(len(y))
            w[i] += sign * step
            # Classes are drawn apart: each keeps its share of the whole.
            w *= n / np.bincount(y, weights=w)[y]
            both.append(LEARN[figure](y, s, w))
        numeric[i] = (both[0] - both[1]) / (2 * step)
    ddof = 0 if "acc" in figure else 1
    np.testing.assert_allclose(found, numeric * (n / (n - ddof)) ** 0.5, atol=1e-8)


def delong(labels, scores):
    """AUC and covariance from all pairs of images (DeLong et al. 1988, Eqs. 3 to 6)."""
    v10, v01 = [], []
    for s in scores:
        fake, real = s[labels == 1], s[labels == 0]
        kernel = (fake[:, None] > real) + 0.5 * (fake[:, None] == real)
        v10.append(kernel.mean(1))
        v01.append(kernel.mean(0))
    auc = np.mean(v10, axis=1)
    return auc, np.cov(v10) / len(v10[0]) + np.cov(v01) / len(v01[0])


@pytest.mark.parametrize("levels", [None, 5])
def test_products_of_influences_are_delongs_covariance(levels):
    labels, _, columns = world(levels=levels, generators=1)
    scores = [columns["a", 0], columns["b", 0]]
    auc, expected = delong(labels, scores)
    own = [influence._auc(labels == 1, s) for s in scores]
    assert [v for v, _ in own] == pytest.approx(auc, abs=1e-12)
    found = np.stack([x for _, x in own])
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-12)


# ------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("right", "n"), [(0, 9), (7, 30), (29, 30), (30, 30), (480, 500)]
)
def test_acc_where_nothing_is_measured_is_wilsons(right, n, monkeypatch):
    monkeypatch.setattr(influence, "TRUST", np.inf)
    labels = np.arange(2 * n) % 2
    scores = np.where(np.arange(2 * n) < 2 * right, labels, 1 - labels) * 0.8 + 0.1
    scores += np.linspace(0, 0.01, 2 * n)
    cell = influence.cell(labels, scores, "acc", 0.5)
    # Student's quantile is taken for the normal one.
    q = stats.t.ppf(0.975, 2 * n - 2)
    level = 2 * stats.norm.cdf(q) - 1
    expected = stats.binomtest(2 * right, 2 * n).proportion_ci(level, method="wilson")
    assert cell.ends(0.05) == pytest.approx(tuple(expected), abs=2e-4)


def test_auc_where_nothing_is_measured_is_newcombes_fifth_method(monkeypatch):
    """0.8 of 40 and 25 images: the end is where |0.8 - t| = q x error(t)."""
    monkeypatch.setattr(influence, "TRUST", np.inf)
    monkeypatch.setattr(influence, "NEWCOMBE", 1.0)
    influence.model.cache_clear()
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [25, 40])
    cell = influence.cell(labels, rng.normal(labels * 1.2), "auc", 0.5)
    low, high = cell.ends(0.05)
    influence.model.cache_clear()
    for end in (low, high):
        share = (1 - end) / (2 - end) + end / (1 + end)
        variance = end * (1 - end) * (1 + (65 / 2 - 1) * share) / (25 * 40)
        distance = abs(cell.value - end) / variance**0.5
        assert distance == pytest.approx(stats.t.ppf(0.975, 63), rel=1e-3)


def test_the_model_of_auc_and_ap_is_that_of_normal_scores():
    """Mean and variance of 4,000 test sets of 40 real images and 20 fakes."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 20])
    shift = 1.5
    big = np.repeat([0, 1], [400_000, 200_000])
    many = rng.normal(shift * big)
    for figure in ("auc", "ap", "ap_balanced"):
        true = LEARN[figure](big, many, np.ones(len(big)))
        found = [
            LEARN[figure](labels, rng.normal(shift * labels), np.ones(60))
            for _ in range(4000)
        ]
        curve = influence.model(figure, 40, 20)
        mean = np.interp(true, curve.true, curve.mean)
        assert mean == pytest.approx(np.mean(found), abs=0.004)
        error = np.interp(true, curve.true, curve.variance) ** 0.5
        assert error == pytest.approx(np.std(found), rel=0.08)


@pytest.mark.parametrize("n", [2, 5, 50, 1000])
@pytest.mark.parametrize("figure", FIGURES)
def test_separable_scores_have_an_interval(figure, n):
    labels = np.repeat([0, 1], n)
    scores = np.where(labels == 1, 0.9, 0.1) + np.linspace(0, 0.01, 2 * n)
    for column, value in (("right", scores), ("wrong", 1 - scores)):
        found = estimate(labels, {"g": np.arange(2 * n)}, {column: value})
        own = found.figure([column], figure, "g")
        assert 0 <= own.low <= own.value <= own.high <= 1
        assert own.high - own.low > 0.5 / (2 * n)
    best = estimate(labels, {"g": np.arange(2 * n)}, {"right": scores})
    own = best.figure(["right"], figure, "g")
    assert own.value == own.high == 1
    # The exact one-sided bound of a binomial share, which is the wider one.
    assert own.low > 0.025 ** (1 / n) - 0.12


def test_higher_levels_are_wider_and_more_images_narrower():
    for figure in FIGURES:
        widths = []
        for n in (20, 80, 320):
            labels, groups, columns = world(reals=n, fakes=n, generators=1)
            found = estimate(labels, groups, columns)
            ends = [
                found.figure([("a", 0)], figure, "g0", level=level).ends
                for level in (0.5, 0.9, 0.95, 0.99)
            ]
            assert (np.diff([low for low, _ in ends]) < 0).all()
            assert (np.diff([high for _, high in ends]) > 0).all()
            widths.append(np.ptp(ends[2]))
        assert widths[0] > 1.5 * widths[1] > 2 * widths[2]


# --------------------------------------------------- averages, seeds and differences


def test_averages_know_that_real_images_are_shared():
    labels, groups, columns = world(1, reals=200, fakes=200)
    found = estimate(labels, groups, columns)
    reals = labels == 0
    apart_labels = np.concatenate([labels[i] for i in groups.values()])
    apart_scores = np.concatenate([columns["a", 0][i] for i in groups.values()])
    starts = np.cumsum([0, *map(len, groups.values())])
    apart = estimate(
        apart_labels,
        {f"g{k}": np.arange(starts[k], starts[k + 1]) for k in range(3)},
        {"a": apart_scores},
    )
    for figure in FIGURES:
        joint = found.figure([("a", 0)], figure)
        other = apart.figure(["a"], figure)
        assert joint.value == pytest.approx(other.value)
        assert np.ptp(joint.ends) > 1.1 * np.ptp(other.ends)
        assert (joint.n_real, other.n_real) == (reals.sum(), 3 * reals.sum())


def test_the_error_of_an_average_of_many_images_is_delongs():
    labels, groups, columns = world(1, reals=900, fakes=900)
    found = estimate(labels, groups, columns).figure([("a", 0)], "auc")
    s = columns["a", 0]
    # All pairs: covariances of generators come from the shared real images.
    kernels = [
        (s[i[labels[i] == 1]][:, None] > s[np.sort(i[labels[i] == 0])])
        for i in groups.values()
    ]
    real = np.mean([k.mean(0) for k in kernels], 0)
    variance = real.var(ddof=1) / 900
    variance += sum(k.mean(1).var(ddof=1) for k in kernels) / 900 / 9
    assert np.ptp(found.ends) / 2 / stats.norm.ppf(0.975) == pytest.approx(
        variance**0.5, rel=0.02
    )


def test_a_difference_of_many_images_is_delongs_test():
    labels, groups, columns = world(3, reals=700, fakes=600, generators=1)
    rng = np.random.default_rng(0)
    close = columns["a", 0] + rng.normal(0.14 * labels, 0.2)
    found = estimate(labels, groups, {"a": columns["a", 0], "c": close})
    own = found.difference(["c"], ["a"], "auc", "g0")
    auc, covariance = delong(labels, [close, columns["a", 0]])
    error = (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]) ** 0.5
    assert own.value == pytest.approx(auc[0] - auc[1], abs=1e-12)
    assert np.ptp(own.ends) / 3.92 == pytest.approx(error, rel=0.05)
    z = own.value / error
    assert stats.norm.isf(own.p / 2) == pytest.approx(abs(z), rel=0.05)
    back = found.difference(["a"], ["c"], "auc", "g0")
    assert (back.value, back.low, back.high, back.p) == pytest.approx(
        (-own.value, -own.high, -own.low, own.p)
    )


def test_a_difference_of_acc_of_many_images_is_mcnemars_test():
    labels, groups, columns = world(3, reals=900, fakes=900, generators=1)
    found = estimate(labels, groups, columns)
    own = found.difference([("a", 0)], [("b", 0)], "acc", "g0")
    right = [(columns[m, 0] > 0.5) == labels for m in "ab"]
    only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    assert own.value == pytest.approx((only[0] - only[1]) / 1800)
    z = abs(only[0] - only[1]) / sum(only) ** 0.5
    assert stats.norm.isf(own.p / 2) == pytest.approx(z, rel=0.05)


def test_p_and_interval_agree():
    seen = set()
    for seed in range(40):
        labels, groups, columns = world(seed, reals=40, fakes=25, seeds=3)
        found = estimate(labels, groups, columns)
        sides = [("a", k) for k in range(3)], [("b", k) for k in range(3 - seed % 3)]
        for figure in FIGURES:
            for level in (0.95, 0.7):
                own = found.difference(*sides, figure, level=level)
                outside = not own.low <= 0 <= own.high
                assert (own.p < 1 - level) == outside
                seen.add(outside)
    assert seen == {True, False}


def test_the_same_method_twice_does_not_differ():
    labels, groups, columns = world()
    same = {"a": columns["a", 0], "again": columns["a", 0].copy()}
    found = estimate(labels, groups, same).difference(["a"], ["again"], "auc")
    assert (found.value, found.p) == (0, 1)
    assert found.low <= 0 <= found.high and found.high - found.low < 0.08


def test_seeds_widen_the_interval_by_students_quantile():
    labels, groups, columns = world(2, reals=4000, fakes=4000, generators=1)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=len(labels))
    some = {k: columns["a", 0] + w * noise for k, w in enumerate((0.1, 0.6, 1.2))}
    found = estimate(labels, groups, some)
    own = found.figure([0, 1, 2], "auc", "g0")
    values = [found.value(k, "auc", "g0") for k in some]
    assert own.value == pytest.approx(np.mean(values))
    assert own.std == pytest.approx(np.std(values, ddof=1))
    assert own.seeds == 3
    # Seeds differ far more than images move: nearly Student's interval of the values.
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert own.ends == pytest.approx(np.clip(expected, 0, 1), abs=0.01)
    same = estimate(labels, groups, dict.fromkeys(range(3), columns["a", 0]))
    one = same.figure([0], "auc", "g0")
    three = same.figure([0, 1, 2], "auc", "g0")
    assert three.ends == pytest.approx(one.ends, abs=1e-6) and three.std < 1e-12


def test_seeds_of_both_sides_are_in_a_difference():
    labels, groups, columns = world(2, reals=4000, fakes=4000, generators=1)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=len(labels))
    some = {
        (m, k): columns["a", 0] + w * noise
        for m, all_w in (("x", (0.1, 0.6, 1.2, 0.3)), ("y", (0.5, 1.0)))
        for k, w in enumerate(all_w)
    }
    found = estimate(labels, groups, some)
    x, y = [("x", k) for k in range(4)], [("y", k) for k in range(2)]
    own = found.difference(x, y, "auc", "g0")
    values = [[found.value(k, "auc", "g0") for k in side] for side in (x, y)]
    welch = stats.ttest_ind(*values, equal_var=False)
    assert own.value == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert (own.seeds, own.other_seeds) == (4, 2)
    assert own.p == pytest.approx(welch.pvalue, abs=0.02)
    one = found.difference(x, y[:1], "auc", "g0")
    assert (one.seeds, one.other_seeds) == (4, 1)


def test_what_is_in_the_interval_is_said():
    one = statistics.Interval(0.8, 0.7, 0.9, 0.95, 50, 40)
    assert one.covers() == (
        "test images; not training seeds or the choice of training images"
    )
    six = dataclasses.replace(one, seeds=6)
    assert six.covers() == (
        "test images and 6 training seeds; not the choice of training images"
    )
    pair = dataclasses.replace(six, other_seeds=1, p=0.2)
    assert pair.covers().startswith(
        "test images and 6 training seeds (one method has one seed)"
    )
    assert pair.to_json() == {
        **{"value": 0.8, "low": 0.7, "high": 0.9, "level": 0.95, "n_real": 50},
        **{"n_fake": 40, "seeds": 6, "p": 0.2, "other_seeds": 1},
        "covers": pair.covers(),
    }


def test_the_least_generator():
    labels, groups, columns = world()
    found = estimate(labels, groups, columns)
    for figure in FIGURES:
        least, name = found.minimum([("a", 0)], figure)
        each = {g: found.figure([("a", 0)], figure, g) for g in groups}
        assert least.value == each[name].value == min(f.value for f in each.values())
        assert least.low == min(f.low for f in each.values())
        strict = [
            found.figure([("a", 0)], figure, g, level=1 - 0.05 / 3).high for g in groups
        ]
        assert least.high == pytest.approx(min(strict))


def test_the_difference_of_means_is_welchs():
    labels, groups, columns = world()
    found = estimate(labels, groups, {}, means={"m": columns["a", 0]})
    own = found.mean_difference("m", "g1")
    values, y = columns["a", 0][groups["g1"]], labels[groups["g1"]]
    expected = stats.ttest_ind(values[y == 1], values[y == 0], equal_var=False)
    assert own.value == pytest.approx(values[y == 1].mean() - values[y == 0].mean())
    assert own.ends == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_many_images_are_multiplied_in_parts(monkeypatch):
    labels, groups, columns = world()
    before = estimate(labels, groups, columns).figure([("a", 0)], "auc")
    monkeypatch.setattr(statistics, "CHUNK", 7)
    after = estimate(labels, groups, columns).figure([("a", 0)], "auc")
    assert after.ends == pytest.approx(before.ends, abs=1e-12)


def test_holm_by_hand_and_by_definition():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    expected = {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}  # R: p.adjust(p, "holm")
    assert holm(p) == pytest.approx(expected)
    assert list(holm(p)) == list(p) and holm({}) == {}
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1, "b": 1}
    rng = np.random.default_rng(0)
    some = dict(enumerate(rng.uniform(0, 0.2, 30)))
    found = holm(some)
    for level in (0.01, 0.05, 0.3, 0.9):
        # Rejects in the order of p as long as p <= level / (tests that remain).
        rejected = set()
        for k, name in enumerate(sorted(some, key=some.get)):
            if some[name] > level / (len(some) - k):
                break
            rejected.add(name)
        assert {name for name, p in found.items() if p <= level} == rejected


# ------------------------------------------------------------------- hostile inputs


def hostile():
    """Twelve images and what is wrong with groups of them."""
    labels = np.array([0] * 6 + [1] * 6)
    scores = np.linspace(0.1, 0.9, 12)
    groups = {
        "good": np.arange(12),
        "one real": np.r_[0, 6:12],
        "one fake": np.arange(7),
        "no reals": np.arange(6, 12),
        "no fakes": np.arange(6),
        "empty": np.arange(0),
    }
    return labels, groups, scores


def test_what_cannot_be_computed_is_left_out_with_the_reason():
    labels, groups, scores = hostile()
    found = estimate(labels, groups, {"a": scores})
    assert found.left_out["a"] == {
        "one real": "1 real image; at least 2 of each class are needed",
        "one fake": "1 fake image; at least 2 of each class are needed",
        "no reals": "no real image; at least 2 of each class are needed",
        "no fakes": "no fake image; at least 2 of each class are needed",
        "empty": "no real image; at least 2 of each class are needed",
    }
    for figure in FIGURES:
        assert found.figure(["a"], figure, "good") is not None
        for group in found.left_out["a"]:
            assert found.value("a", figure, group) is None
            assert found.figure(["a"], figure, group) is None
            assert found.difference(["a"], ["a"], figure, group) is None
        assert found.averaged(["a"], figure) == ["good"]
        assert found.figure(["a"], figure) == found.figure(["a"], figure, "good")
        assert found.minimum(["a"], figure)[1] == "good"


def test_equal_scores_have_an_accuracy_and_no_ranking():
    labels, groups, scores = hostile()
    columns = {"a": scores, "flat": np.full(12, 0.2)}
    found = estimate(labels, {"good": groups["good"]}, columns)
    assert found.left_out == {
        "a": {},
        "flat": {"good": "all scores are equal, which ranks nothing"},
    }
    own = found.figure(["flat"], "acc", "good")
    assert own.value == 0.5 and own.low < 0.5 < own.high
    for figure in ("ap", "ap_balanced", "auc"):
        assert found.figure(["flat"], figure, "good") is None
        assert found.figure(["flat"], figure) is None
        assert found.minimum(["flat"], figure) is None
        assert found.difference(["flat"], ["a"], figure) is None
    assert found.difference(["flat"], ["a"], "acc") is not None


def test_nan_is_left_out_with_the_reason():
    labels, groups, scores = hostile()
    scores = scores.copy()
    scores[[3, 8]] = np.nan, np.inf
    found = estimate(labels, groups, {"a": scores})
    assert found.left_out["a"]["good"] == "2 of 12 scores are not finite"
    assert found.figure(["a"], "auc") is None and found.minimum(["a"], "acc") is None


def test_means_need_two_images_of_a_class_and_no_ranks():
    labels, groups, scores = hostile()
    flat = np.full(12, 0.3)
    found = estimate(labels, groups, {}, means={"m": scores, "flat": flat})
    own = found.mean_difference("m", "good")
    assert own.low < own.value < own.high
    assert found.mean_difference("flat", "good").ends == (0, 0)
    assert found.mean_difference("m", "one real") is None


def test_no_group_and_no_method():
    found = estimate(np.zeros(3, int), {}, {"a": np.zeros(3)})
    assert found.figure(["a"], "auc") is None and found.groups == ()
    assert estimate(np.zeros(3, int), {}, {}).left_out == {}


def test_unlabelled_images_of_no_group_do_no_harm():
    labels, groups, scores = hostile()
    expected = estimate(labels, groups, {"a": scores}).figure(["a"], "auc", "good")
    labels = np.r_[labels, -1, -1]
    scores = np.r_[scores, np.nan, 0.5]
    found = estimate(labels, groups, {"a": scores})
    assert found.figure(["a"], "auc", "good") == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.zeros(11, int)}, r"must be \[N\], found \[\[11\], \[12\]\]"),
        ({"groups": {"g": np.array([0, 12])}}, "'g' has rows that do not exist"),
        ({"groups": {"g": np.array([-1, 2])}}, "'g' has rows that do not exist"),
        ({"groups": {"g": np.array([2, 2])}}, "'g' has a row twice"),
        ({"labels": np.full(12, 2)}, "labels other than 0 and 1"),
    ],
)
def test_refusals(change, words):
    labels, groups, scores = hostile()
    given = {"labels": labels, "groups": groups, "columns": {"a": scores}} | change
    with pytest.raises(ValueError, match=words):
        estimate(**given)


def test_refusals_of_questions():
    labels, groups, scores = hostile()
    found = estimate(labels, groups, {"a": scores})
    with pytest.raises(ValueError, match="no figure 'f1'; those with intervals"):
        found.figure(["a"], "f1", "good")
    with pytest.raises(ValueError, match="needs one column or more"):
        found.figure([], "auc", "good")
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="is not in"):
            found.figure(["a"], "auc", "good", level=level)


# ------------------------------------------------------------------------- coverage


@pytest.fixture
def coverage(monkeypatch):
    """`scripts/interval_coverage.py`, and nothing of it stays."""
    path = Path(__file__).parent.parent / "scripts" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("simulated_coverage", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_the_simulated_truth_is_that_of_many_images(coverage):
    rng = np.random.default_rng(0)
    for case in (
        coverage.Case((0.86,), 90_000, 30_000, generators=2),
        coverage.Case((0.95,), 90_000, 30_000, spread=1.6),
    ):
        labels, groups = coverage.images(case)
        scores = ndtr(coverage.draw(case, rng)[0, 0])  # 0.5 at the threshold
        for figure in FIGURES:
            found = np.mean(
                [
                    LEARN[figure](labels[i], scores[i], np.ones(len(i)))
                    for i in groups.values()
                ]
            )
            assert coverage.truth(case, case.auc[0], figure) == pytest.approx(
                found, abs=0.004
            )


def test_the_simulated_seeds_vary_as_they_say(coverage):
    case = coverage.Case((0.86,), 150, 150, seeds=(2,), seed_error=2.0)
    rng = np.random.default_rng(0)
    shifts = case.shifts(0.86) + case.tau(0.86) * rng.normal(size=200_000)
    auc = ndtr(shifts / 2**0.5)
    assert coverage.truth(case, 0.86, "auc") == pytest.approx(auc.mean(), abs=5e-4)
    curve = influence.model("auc", 150, 150)
    error = np.interp(0.86, curve.true, curve.variance) ** 0.5
    assert auc.std() == pytest.approx(2 * error, rel=0.1)


def test_the_committed_table_is_of_its_figures(coverage):
    rows = json.loads(coverage.OUT.with_suffix(".json").read_text())
    page = coverage.OUT.with_suffix(".md").read_text()
    assert coverage.page(rows) == page
    assert max(map(len, page.splitlines())) <= 80
    expected = [
        (section, list(case.auc), figure)
        for section, case, figures, _ in coverage.cases()
        for figure in figures
    ]
    assert [(r["section"], r["auc"], r["figure"]) for r in rows] == expected
    one = [r for r in rows if r["section"] == "one generator"]
    assert min(r["coverage"] for r in one) >= coverage.WITHIN[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        {"auc": (0.995,), "n_real": 15, "n_fake": 15},
        {"auc": (0.983,), "n_real": 50, "n_fake": 50},
        {"auc": (0.995,), "n_real": 150, "n_fake": 150},
        {"auc": (0.86,), "n_real": 500, "n_fake": 150},
        {"auc": (0.95,), "n_real": 50, "n_fake": 50, "generators": 5},
        {"auc": (0.86,), "n_real": 150, "n_fake": 150, "seeds": (3,), "seed_error": 1},
        {"auc": (0.86,), "n_real": 150, "n_fake": 150, "seeds": (2,), "seed_error": 2},
        {"auc": (0.86, 0.86), "n_real": 150, "n_fake": 150, "seeds": (1, 1)},
        {"auc": (0.95, 0.86), "n_real": 50, "n_fake": 50, "seeds": (1, 1)},
    ],
    ids=str,
)
def test_95_percent_intervals_cover_the_truth(coverage, case):
    """Of 1,000 trials the share has a standard error of 0.7 points.

    Too wide are those of scores that rarely err; see `scripts/interval_coverage.md`.
    """
    rows = coverage.coverage(coverage.Case(**case), ("auc", "acc", "ap"), 1000, seed=1)
    shares = {row["figure"]: row["coverage"] for row in rows}
    assert min(shares.values()) >= 0.92, shares
    assert max(shares.values()) <= 0.99, shares
