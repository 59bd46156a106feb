import csv
import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from item_jax import baselines, evaluate, plots
from item_jax.cache import EmbeddingCache
from item_jax.embed import embed_records
from item_jax.evaluate import evaluate_heads
from item_jax.records import Record
from item_jax.train import train_heads


@pytest.fixture(scope="module")
def trained(photos, towers, tmp_path_factory):
    """A cache with one image that fails, and two heads."""
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
    return cache, train_heads(cache, c, workdir=folder), c


def test_figures_are_scikit_learns(trained, tmp_path):
    cache, heads, config = trained
    results = evaluate_heads(cache, heads, config, workdir=tmp_path)
    assert results["counts"] == {"in": 13, "done": 12, "failed": 1}
    assert [f["key"] for f in results["failures"]] == ["test/vae/1_fake/gone.png"]
    with open(tmp_path / "results/scores.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 13
    assert rows[-1]["status"] == "failed" and rows[-1]["p_fake"] == ""
    for name in ("gan", "vae"):
        own = [r for r in rows if r["generator"] == name and r["status"] == "done"]
        y = np.array([r["label"] == "fake" for r in own]).astype(int)
        p = np.array([float(r["p_fake"]) for r in own])
        found = results["generators"][name]
        assert found["n"] == len(own) == 6
        assert found["acc"] == pytest.approx(((p > 0.5) == y).mean())
        assert found["ap"] == pytest.approx(average_precision_score(y, p))
        assert found["auc"] == pytest.approx(roc_auc_score(y, p))
        low, high = found["interval_95"]["auc"]
        assert 0 <= low <= found["auc"] <= high <= 1
        constant = results["baselines"]["constant"]["generators"][name]
        assert constant["acc"] == pytest.approx((y == 0).mean())
        assert constant["auc"] == 0.5
    macro = np.mean([results["generators"][n]["ap"] for n in ("gan", "vae")])
    assert results["macro"]["ap"] == pytest.approx(macro)
    assert results["seeds"]["n"] == 2
    written = json.loads((tmp_path / "results/results.json").read_text())
    assert written == json.loads(json.dumps(results))
    assert written["config"]["train"]["epochs"] == 5


def test_the_table_says_it_all(trained):
    cache, heads, config = trained
    text = evaluate.table(evaluate_heads(cache, heads, config))
    for words in (
        *("generator", "vae*", "gan*", "macro average", "cosine", "caption"),
        *("13 images = 12 done + 1 failed", "gone.png: image: ", "over 2 seeds"),
    ):
        assert words in text


def test_threshold_is_strict(trained):
    cache, heads, config = trained
    results = evaluate_heads(cache, heads[:1], config)
    config = config.copy_and_resolve_references()
    config.evaluate.threshold = 1.0  # nothing is above 1
    config.evaluate.bootstrap = 0
    strict = evaluate_heads(cache, heads[:1], config)
    for name, figures in strict["generators"].items():
        assert figures["r_acc"] == 1 and figures["f_acc"] == 0
        assert figures["auc"] == results["generators"][name]["auc"]
        assert "interval_95" not in figures
    assert "seeds" not in strict


def test_one_class_only_is_undefined_not_wrong(trained, photos, towers, tmp_path):
    _, heads, config = trained
    root, records = photos
    fakes = [r for r in records if r.split == "test" and r.label == "fake"]
    unlabelled = [dataclasses.replace(fakes[0], label=None, key=records[0].key)]
    cache = embed_records(
        fakes + unlabelled, towers, config, images=root, folder=tmp_path
    )
    results = evaluate_heads(cache, heads, config)
    for figures in results["generators"].values():
        assert figures["ap"] is None and figures["auc"] is None
        assert 0 <= figures["acc"] <= 1
    assert results["counts"]["done"] == 7  # the unlabelled one is scored, not judged
    assert sum(f["n"] for f in results["generators"].values()) == 6
    assert list(results["baselines"]) == ["constant"]  # nothing to learn from
    assert "macro average" in evaluate.table(results)


def test_other_embeddings_are_refused(trained, photos, towers, tmp_path):
    cache, heads, config = trained
    root, records = photos
    config = config.copy_and_resolve_references()
    config.views.geometry = "clip"
    other = embed_records(records, towers, config, images=root, folder=tmp_path / "o")
    with pytest.raises(ValueError, match="geometry: the head has 'item'.*'clip'"):
        evaluate_heads(other, heads, config)
    wide = dict(cache.manifest, embed_dim=768, towers="ViT-L-14")
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide/manifest.json").write_text(json.dumps(wide))
    with pytest.raises(ValueError, match="width 32 .*found width 768 .ViT-L-14"):
        evaluate_heads(EmbeddingCache(tmp_path / "wide"), heads, config)


def test_heads_of_different_trainings_are_not_averaged(trained):
    cache, heads, config = trained
    other = dataclasses.replace(
        heads[1],
        config=heads[1].config
        | {"misalignment": heads[1].config["misalignment"] | {"name": "tidy"}},
    )
    with pytest.raises(ValueError, match="of different trainings: seed 1"):
        evaluate_heads(cache, [heads[0], other], config)


def test_nothing_to_evaluate(trained):
    cache, heads, config = trained
    config = config.copy_and_resolve_references()
    config.evaluate.split = "tset"
    with pytest.raises(ValueError, match="no done row of split 'tset'"):
        evaluate_heads(cache, heads, config)


def test_every_baseline_gives_probabilities(trained):
    cache, _, config = trained
    parts = list(cache.select(split="train"))
    for name in config.baselines:
        module = baselines.get(name)
        state = module.fit(parts)
        for part in cache.select(split="test"):
            p = module.score(state, part)
            assert p.shape == (len(part),) and ((0 <= p) & (p <= 1)).all()
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        baselines.get("cosin")


def test_cosine_features_by_hand(trained):
    cache, _, _ = trained
    from item_jax.baselines import cosine

    for part in cache.select():
        found = cosine.features(part)
        for i in range(len(part)):
            own = slice(*part.object_offsets[i : i + 2])
            pairs = list(zip(part.object_emb[own], part.phrase_emb[own]))
            whole = (part.image_emb[i], part.text_emb[i])
            each = [
                a @ b / np.linalg.norm(a) / np.linalg.norm(b)
                for a, b in [whole, *(pairs or [whole])]
            ]
            np.testing.assert_allclose(
                found[i], [each[0], np.mean(each[1:])], atol=1e-5
            )


def test_figures_are_drawn(trained):
    cache, heads, config = trained
    results = evaluate_heads(cache, heads, config)
    figure = plots.auc_bars(results)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["gan", "vae"]
    figure = plots.cosines(cache.select(split="test"))
    assert [axis.get_title() for axis in figure.axes] == ["gan", "vae"]
