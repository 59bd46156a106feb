"""Joint resampling against scikit-learn, replicate by replicate, and its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score

from item_jax import resampling, statistics
from item_jax.statistics import FIGURES, interval, resample


def world(seed=0, *, reals=60, fakes=40, generators=3, levels=None):
    """Shared real images, fakes of several generators, two methods."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [reals, fakes * generators])
    first = 1 / (1 + np.exp(-rng.normal(1.2 * labels - 0.6)))
    second = 1 / (1 + np.exp(-rng.normal(0.8 * labels - 0.4) / 2 - first))
    if levels:
        first, second = (np.round(x * levels) / levels for x in (first, second))
    groups = {
        f"g{k}": np.r_[:reals, reals + k * fakes : reals + (k + 1) * fakes]
        for k in range(generators)
    }
    shuffle = rng.permutation(len(labels))
    place = np.argsort(shuffle)
    groups = {name: place[index] for name, index in groups.items()}
    return labels[shuffle], groups, {"a": first[shuffle], "b": second[shuffle]}


@pytest.mark.parametrize("levels", [None, 12, 3])
@pytest.mark.parametrize("clustered", [False, True])
def test_every_replicate_is_scikit_learns(levels, clustered, monkeypatch):
    labels, groups, columns = world(levels=levels)
    clusters = np.arange(len(labels)) // 3 if clustered else None
    drawn = []
    draw = resampling.Units.draw

    def keep(self, streams, many):
        weights = draw(self, streams, many)
        drawn.append((self.rows, weights))
        return weights

    monkeypatch.setattr(resampling.Units, "draw", keep)
    found = resample(
        labels,
        groups,
        columns,
        thresholds={"b": 0.6},
        means={"a": columns["a"]},
        clusters=clusters,
        replicates=70,
        threads=1,
    )
    weights = np.concatenate(
        [w[:, np.argsort(rows)] for rows, w in drawn]
    )  # all rows are of some group
    assert weights.shape == (70, len(labels))
    for r in (0, 1, 49, 50, 69):
        for g, index in enumerate(groups.values()):
            y, w = labels[index], weights[r][index]
            for name, scores in columns.items():
                s = scores[index]
                threshold = 0.6 if name == "b" else 0.5
                expected = [
                    accuracy_score(y, s > threshold, sample_weight=w),
                    average_precision_score(y, s, sample_weight=w),
                    roc_auc_score(y, s, sample_weight=w),
                ]
                np.testing.assert_allclose(
                    found.draws[name][g, :, r], expected, rtol=0, atol=1e-10
                )
            s = columns["a"][index]
            mean = [np.average(s[y == k], weights=w[y == k]) for k in (0, 1)]
            assert found.means["a"][1][g, r] == pytest.approx(mean[1] - mean[0])
    for g, index in enumerate(groups.values()):
        y, s = labels[index], columns["a"][index]
        values = accuracy_score(y, s > 0.5), average_precision_score(y, s)
        np.testing.assert_allclose(
            found.values["a"][g], [*values, roc_auc_score(y, s)], atol=1e-12
        )


def test_real_and_fake_are_drawn_apart_and_shared_images_once():
    labels, groups, columns = world()
    units = resampling.Units(labels, groups, columns["a"], None)
    weights = units.draw(units.streams(np.random.SeedSequence(0)), 20)
    drawn = np.zeros((20, len(labels)), int)
    drawn[:, units.rows] = weights
    assert (drawn[:, labels == 0].sum(1) == 60).all()
    for index in groups.values():
        assert (drawn[:, index].sum(1) == 100).all()
    assert len(np.unique(drawn, axis=0)) == 20


