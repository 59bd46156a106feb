"""Published weights and scores made elsewhere, beside what is fitted here."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from item_jax import files, outside_scores, published
from item_jax.__main__ import main
from item_jax.embed import embed_records
from item_jax.evaluate import evaluate_methods
from item_jax.fitted import FittedMethod
from item_jax.methods import unifd
from item_jax.tables import table
from item_jax.train import fit_method, train, training_set


@pytest.fixture(scope="module")
def study(photos, towers, tmp_path_factory):
    """A workdir with embeddings: 12 images of train, 12 of test."""
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads = 10, 2
    root, records = photos
    folder = tmp_path_factory.mktemp("study")
    options = dict(images=root, folder=folder / "embeddings")
    return folder, embed_records(records, towers, c, **options), c


@pytest.fixture(scope="module")
def weights(study, tmp_path_factory):
    layer = torch.nn.Linear(study[1].embed_dim, 1)
    path = tmp_path_factory.mktemp("weights") / "fc_weights.pth"
    torch.save(layer.state_dict(), path)
    return path, layer


def test_the_authors_weights_become_a_method(
    study, weights, tmp_path, capsys, monkeypatch
):
    _, cache, config = study
    path, layer = weights
    (facts,) = unifd.PUBLISHED.values()
    monkeypatch.setattr(unifd, "PUBLISHED", {files.sha256(path): facts})
    (tmp_path / "embeddings").symlink_to(cache.folder)
    command = ["train", "--workdir", str(tmp_path), "--method", "unifd"]
    command += ["--weights", str(path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "trained on 360,000 real and 360,000 fake images of progan" in out
    assert "whether they belong to" in out
    loaded = FittedMethod.load(tmp_path / "methods/unifd")
    for part in cache.select():
        expected = torch.sigmoid(layer(torch.tensor(part.image_emb)))[:, 0]
        np.testing.assert_allclose(loaded.score(part), expected.detach(), atol=1e-6)
    assert "360,000 real" in loaded.range()["text"]
    assert main(command) == 0 and "has these weights already" in capsys.readouterr().out
    with torch.no_grad():
        layer.bias += 1
    torch.save(layer.state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="weights was 'fc_weights.pth' and is 'other"):
        train(
            cache,
            config,
            workdir=tmp_path,
            method="unifd",
            name="unifd",
            weights=tmp_path / "other.pth",
        )
    with torch.no_grad():
        layer.bias -= 1
    assert main([*command, "--config.train.epochs=3"]) == 2
    assert "no effect" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_refused(study, tmp_path):
    _, cache, _ = study

    def refused(method, state, words):
        torch.save(state, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=words):
            published.read(method, tmp_path / "w.pth", cache, threshold=0.5)

    two = {"weight": torch.zeros(2, 3)}
    refused("unifd", two, r"fc.bias; fc.weight has shape \[2, 3\], expected \[1, 3\]")
    named = {"model": {"fc.wieght": torch.zeros(1, 3), "fc.bias": torch.zeros(1)}}
    refused("unifd", named, r"took 'model'.*fc.weight .nearest: fc.wieght")
    more = {"weight": torch.zeros(1, 32), "bias": torch.zeros(1), "x": torch.zeros(1)}
    refused("unifd", more, "1 tensor is of no layer of this network: x")
    whole = {"weight": torch.zeros(1, 32, dtype=torch.int8), "bias": torch.zeros(1)}
    refused("unifd", whole, "fc.weight is of int8, not of floating point")
    nan = {"weight": torch.full((1, 32), torch.nan), "bias": torch.zeros(1)}
    refused("unifd", nan, "w.pth: it: tensor .* not finite")
    wide = {"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}
    refused("unifd", wide, r"does not fit .*takes .*\[768\].*found .*\[32\]")
    refused("item", wide, "'item' cannot be made of weights; those that can: .*unifd")


def test_weights_of_ones_own_do_not_pass_as_the_authors(study, tmp_path):
    """The same form as `fc_weights.pth`, another digest: nobody knows the training."""
    _, cache, _ = study
    state = {"weight": torch.ones(1, 32), "bias": torch.zeros(1)}
    save_file(state, tmp_path / "w.safetensors")
    fitted = published.read("unifd", tmp_path / "w.safetensors", cache, threshold=0.5)
    assert fitted.config["training"]["real"] == 0
    assert "on images that are not recorded" in fitted.range()["text"]
    assert "| real images | not recorded |" in fitted.card()
    assert "few images" not in fitted.range()["text"]
    fitted.save(tmp_path / "m")
    again = FittedMethod.load(tmp_path / "m")
    part = next(iter(cache.select()))
    np.testing.assert_array_equal(again.score(part), fitted.score(part))


def test_a_file_that_is_none_is_named(study, tmp_path):
    for path, words in (
        (tmp_path, "is a folder"),
        (tmp_path / "no.pth", "no weights"),
        ("/dev/null", "no regular file"),
    ):
        with pytest.raises(ValueError, match=words):
            published.tensors(path)
    for name in ("x.safetensors", "x.pth"):
        (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(ValueError, match="Git LFS pointer.*git lfs pull"):
            published.tensors(tmp_path / name)


# ---------------------------------------------------------------- scores made elsewhere


def written(path, rows, header=("key", "score")):
    with open(path, "w", newline="", encoding="utf-8") as f:
        csv.writer(f).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def scores(study):
    """A made-up detector's scores of the test images."""
    rng = np.random.default_rng(0)
    parts = list(study[1].select(split="test"))
    return {row["key"]: rng.uniform() for part in parts for row in part.rows}


