import csv
import dataclasses
import json
import re

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from item_jax import plots, report_tables
from item_jax.cache import EmbeddingCache
from item_jax.embed import embed_records
from item_jax.evaluate import evaluate_methods
from item_jax.records import Record
from item_jax.statistics import FIGURES
from item_jax.tables import table
from item_jax.train import fit_method
from item_jax.training_data import training_set


@pytest.fixture(scope="module")
def trained(photos, towers, tmp_path_factory):
    """A cache with one image that fails, a head of two seeds, and the baselines."""
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads, c.train.seeds = 10, 2, 2
    c.train.epochs = 5
    root, records = photos
    bad = Record("test/vae/1_fake/gone.png", "fake", "own", "vae", "test", "x")
    folder = tmp_path_factory.mktemp("trained")
    cache = embed_records(
        [*records, bad], towers, c, images=root, folder=folder / "embeddings"
    )
    data = training_set(cache, c)
    fitted = {"head": fit_method("item", data, c)}
    fitted |= {name: fit_method(name, data, c) for name in c.train.baselines}
    return cache, fitted, c


def in_one_line(results):
    """The table without its line breaks, for sentences."""
    return " ".join(table(results).split())


def test_figures_are_scikit_learns(trained, tmp_path):
    cache, fitted, config = trained
    results = evaluate_methods(cache, fitted, config, folder=tmp_path / "results")
    assert results["counts"] == {"in": 13, "done": 12, "failed": 1}
    assert [f["key"] for f in results["failures"]] == ["test/vae/1_fake/gone.png"]
    with open(tmp_path / "results/scores.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 13
    assert rows[-1]["status"] == "failed" and rows[-1]["p_fake"] == ""
    for name in ("gan", "vae"):
        own = [r for r in rows if r["generator"] == name and r["status"] == "done"]
        y = np.array([r["label"] == "fake" for r in own]).astype(int)
        seeds = [
            np.array([float(r[column]) for r in own])
            for column in ("p_fake", "p_fake@seed-1")
        ]
        found = results["generators"][name]
        assert found["n"] == len(own) == 6
        for figure, score in (
            ("acc", lambda y, p: ((p > 0.5) == y).mean()),
            ("ap", average_precision_score),
            ("auc", roc_auc_score),
        ):
            assert found[figure] == pytest.approx(np.mean([score(y, p) for p in seeds]))
        low, high = found["interval_95"]["auc"]
        assert 0 <= low <= found["auc"] <= high <= 1
        constant = results["methods"]["constant"]["generators"][name]
        assert constant["acc"] == pytest.approx((y == 0).mean())
        assert constant["auc"] is None, "equal scores rank nothing"
    macro = np.mean([results["generators"][n]["ap"] for n in ("gan", "vae")])
    assert results["macro"]["ap"] == pytest.approx(macro)
    assert results["methods"]["head"]["seeds"]["n"] == 2
    for name in config.train.baselines:
        q = np.array([float(r[f"p_fake_{name}"]) for r in rows[:-1]])
        assert ((q >= 0) & (q <= 1)).all()
    written = json.loads((tmp_path / "results/results.json").read_text())
    assert written == json.loads(json.dumps(results))
    assert written["config"].keys() == {"evaluate"}
    training = written["methods"]["head"]["config"]["training"]
    assert training["settings"]["train"]["epochs"] == 5


def test_the_table_says_it_all(trained):
    cache, fitted, config = trained
    text = in_one_line(evaluate_methods(cache, fitted, config))
    for words in (
        *("generator", "vae*", "gan*", "macro average", "cosine", "caption"),
        *(
            "13 images = 12 done + 1 failed",
            "gone.png: image: ",
            "over 2 training seeds",
        ),
    ):
        assert words in text


def test_methods_of_another_training_are_marked(trained):
    cache, fitted, config = trained
    assert "~" not in table(evaluate_methods(cache, fitted, config))
    vae, one = (config.copy_and_resolve_references() for _ in range(2))
    vae.train.generators, one.train.seeds = ("vae",), 1
    others = {
        "vae-only": fit_method("item", training_set(cache, vae), vae),
        "one-seed": fit_method("item", training_set(cache, config), one),
    }
    found = evaluate_methods(cache, fitted | others, config)
    page = report_tables.methods(found)
    assert re.findall(r"([\w-]+)~</th>", page) == ["vae-only", "one-seed"]
    assert "one-seed: trained on 6 real + 6 fake of gan, vae, 1 seed</p>" in page
    text = table(found)
    assert re.findall(r"^(\S+)~ ", text, re.M) == ["vae-only", "one-seed"]
    assert (
        "~ trained differently from head (6 real + 6 fake of gan, vae, 2 seeds)" in text
    )
    assert "  vae-only: trained on 3 real + 3 fake of vae, 2 seeds\n" in text
    assert "  one-seed: trained on 6 real + 6 fake of gan, vae, 1 seed\n" in text


def test_the_threshold_is_the_methods_own_and_strict(trained):
    cache, fitted, config = trained
    results = evaluate_methods(cache, fitted, config)
    one = fitted["head"][0]
    sure = dataclasses.replace(one, config=one.config | {"threshold": 1.0})
    strict = evaluate_methods(cache, {"head": [sure]}, config)  # nothing is above 1
    for name, figures in strict["generators"].items():
        assert figures["r_acc"] == 1 and figures["f_acc"] == 0
        assert figures["auc"] == results["generators"][name]["auc"]
    assert "seeds" not in strict["methods"]["head"]
    assert strict["methods"]["head"]["threshold"] == 1.0
    assert "ACC at P(fake) > 1.0" in table(strict)


def test_one_class_only_is_undefined_not_wrong(trained, photos, towers, tmp_path):
    _, fitted, config = trained
    root, records = photos
    fakes = [r for r in records if r.split == "test" and r.label == "fake"]
    unlabelled = [dataclasses.replace(fakes[0], label=None, key=records[0].key)]
    cache = embed_records(
        fakes + unlabelled, towers, config, images=root, folder=tmp_path
    )
    results = evaluate_methods(cache, fitted, config)
    for figures in results["generators"].values():
        assert figures["ap"] is None and figures["auc"] is None
        assert 0 <= figures["acc"] <= 1
    assert results["counts"]["done"] == 7  # the unlabelled one is scored, not judged
    assert sum(f["n"] for f in results["generators"].values()) == 6
    # A cache of test images alone: every method is there, none is fitted again.
    assert list(results["methods"]) == ["head", *config.train.baselines]
    for method in results["methods"].values():
        assert method["macro"] == {}, "a group of one class is in no average"
    assert results["single_class"] == {"gan": "fake", "vae": "fake"}
    text = table(results)
    assert "warning: gan has only fake images" in text and "macro average" in text


def test_other_embeddings_are_refused(trained, photos, towers, tmp_path):
    cache, fitted, config = trained
    root, records = photos
    config = config.copy_and_resolve_references()
    config.views.geometry = "clip"
    other = embed_records(records, towers, config, images=root, folder=tmp_path / "o")
    with pytest.raises(
        ValueError,
        match="another kind.*views.geometry: head has 'item', found 'clip'",
    ):
        evaluate_methods(other, fitted, config)
    tower = cache.embedding["tower"] | {"embed_dim": 768, "name": "ViT-L-14"}
    wide = cache.manifest | {"embedding": cache.embedding | {"tower": tower}}
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide/manifest.json").write_text(json.dumps(wide))
    with pytest.raises(
        ValueError, match="of ViT-L-14.*embed_dim: head has 32, found 768"
    ):
        evaluate_methods(EmbeddingCache(tmp_path / "wide"), fitted, config)


def test_nothing_to_evaluate(trained):
    cache, fitted, config = trained
    config = config.copy_and_resolve_references()
    config.evaluate.split = "tset"
    with pytest.raises(ValueError, match="no done row of split 'tset'"):
        evaluate_methods(cache, fitted, config)


def test_each_shard_is_read_once(trained, monkeypatch):
    cache, fitted, config = trained
    read = []
    original = EmbeddingCache.read

    def counted(self, shard):
        read.append(shard)
        return original(self, shard)

    monkeypatch.setattr(EmbeddingCache, "read", counted)
    evaluate_methods(cache, fitted, config)
    assert read == list(range(cache.manifest["shards"]))


def test_a_train_and_a_test_that_differ_is_a_warning_that_stays(
    trained, photos, towers, tmp_path
):
    _, fitted, config = trained
    root, records = photos
    config = config.copy_and_resolve_references()
    config.data.score_threshold = 0.7
    config.perturb.name, config.perturb.severity = "blur", 1
    other = embed_records(
        records,
        towers,
        config,
        images=root,
        folder=tmp_path / "e",
        facts={"captioner": {"id": "llava"}},
    )
    results = evaluate_methods(other, fitted, config, folder=tmp_path)
    for words in (
        "data.score_threshold: head has 0.3, found 0.7",
        "perturb.name: head has 'none', found 'blur'",
        "captioner: head was fitted on captions of none, these are of 'llava': its "
        "scores may be off",
    ):
        assert words in results["warnings"]
        assert f"warning: {words}" in in_one_line(results)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["warnings"] == results["warnings"]


def test_the_range_of_the_head_is_in_the_results(trained):
    cache, fitted, config = trained
    results = evaluate_methods(cache, fitted, config)
    about = results["methods"]["head"]["range"]
    assert (about["real"], about["fake"], about["benchmarks"]) == (6, 6, ["own"])
    assert about["text"] in in_one_line(results)


def test_figures_are_drawn(trained):
    cache, fitted, config = trained
    results = evaluate_methods(cache, fitted, config)
    figure = plots.auc_bars(results)
    shown = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert shown == ["chance", "head", "cosine", "image", "caption"]
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert ticks == ["gan\n(3 + 3)", "vae\n(3 + 3)"]
    figure = plots.cosines(cache.select(split="test"))
    assert [axis.get_title() for axis in figure.axes] == ["gan", "vae"]


def test_many_generators_are_drawn_sideways(trained):
    cache, fitted, config = trained
    results = evaluate_methods(cache, fitted, config)
    for method in results["methods"].values():
        some = method["generators"]["gan"]
        method["generators"] = {f"generator {i}": some for i in range(19)}
    results["generators"] = results["methods"]["head"]["generators"]
    figure = plots.auc_bars(results)
    assert figure.get_size_inches()[0] <= 8
    assert len(figure.axes[0].get_yticklabels()) == 19


@pytest.fixture(scope="module")
def compared(trained):
    cache, fitted, config = trained
    return evaluate_methods(cache, fitted, config)


def test_averages_and_differences_have_intervals(compared):
    methods = compared["methods"]
    for name, method in methods.items():
        for figure, (low, high) in method["macro_interval_95"].items():
            assert 0 <= low <= high <= 1
            least = method["minimum"][figure]
            figures = [g[figure] for g in method["generators"].values()]
            assert least["value"] == pytest.approx(min(figures))
            own = method["generators"][least["generator"]]
            assert own[figure] == pytest.approx(least["value"])
        assert ("difference" in method) == (name != "head")
    assert set(methods["head"]["macro_interval_95"]) == set(FIGURES)
    difference = methods["cosine"]["difference"]
    assert difference["to"] == "head"
    for name, figures in difference["generators"].items():
        for figure, entry in figures.items():
            expected = methods["cosine"]["generators"][name][figure]
            expected -= methods["head"]["generators"][name][figure]
            assert entry["value"] == pytest.approx(expected)
            assert 0 < entry["p"] <= entry["p_holm"] <= 1
            low, high = entry["interval_95"]
            assert low <= high and (entry["p"] < 0.05) == (low > 0 or high < 0)
    macro = difference["macro"]["auc"]
    expected = methods["cosine"]["macro"]["auc"] - methods["head"]["macro"]["auc"]
    assert macro["value"] == pytest.approx(expected)
    for spread in methods["head"]["seeds"]["generators"].values():
        assert set(spread["auc"]) == {"mean", "std", "interval_95"}
    assert set(methods["head"]["seeds"]["macro"]) == set(FIGURES)


def test_equal_scores_are_left_out_by_name_with_the_reason(compared):
    constant = compared["methods"]["constant"]
    why = "all scores are equal, which ranks nothing"
    assert constant["left_out"] == {"gan": why, "vae": why}
    assert "auc" not in constant["macro"] and "acc" in constant["macro"]
    assert set(constant["difference"]["macro"]) == {"acc", "balanced_acc"}
    text = in_one_line(compared)
    assert f"left out: AP and AUC of constant on gan, vae: {why}" in text


def test_one_image_of_a_class_is_in_no_average(trained, photos, towers, tmp_path):
    _, fitted, config = trained
    root, records = photos
    seen = set()
    kept = []
    for r in records:
        if r.split == "test" and (r.generator, r.label) == ("gan", "real"):
            if seen:
                continue
            seen.add(r.key)
        kept.append(r)
    cache = embed_records(kept, towers, config, images=root, folder=tmp_path)
    results = evaluate_methods(cache, fitted, config)
    head = results["methods"]["head"]
    assert head["generators"]["gan"]["auc"] is None
    assert head["generators"]["gan"]["interval_95"]["acc"] is None
    assert head["macro"]["auc"] == head["generators"]["vae"]["auc"]
    assert head["macro"]["acc"] == head["generators"]["vae"]["acc"]
    assert head["left_out"]["gan"].startswith("1 real image; at least 2")
    assert "AP and AUC of head on gan: 1 real image" in in_one_line(results)


def test_the_direction_of_the_cosine_is_measured(trained, compared, tmp_path):
    cache, fitted, config = trained
    evaluate_methods(cache, fitted, config, folder=tmp_path)
    with open(tmp_path / "scores.csv", newline="") as f:
        rows = [r for r in csv.DictReader(f) if r["status"] == "done"]
    for name, means in compared["cosine"].items():
        for label in ("real", "fake"):
            own = [
                float(r["cosine"])
                for r in rows
                if (r["generator"], r["label"]) == (name, label)
            ]
            assert means[label] == pytest.approx(np.mean(own), abs=1e-5)
        assert means["difference"] == pytest.approx(means["fake"] - means["real"])
        low, high = means["interval_95"]
        assert low <= means["difference"] <= high
        sign = "higher" if low > 0 else "lower" if high < 0 else "undecided"
        assert means["direction"] == sign