def test_clusters_are_drawn_whole():
    labels = np.tile([0, 1], 50)
    clusters = np.repeat(np.arange(50), 2)  # a real image and its fake
    units = resampling.Units(labels, {"g": np.arange(100)}, None, clusters)
    weights = np.zeros((9, 100), int)
    streams = units.streams(np.random.SeedSequence(0))
    weights[:, units.rows] = units.draw(streams, 9)
    assert (weights[:, ::2] == weights[:, 1::2]).all()
    assert (weights.sum(1) == 100).all()


def test_the_seed_decides_and_nothing_else():
    labels, groups, columns = world()
    options = {"replicates": 130, "seed": 7}
    one = resample(labels, groups, columns, threads=1, **options)
    two = resample(labels, groups, columns, threads=3, **options)
    np.testing.assert_array_equal(one.draws["a"], two.draws["a"])
    other = resample(labels, groups, columns, replicates=130, seed=8)
    assert (one.draws["a"] != other.draws["a"]).any()


def test_small_chunks_change_nothing(monkeypatch):
    labels, groups, columns = world()
    before = resample(labels, groups, columns, replicates=60)
    monkeypatch.setattr(statistics, "CHUNK", 1)
    after = resample(labels, groups, columns, replicates=60)
    np.testing.assert_array_equal(before.draws["b"], after.draws["b"])


def test_macro_minimum_and_differences():
    labels, groups, columns = world(1)
    found = resample(labels, groups, columns, replicates=300)
    values, draws = found.values["a"][:, 2], found.draws["a"][:, 2]
    value, ends = found.macro("a", "auc")
    assert value == pytest.approx(values.mean())
    assert ends == pytest.approx(np.quantile(draws.mean(0), [0.025, 0.975]))
    value, name, ends = found.minimum("a", "auc")
    assert (value, name) == (values.min(), f"g{values.argmin()}")
    assert ends == pytest.approx(np.quantile(draws.min(0), [0.025, 0.975]))
    value, each = found.difference("b", "a", "auc", "g1")
    assert value == pytest.approx(found.values["b"][1, 2] - values[1])
    np.testing.assert_allclose(each, found.draws["b"][1, 2] - draws[1])
    value, each = found.difference("b", "a", "auc")
    assert value == pytest.approx(found.macro("b", "auc")[0] - values.mean())
    # Shared real images make generators go up and down together: an average that
    # took them for independent would be too sure of itself.
    joint = found.macro("a", "auc")[1]
    apart = np.sqrt((draws.std(1) ** 2).sum()) / 3 * 1.96 * 2
    assert joint[1] - joint[0] > apart
    # On the same images methods are compared more sharply than their intervals tell.
    low, high = interval(each)
    widths = [np.ptp(found.macro(name, "auc")[1]) for name in "ab"]
    assert high - low < np.hypot(*widths)


def test_several_seeds():
    labels, groups, columns = world(2)
    rng = np.random.default_rng(0)
    seeds = {k: columns["a"] + rng.normal(0, 0.3, len(labels)) for k in range(4)}
    found = resample(labels, groups, seeds, replicates=2000)
    spread = found.over_seeds(range(4), "auc")
    values = np.array([found.values[k][0, 2] for k in range(4)])
    assert spread["g0"]["mean"] == pytest.approx(values.mean())
    assert spread["g0"]["std"] == pytest.approx(values.std(ddof=1))
    macro = [found.macro(k, "auc")[0] for k in range(4)]
    assert spread["macro"]["mean"] == pytest.approx(np.mean(macro))
    # The variance is that of the images plus that of a mean of four seeds.
    images = np.mean([found.draws[k][0, 2] for k in range(4)], 0)
    each = np.array([found.draws[k][0, 2] for k in range(4)])
    expected = images.var() + each.var(0, ddof=1).mean() / 4
    low, high = spread["g0"]["interval_95"]
    assert (high - low) / 3.92 == pytest.approx(expected**0.5, rel=0.1)
    same = resample(labels, groups, dict.fromkeys(range(3), columns["a"]))
    narrow = same.over_seeds(range(3), "auc")["g0"]
    assert narrow["std"] == 0
    assert narrow["interval_95"] == pytest.approx(same.interval(0, "g0", "auc"))
    with pytest.raises(ValueError, match="needs two or more"):
        found.over_seeds([0], "auc")


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
    found = resample(labels, groups, {"a": scores}, replicates=50)
    assert found.left_out["a"] == {
        "one real": "1 real image; at least 2 of each class are needed",
        "one fake": "1 fake image; at least 2 of each class are needed",
        "no reals": "no real image; at least 2 of each class are needed",
        "no fakes": "no fake image; at least 2 of each class are needed",
        "empty": "no real image; at least 2 of each class are needed",
    }
    for figure in FIGURES:
        assert found.interval("a", "good", figure) is not None
        for group in found.left_out["a"]:
            assert found.interval("a", group, figure) is None
            assert found.difference("a", "a", figure, group) is None
        value, ends = found.macro("a", figure)
        assert value == found.values["a"][0, FIGURES.index(figure)]
        assert found.minimum("a", figure)[1] == "good"


