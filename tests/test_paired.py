"""Tests against SciPy and against their definitions, written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from item_jax import paired
from item_jax.paired import bootstrap_p, delong, delong_covariance, holm, mcnemar


def case(seed=0, *, n=80, levels=None, shift=0.3):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 5 < 2).astype(int)
    rng.shuffle(labels)
    common = rng.normal(size=n)
    first = rng.normal(labels) + common
    second = rng.normal(labels * (1 + shift)) + common
    if levels:
        first, second = (np.round(x * levels) for x in (first, second))
    return labels, first, second


def by_definition(labels, scores):
    """AUC and covariance from all pairs of images (DeLong et al., Eqs. 3 to 6)."""
    v10, v01 = [], []
    for s in scores:
        fake, real = s[labels == 1], s[labels == 0]
        kernel = (fake[:, None] > real) + 0.5 * (fake[:, None] == real)
        v10.append(kernel.mean(1))
        v01.append(kernel.mean(0))
    m, n = (labels == 1).sum(), (labels == 0).sum()
    auc = np.array([v.mean() for v in v10])

    def s(v):
        v = np.array(v) - auc[:, None]
        return v @ v.T / (v.shape[1] - 1)

    return auc, s(v10) / m + s(v01) / n


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("seed", range(4))
def test_delong_is_its_definition(seed, levels):
    labels, *scores = case(seed, levels=levels)
    auc, covariance = delong_covariance(labels, scores)
    expected_auc, expected = by_definition(labels, scores)
    np.testing.assert_allclose(auc, expected_auc, rtol=0, atol=1e-12)
    np.testing.assert_allclose(covariance, expected, rtol=0, atol=1e-12)
    assert auc[0] == pytest.approx(roc_auc_score(labels, scores[0]), abs=1e-12)
    found = delong(labels, *scores)
    error = np.sqrt(expected[0, 0] + expected[1, 1] - 2 * expected[0, 1])
    z = (expected_auc[0] - expected_auc[1]) / error
    assert found.difference == pytest.approx(expected_auc[0] - expected_auc[1])
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=1e-10)
    assert found.interval_95 == pytest.approx(
        (found.difference - stats.norm.ppf(0.975) * error)
        + np.array([0, 2 * stats.norm.ppf(0.975) * error]),
        abs=1e-10,
    )


def test_delong_of_the_same_ranks_and_of_no_variance():
    labels, first, _ = case()
    assert delong(labels, first, 3 * first + 1) == (0, 1, (0, 0))
    perfect = labels * 1.0
    assert delong(labels, perfect, labels * 2.0).p == 1
    with pytest.raises(ValueError, match="no variance"):
        delong(labels, perfect, -perfect)
    with pytest.raises(ValueError, match="1 fake image; at least 2 of each class"):
        delong([0, 0, 1], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="1 of 4 scores are not finite"):
        delong([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], [0.1, np.nan, 0.3, 0.4])
    flat = np.zeros(len(labels))  # no ranks, but it can be compared with some
    assert delong(labels, first, flat).difference == pytest.approx(
        roc_auc_score(labels, first) - 0.5
    )


def test_delongs_p_is_uniform_without_a_difference():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 100)
    p = []
    for _ in range(600):
        common = rng.normal(labels)
        p.append(delong(labels, *(common + rng.normal(size=(2, 200)))).p)
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_scipys_binomial_test(seed):
    labels, first, second = case(seed)
    found = mcnemar(labels, first, second, thresholds=(0.5, 0.7))
    a = (first > 0.5) == labels
    b = (second > 0.7) == labels
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    expected = stats.binomtest(only_a, only_a + only_b).pvalue
    assert found.p == pytest.approx(expected, abs=1e-10)
    assert found.difference == pytest.approx(a.mean() - b.mean())


def test_mcnemar_of_many_images():
    right = {"both": 500, "a": 700, "b": 600, "none": 3}
    a = np.repeat([1, 1, 0, 0], list(right.values()))
    b = np.repeat([1, 0, 1, 0], list(right.values()))
    found = mcnemar(np.ones(len(a), int), a, b)
    chi2 = (abs(700 - 600) - 1) ** 2 / 1300
    assert found.p == pytest.approx(stats.chi2.sf(chi2, 1), abs=1e-10)
    assert found.p == pytest.approx(stats.binomtest(700, 1300).pvalue, abs=1e-3)
    assert right["a"] + right["b"] >= paired.EXACT_BELOW


def test_mcnemar_without_a_difference_or_images():
    labels, first, _ = case()
    assert mcnemar(labels, first, first) == (0, 1, None)
    with pytest.raises(ValueError, match="no image"):
        mcnemar([], [], [])
    with pytest.raises(ValueError, match="not finite"):
        mcnemar([0, 1], [0.1, np.nan], [0.2, 0.3])


def test_p_of_a_bootstrap():
    assert bootstrap_p(np.arange(1, 2000)) == pytest.approx(2 / 2000)
    assert bootstrap_p(np.r_[-1.0, np.full(98, 2), np.nan]) == pytest.approx(4 / 100)
    assert bootstrap_p(np.zeros(50)) == 1
    with pytest.raises(ValueError, match="no replicate"):
        bootstrap_p(np.array([np.nan]))
    rng = np.random.default_rng(0)
    draws = rng.normal(2, 1, 100_000)  # as wide as the error of an estimate of 2
    assert bootstrap_p(draws) == pytest.approx(2 * stats.norm.sf(2), abs=0.003)


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