def test_scores_stand_in_the_same_tables(study, scores, tmp_path, capsys):
    folder, cache, config = study
    path = written(tmp_path / "effort.csv", scores.items())
    column = outside_scores.read(path, cache, split="test")
    fitted = {"cosine": fit_method("cosine", training_set(cache, config), config)}
    results = evaluate_methods(cache, fitted | {"effort": [column]}, config)
    from sklearn.metrics import roc_auc_score

    for name, figures in results["methods"]["effort"]["generators"].items():
        rows = [r for p in cache.select(split="test") for r in p.rows]
        rows = [r for r in rows if r["generator"] == name]
        y = [r["label"] == "fake" for r in rows]
        auc = roc_auc_score(y, [scores[r["key"]] for r in rows])
        assert figures["auc"] == pytest.approx(auc)
    assert "difference" in results["methods"]["effort"]
    assert "effort" in table(results)
    settings = results["methods"]["effort"]["config"]["training"]["settings"]
    assert settings["scores"] == "effort.csv" and len(settings["scores_sha256"]) == 64
    # The program, with no fitted method in the workdir.
    command = ["evaluate", "--workdir", str(folder), "--scores", f"effort={path}"]
    assert main(command) == 0
    assert "effort.csv, made elsewhere" in capsys.readouterr().out
    written_results = json.loads((folder / "results/results.json").read_text())
    assert list(written_results["methods"]) == ["effort"]
    assert main([*command, "--scores", f"effort={path}"]) == 2
    assert "another method named 'effort'" in capsys.readouterr().err
    assert main([*command[:3], "--scores", "effort"]) == 2
    assert "NAME=FILE is needed" in capsys.readouterr().err


def test_wrong_scores_are_refused_by_name(study, scores, tmp_path):
    _, cache, _ = study
    rows = list(scores.items())
    first = rows[0][0]

    def refused(rows, words, **options):
        path = written(tmp_path / "s.csv", rows, **options)
        with pytest.raises(ValueError, match=f"s.csv: .*{words}"):
            outside_scores.read(path, cache, split="test")

    refused(rows[1:], f"1 images of split 'test' have no score, such as '{first}'")
    refused([*rows, rows[0]], f"line 14: '{first}' has a score already")
    refused([*rows, ("test/x.png", 0.5)], "1 keys are not in .*'test/x.png'")
    for value in ("nan", "inf", "1.01", "-3"):
        refused([(first, value), *rows[1:]], f"line 2: '{first}' has score .*sigmoid")
    refused([(first, "high"), *rows[1:]], f"'{first}' has score 'high', not a number")
    refused([(first,), *rows[1:]], "line 2 has 1 values")
    refused(rows, "its columns are", header=("path", "score"))
    (tmp_path / "s.csv").write_bytes(b"key,score\n\xff\xfe,0\n")
    with pytest.raises(ValueError, match="s.csv: 'utf-8' codec"):
        outside_scores.read(tmp_path / "s.csv", cache)
    with pytest.raises(ValueError, match="no file of scores"):
        outside_scores.read(tmp_path / "none.csv", cache)
    with pytest.raises(ValueError, match="12 images of split '' have no score"):
        outside_scores.read(written(tmp_path / "s.csv", rows), cache)