def test_equal_scores_have_an_accuracy_and_no_ranking():
    labels, groups, scores = hostile()
    columns = {"a": scores, "flat": np.full(12, 0.2)}
    found = resample(labels, {"good": groups["good"]}, columns, replicates=50)
    assert found.left_out == {
        "a": {},
        "flat": {"good": "all scores are equal, which ranks nothing"},
    }
    assert found.interval("flat", "good", "acc") == (0.5, 0.5)
    for figure in ("ap", "auc"):
        assert found.interval("flat", "good", figure) is None
        assert found.macro("flat", figure) is None
        assert found.difference("flat", "a", figure) is None
    assert found.difference("flat", "a", "acc") is not None


def test_nan_is_left_out_with_the_reason():
    labels, groups, scores = hostile()
    scores = scores.copy()
    scores[[3, 8]] = np.nan, np.inf
    found = resample(labels, groups, {"a": scores}, replicates=50)
    assert found.left_out["a"]["good"] == "2 of 12 scores are not finite"
    assert found.macro("a", "auc") is None and found.minimum("a", "acc") is None


def test_too_few_clusters():
    labels, groups, scores = hostile()
    clusters = np.zeros(12, int)
    found = resample(
        labels, {"g": groups["good"]}, {"a": scores}, clusters=clusters, replicates=20
    )
    reason = "1 real cluster; at least 2 of each class are needed"
    assert found.left_out["a"] == {"g": reason}


def test_means_need_two_images_of_a_class_and_no_ranks():
    labels, groups, scores = hostile()
    flat = np.full(12, 0.3)
    found = resample(
        labels, groups, {"a": scores}, means={"m": scores, "flat": flat}, replicates=50
    )
    value, (low, high) = found.mean_difference("m", "good")
    assert value == pytest.approx(scores[6:].mean() - scores[:6].mean())
    assert low < value < high
    assert found.mean_difference("flat", "good") == (0, (0, 0))
    assert found.mean_difference("m", "one real") is None


def test_no_group_and_no_method():
    found = resample(np.zeros(3, int), {}, {"a": np.zeros(3)}, replicates=2)
    assert found.macro("a", "auc") is None and found.groups == ()
    assert resample(np.zeros(3, int), {}, {}, replicates=2).values == {}


def test_unlabelled_images_of_no_group_do_no_harm():
    labels, groups, scores = hostile()
    labels = np.r_[labels, -1, -1]
    scores = np.r_[scores, np.nan, 0.5]
    found = resample(labels, groups, {"a": scores}, replicates=20)
    assert found.interval("a", "good", "auc") is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicates": 0}, "0 replicates"),
        ({"labels": np.zeros(11, int)}, r"must be \[N\], found \[\[11\], \[12\]\]"),
        ({"groups": {"g": np.array([0, 12])}}, "'g' has rows that do not exist"),
        ({"groups": {"g": np.array([-1, 2])}}, "'g' has rows that do not exist"),
        ({"groups": {"g": np.array([2, 2])}}, "'g' has a row twice"),
        ({"labels": np.full(12, 2)}, "labels other than 0 and 1"),
        ({"clusters": np.zeros(5)}, r"found .*\[5\]"),
    ],
)
def test_refusals(change, words):
    labels, groups, scores = hostile()
    given = {"labels": labels, "groups": groups, "columns": {"a": scores}} | change
    with pytest.raises(ValueError, match=words):
        resample(**given)


