"""Figures over training seeds, and beside the number of images of each label."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    roc_auc_score,
)

from item_jax import config as config_lib
from item_jax import model_card, report_tables, results, tables
from item_jax.embeddings import Embeddings
from item_jax.evaluate import evaluate_methods
from item_jax.outside_scores import OutsideScores

EMBEDDING = {
    "tower": {"name": "tiny", "checkpoint_sha256": "", "embed_dim": 4, "family": ""},
    **{"dtype": "float32", "captioner": None, "grounder": None},
    "perturb": {"name": "none", "severity": 0},
    "neutralise": {"quality": 0, "size": 0},
}


@dataclasses.dataclass
class Cache:
    """Images with labels; each has the same embedding."""

    rows: list
    real_sources: dict = dataclasses.field(default_factory=dict)
    embedding = EMBEDDING
    manifest = {"records_sha256": ""}

    def __iter__(self):
        n = len(self.rows)
        ones, none = np.ones((n, 4), np.float32), np.zeros((0, 4), np.float32)
        offsets = np.zeros(n + 1, np.int64)
        yield Embeddings(self.rows, ones, ones, none, none, offsets), []


def rows_of(counts, *, shared=0):
    """Rows of generators by {name: (real, fake)}, and real images of none."""
    rows = []
    for name, (real, fake) in {**counts, "": (shared, 0)}.items():
        for label, count in (("real", real), ("fake", fake)):
            for i in range(count):
                rows.append(
                    {
                        **{"key": f"{name}/{label}/{i}", "label": label},
                        **{"generator": name, "benchmark": "own", "split": "test"},
                        **{"caption": "x", "objects": [], "status": "done"},
                    }
                )
    return rows


def seeds_of(cache, columns, *, trained=(), outside=False):
    """A method of given scores, one array `[N]` a training seed."""
    made = []
    for k, column in enumerate(columns):
        settings = {"scores": "x.csv", "train": {"seeds": len(columns)}}
        training = {
            **{"real": 5, "fake": 5, "split": "train", "only": [], "seed": 10 + k},
            **{"generators": list(trained), "benchmarks": [], "records_sha256": "x"},
            "settings": settings,
        }
        config = {"method": "m", "embedding": EMBEDDING, "threshold": 0.5}
        by_key = {row["key"]: float(s) for row, s in zip(cache.rows, column)}
        made.append(OutsideScores(config | {"training": training}, by_key))
    return made


def noisy(cache, strength, seed):
    """Scores in (0, 1), the higher for fakes the higher the strength."""
    labels = np.array([row["label"] == "fake" for row in cache.rows])
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-rng.normal(size=len(labels)) - strength * (labels - 0.5)))


@pytest.fixture
def config():
    c = config_lib.default()
    c.evaluate.split = "test"
    return c


def truth(cache, column, group):
    index = [
        i
        for i, row in enumerate(cache.rows)
        if row["generator"] == group
        or (row["generator"] == "" and row["label"] == "real")
    ]
    labels = np.array([cache.rows[i]["label"] == "fake" for i in index])
    return labels, np.asarray(column)[index]


# ------------------------------------------------------------------- training seeds


@pytest.fixture
def opposite(config):
    """Two methods of four seeds. Seed 0 says the second is worse; the means, better."""
    cache = Cache(rows_of({"gan": (60, 60), "vae": (40, 50)}))
    first = [noisy(cache, s, k) for k, s in enumerate((2.0, 0.2, 0.3, 0.2))]
    other = [noisy(cache, s, 10 + k) for k, s in enumerate((0.1, 2.0, 2.2, 1.9))]
    fitted = {"a": seeds_of(cache, first), "b": seeds_of(cache, other)}
    return cache, {"a": first, "b": other}, evaluate_methods(cache, fitted, config)


def test_every_figure_is_the_mean_over_seeds(opposite):
    cache, columns, found = opposite
    for name, method in found["methods"].items():
        for group, own in method["generators"].items():
            pairs = [truth(cache, column, group) for column in columns[name]]
            for figure, score in (
                ("auc", roc_auc_score),
                ("ap", average_precision_score),
                ("acc", lambda y, s: np.mean((s > 0.5) == y)),
                ("balanced_acc", lambda y, s: balanced_accuracy_score(y, s > 0.5)),
            ):
                expected = np.mean([score(*pair) for pair in pairs])
                assert own[figure] == pytest.approx(expected), (name, group, figure)
                low, high = own["interval_95"][figure]
                assert low < own[figure] < high
        macro = np.mean([own["auc"] for own in method["generators"].values()])
        assert method["macro"]["auc"] == pytest.approx(macro)
        seeds = method["seeds"]
        assert seeds["macro"]["auc"]["mean"] == pytest.approx(macro)
        assert [one["seed"] for one in seeds["each"]] == [10, 11, 12, 13]
        each = [one["macro"]["auc"] for one in seeds["each"]]
        assert np.mean(each) == pytest.approx(macro)
        assert seeds["macro"]["auc"]["std"] == pytest.approx(np.std(each, ddof=1))
        assert "4 training seeds" in method["covers"]


def test_a_difference_has_the_sign_of_the_means_not_of_seed_0(opposite):
    _, _, found = opposite
    a, b = found["methods"]["a"], found["methods"]["b"]
    seed_0 = [m["seeds"]["each"][0]["macro"]["auc"] for m in (a, b)]
    assert seed_0[1] - seed_0[0] < -0.2, "seed 0 says the opposite"
    for figure in ("acc", "balanced_acc", "ap", "ap_balanced", "auc"):
        entry = b["difference"]["macro"][figure]
        expected = b["macro"][figure] - a["macro"][figure]
        assert entry["value"] == pytest.approx(expected) and expected > 0
        low, high = entry["interval_95"]
        assert low < entry["value"] < high and 0 < entry["p"] <= entry["p_holm"] <= 1
        assert (entry["p"] < 0.05) == (low > 0)
    for group, figures in b["difference"]["generators"].items():
        expected = b["generators"][group]["auc"] - a["generators"][group]["auc"]
        assert figures["auc"]["value"] == pytest.approx(expected)


def test_seeds_that_differ_widen_the_interval(config):
    cache = Cache(rows_of({"gan": (300, 300)}))
    calm = [noisy(cache, 1.0, k) for k in range(4)]
    wild = [noisy(cache, s, k) for k, s in enumerate((0.1, 0.5, 1.5, 2.4))]
    fitted = {n: seeds_of(cache, c) for n, c in (("calm", calm), ("wild", wild))}
    found = evaluate_methods(cache, fitted, config)["methods"]
    width = {n: np.ptp(m["macro_interval_95"]["auc"]) for n, m in found.items()}
    assert width["wild"] > 3 * width["calm"]


def test_table_report_and_card_show_the_means(opposite):
    _, _, found = opposite
    a, b = found["methods"]["a"], found["methods"]["b"]
    text = tables.table(found)
    less = b["difference"]["macro"]["auc"]["value"]
    assert less > 0 and f"{100 * less:+.2f} (" in text
    assert f"{100 * a['generators']['gan']['auc']:.2f}" in text
    assert "means over 4 training seeds" in text
    page = report_tables.methods(found)
    assert f"{100 * less:+.2f} <small>" in page
    for name, method in found["methods"].items():
        shown = f"{100 * method['macro']['auc']:.2f} <small>"
        assert shown in page and shown in report_tables._of_method(found, name)
    card = model_card._figures(a["config"], found)
    for own in a["generators"].values():
        assert f"{100 * own['auc']:.2f} (" in card
    assert "means over 4 training seeds" in card


def test_scores_of_every_seed_are_kept_and_drawn(opposite, config, tmp_path):
    cache, columns, _ = opposite
    fitted = {name: seeds_of(cache, own) for name, own in columns.items()}
    evaluate_methods(cache, fitted, config, folder=tmp_path)
    header = (tmp_path / "scores.csv").read_text().split("\n")[0]
    assert ",p_fake_b,p_fake_b@seed-11,p_fake_b@seed-12,p_fake_b@seed-13" in header
    read = results.read(tmp_path)
    for name, own in columns.items():
        assert len(read.seeds[name]) == 4
        for column, again in zip(own, read.seeds[name]):
            np.testing.assert_allclose(again, column, rtol=1e-8)
        np.testing.assert_array_equal(read.scores[name], read.seeds[name][0])
    from item_jax import figures, report

    report.write(tmp_path / "r.html", read)
    page = (tmp_path / "r.html").read_text()
    assert "evidence are of the first training seed." in page
    drawn = figures.curves(read)["roc"]
    lines = {line.get_label(): line.get_data() for line in drawn.axes[0].get_lines()}
    for group, own in read.summary["generators"].items():
        (curve,) = (d for label, d in lines.items() if label.startswith(f"{group}, "))
        area = np.trapezoid(curve[1], curve[0])
        assert area == pytest.approx(own["auc"], abs=0.01), "the mean, not seed 0"


def test_one_class_with_several_seeds_is_a_sentence(config, tmp_path):
    cache = Cache(rows_of({"gan": (0, 30)}))
    fitted = {"a": seeds_of(cache, [noisy(cache, 1, k) for k in range(5)])}
    found = evaluate_methods(cache, fitted, config, folder=tmp_path)
    text = " ".join(tables.table(found).split())
    assert "over 5 training seeds" in text and "undefined on every generator" in text
    assert "gan has only fake images" in text
    from item_jax import figures

    drawn = figures.of_results(results.read(tmp_path))
    assert set(drawn) == {"cosines"}, "nothing else has anything to show"
    assert "undefined on every generator" in report_tables.generators(found)
    card = model_card._figures(found["methods"]["a"]["config"], found)
    assert "undefined on every generator" in card


# ------------------------------------------------------------------ counts and chance


@pytest.fixture
def uneven(config):
    """Two generators against the same 500 real images, one of which was trained on."""
    cache = Cache(rows_of({"gan": (0, 150), "vae": (0, 100)}, shared=500))
    columns = {"a": noisy(cache, 1, 0), "zero": np.zeros(len(cache.rows))}
    fitted = {
        "a": seeds_of(cache, [columns["a"]], trained=["vae"]),
        "zero": seeds_of(cache, [columns["zero"]]),
    }
    return cache, columns, evaluate_methods(cache, fitted, config)


def test_counts_chance_and_majority_are_in_the_results(uneven):
    cache, columns, found = uneven
    for name, method in found["methods"].items():
        for group, own in method["generators"].items():
            labels, scores = truth(cache, columns[name], group)
            assert (own["n_real"], own["n_fake"]) == (500, labels.sum())
            assert own["majority"] == pytest.approx(500 / len(labels))
            assert own["majority_class"] == "real"
            assert own["ap_chance"] == pytest.approx(labels.mean())
            expected = balanced_accuracy_score(labels, scores > 0.5)
            assert own["balanced_acc"] == pytest.approx(expected)
            if name == "a":
                weights = np.where(labels, 1 / labels.sum(), 1 / (~labels).sum())
                ap = average_precision_score(labels, scores, sample_weight=weights)
                assert own["ap_balanced"] == pytest.approx(ap)
    zero = found["methods"]["zero"]["macro"]
    assert zero["acc"] > found["methods"]["a"]["macro"]["acc"], "ACC alone misleads"
    assert zero["balanced_acc"] == 0.5 < found["methods"]["a"]["macro"]["balanced_acc"]
    label, base = tables.chance(found)
    assert label == "always real"
    assert base["acc"] == pytest.approx(zero["acc"]) and base["balanced_acc"] == 0.5
    assert base["ap"] == pytest.approx((150 / 650 + 100 / 600) / 2)
    json.dumps(found)


def test_thresholds_are_shown_beside_the_majority_class(uneven):
    _, _, found = uneven
    page = report_tables.calibration(found)
    last = page.rpartition("<tr")[2]
    majority = (500 / 650 + 500 / 600) / 2
    assert "always real" in last and f"{100 * majority:.2f}" in last
    assert "500 real + 100 to 150 fake images a generator" in page
    floor = found["methods"]["a"]["macro"]["ece_balanced_floor"]
    assert 0 < floor < 0.2 and f"<td>{floor:.3f}</td>" in page


def test_shared_real_images_count_once_in_an_average(uneven):
    _, _, found = uneven
    assert found["average"] == {
        **{"generators": ["gan", "vae"], "n": 750, "n_real": 500, "n_fake": 250}
    }
    assert found["average_unseen"] == {
        **{"generators": ["gan"], "n": 650, "n_real": 500, "n_fake": 150}
    }
    for text in (
        *(tables.table(found), report_tables.generators(found)),
        model_card._figures(found["methods"]["a"]["config"], found),
    ):
        assert "counted once" in " ".join(text.split())
    (line,) = re_lines(tables.table(found), "macro average")
    assert line.split()[2:4] == ["500", "250"]


def re_lines(text, start):
    return [line for line in text.split("\n") if line.startswith(start)]


def test_trained_generators_are_marked_and_outside_the_unseen_average(uneven):
    _, _, found = uneven
    assert found["trained_on"] == {"gan": [], "vae": ["a"]}
    assert found["unseen"] == ["gan"]
    for method in found["methods"].values():
        for figure in ("acc", "balanced_acc", "ap_chance"):
            own = method["generators"]["gan"][figure]
            assert method["macro_unseen"][figure] == pytest.approx(own)
    a, zero = found["methods"]["a"], found["methods"]["zero"]
    low, high = a["macro_unseen_interval_95"]["auc"]
    assert low < a["macro_unseen"]["auc"] < high
    less = zero["difference"]["macro_unseen"]["balanced_acc"]["value"]
    assert less == pytest.approx(0.5 - a["macro_unseen"]["balanced_acc"])
    text = tables.table(found)
    assert re_lines(text, "vae* ") and re_lines(text, "gan ")
    (line,) = re_lines(text, "macro, unseen")
    assert f"{100 * a['macro_unseen']['auc']:.2f}" in line
    for page in (
        *(report_tables.generators(found), report_tables.methods(found)),
        model_card._figures(a["config"], found),
    ):
        assert (
            "macro, unseen" in page and f"{100 * a['macro_unseen']['auc']:.2f}" in page
        )


def test_counts_and_chance_are_in_every_picture(config, tmp_path):
    cache = Cache(rows_of({"gan": (0, 150), "vae": (0, 100)}, shared=500))
    fitted = {n: seeds_of(cache, [noisy(cache, 1, k)]) for k, n in enumerate("ab")}
    evaluate_methods(cache, fitted, config, folder=tmp_path)
    from item_jax import figures

    drawn = figures.of_results(results.read(tmp_path))
    ticks = [t.get_text() for t in drawn["auc"].axes[0].get_xticklabels()]
    assert ticks == ["gan\n(500 + 150)", "vae\n(500 + 100)"]
    counted = "500 real + 100 to 150 fake images a generator"
    for name, figure in drawn.items():
        if name in ("auc", "cosines"):
            continue  # which have them at each generator
        assert figure.axes[0].get_title() == counted, name
    for name in ("auc", "roc", "precision_recall", "methods_precision_recall"):
        lines = {line.get_label(): line for line in drawn[name].axes[0].get_lines()}
        assert "chance" in lines
        if name.endswith("recall"):
            share = (150 / 650 + 100 / 600) / 2
            assert lines["chance"].get_ydata()[0] == pytest.approx(share)
    legends = [t.get_title() for t in drawn["cosines"].axes]
    assert legends == ["gan", "vae"]


@pytest.mark.parametrize("trained", [["gan", "vae"], [], [""]])
def test_without_seen_or_unseen_there_is_one_average(trained, config):
    name = "" if trained == [""] else "gan"
    cache = Cache(rows_of({name or "x": (20, 20), "vae": (20, 20)}))
    if not name:
        for row in cache.rows:
            row["generator"] = ""
    fitted = {"a": seeds_of(cache, [noisy(cache, 1, 0)], trained=trained)}
    found = evaluate_methods(cache, fitted, config)
    text = tables.table(found)
    assert "macro, unseen" not in text.split("\n\n")[0]
    if trained:
        assert found["unseen"] == [] and found["methods"]["a"]["macro_unseen"] == {}
        assert "none of them is unseen" in text
    else:
        macro = found["methods"]["a"]["macro"]["auc"]
        assert found["methods"]["a"]["macro_unseen"]["auc"] == pytest.approx(macro)


def test_counts_that_are_equal_need_no_second_accuracy(config):
    cache = Cache(rows_of({"gan": (30, 30), "vae": (20, 20)}))
    fitted = {"a": seeds_of(cache, [noisy(cache, 1, 0)])}
    found = evaluate_methods(cache, fitted, config)
    head = tables.table(found).split("\n")[0]
    assert head.split() == ["generator", *("real fake ACC AP AUC AUC 95%".split())]
    (line,) = re_lines(tables.table(found), "chance")
    assert line.split()[1:] == ["50.00", "50.00", "50.00"]


@pytest.mark.parametrize("seeds", [1, 6])
@pytest.mark.parametrize("size", [3, 30_000])
def test_tables_fit_80_columns(seeds, size, config):
    """Long names, several benchmarks, large counts, long differences."""
    long = "diffusionforensics-" * 3
    cache = Cache(rows_of({f"{long}{k}": (30, 20 + k) for k in range(3)}))
    for i, row in enumerate(cache.rows):
        row["benchmark"] = ("forensynths", "diffusionforensics")[i % 2]
    fitted = {
        f"{name}-{long}": seeds_of(
            *(cache, [noisy(cache, s, k) for k in range(seeds)]), trained=[f"{long}1"]
        )
        for name, s in (("first", 3), ("other", -3))
    }
    found = evaluate_methods(cache, fitted, config)
    for own in (found["average"], found["average_unseen"]):
        own |= {k: v * size for k, v in own.items() if k != "generators"}
    for own in found["generators"].values():
        own |= {k: own[k] * size for k in ("n", "n_real", "n_fake")}
    text = tables.table(found)
    assert max(map(len, text.split("\n"))) <= tables.WIDE
    top = text.partition("\n\n")[0]
    assert len(set(re_lines(top, "di"))) == len(set(re_lines(top, "fo"))) == 3
    assert "*  " in text, "the mark is not cut"


# ----------------------------------------------------------------------- upside down


@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("counts", [(50, 50), (60, 25)])
def test_scores_upside_down_are_said(counts, outside, config, monkeypatch):
    cache = Cache(rows_of({"gan": counts, "vae": counts, "dm": counts}))
    fitted = {
        "good": seeds_of(cache, [noisy(cache, 2, 0)]),
        "bad": seeds_of(cache, [1 - noisy(cache, 2, 1)]),
    }
    if not outside:
        monkeypatch.setattr("item_jax.evaluate.OutsideScores", dict)
    found = evaluate_methods(cache, fitted, config)
    (said,) = (w for w in found["warnings"] if "higher than fakes" in w)
    assert said.startswith("bad scores real") and "on 3 of 3 generators" in said
    assert ("give 1 - score" in said) == outside
    assert said in " ".join(tables.table(found).split())
    assert said in report_tables.use(found)


@pytest.mark.parametrize("strengths", [(0.0,), (-0.05,), (2, 2, -2), (0, 0, 0)])
def test_chance_and_one_reversed_generator_are_not_upside_down(strengths, config):
    names = ["gan", "vae", "dm"][: len(strengths)]
    cache = Cache(rows_of(dict.fromkeys(names, (40, 40))))
    column = np.concatenate(
        [
            noisy(Cache(rows_of({name: (40, 40)})), s, k)
            for k, (name, s) in enumerate(zip(names, strengths))
        ]
    )
    found = evaluate_methods(cache, {"a": seeds_of(cache, [column])}, config)
    assert not [w for w in found["warnings"] if "higher than fakes" in w]