def test_intervals_of_replicates_that_lack_the_figure():
    draws = np.arange(100.0)
    assert interval(draws) == pytest.approx((2.475, 96.525))
    draws[:5] = np.nan
    assert interval(draws) is not None
    draws[:6] = np.nan
    assert interval(draws) is None and interval(draws[:0]) is None


# ------------------------------------------------------------------------- coverage


@pytest.mark.slow
def test_95_percent_intervals_cover_the_truth():
    """Two generators with shared reals, normal scores, so that the truth is known.

    AUC = Phi(d / sqrt 2). AP has no closed form: its truth is that of a million images
    of the same prevalence. Of 1,500 trials the share has a standard error of .56%.
    150 images a class; see `statistics.interval` for fewer.
    """
    from scipy.special import ndtr

    shifts = {"a": (1.0, 1.6), "b": (0.7, 1.2)}
    rng = np.random.default_rng(0)
    big = np.repeat([0, 1], 500_000)
    ap = {
        name: [average_precision_score(big, rng.normal(d * big)) for d in own]
        for name, own in shifts.items()
    }
    auc = {name: ndtr(np.array(own) / 2**0.5) for name, own in shifts.items()}
    acc = {
        name: [(ndtr(0.5) + 1 - ndtr(0.5 - d)) / 2 for d in own]
        for name, own in shifts.items()
    }
    truth = {
        "auc of a group": auc["a"][0],
        "ap of a group": ap["a"][0],
        "acc of a group": acc["a"][0],
        "macro auc": np.mean(auc["a"]),
        "macro ap": np.mean(ap["a"]),
        "difference of auc": auc["b"][0] - auc["a"][0],
        "difference of macro auc": np.mean(auc["b"]) - np.mean(auc["a"]),
        "difference of ap": ap["b"][0] - ap["a"][0],
        "mean difference": 1.0,
    }
    covered = dict.fromkeys(truth, 0)
    trials, n = 1500, 150
    labels = np.repeat([0, 1, 1], n)
    groups = {"g0": np.arange(2 * n), "g1": np.r_[:n, 2 * n : 3 * n]}
    for trial in range(trials):
        common = rng.normal(size=3 * n)
        columns = {}
        for name, own in shifts.items():
            noise = (common + rng.normal(size=3 * n)) / 2**0.5
            columns[name] = noise + np.repeat([0, *own], n)
        found = resample(
            labels,
            groups,
            columns,
            means={"m": columns["a"]},
            replicates=500,
            seed=trial,
        )
        got = {
            "auc of a group": found.interval("a", "g0", "auc"),
            "ap of a group": found.interval("a", "g0", "ap"),
            "acc of a group": found.interval("a", "g0", "acc"),
            "macro auc": found.macro("a", "auc")[1],
            "macro ap": found.macro("a", "ap")[1],
            "difference of auc": interval(found.difference("b", "a", "auc", "g0")[1]),
            "difference of macro auc": interval(found.difference("b", "a", "auc")[1]),
            "difference of ap": interval(found.difference("b", "a", "ap", "g0")[1]),
            "mean difference": found.mean_difference("m", "g0")[1],
        }
        for name, (low, high) in got.items():
            covered[name] += low <= truth[name] <= high
    shares = {name: count / trials for name, count in covered.items()}
    print(shares)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares
