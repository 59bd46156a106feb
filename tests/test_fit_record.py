"""What a fit reports of itself: its training AUC and the epochs it trained."""

import dataclasses
import json
import types

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from item_jax import config as config_lib
from item_jax import (
    evaluate,
    fit_records,
    fitted,
    protocol,
    settings,
    tables,
    train,
    training_loop,
)
from item_jax.__main__ import main
from item_jax.cache import EmbeddingCache
from item_jax.commands.train import _epochs, _judged
from item_jax.embed import embed_records
from item_jax.embeddings import Embeddings
from item_jax.fitted import FittedMethod, load_seeds
from item_jax.methods import _classifier, npr

WIDTH = 16
METHODS = (
    *("item", "tidy", "image_only", "unifd", "nearest", "de_fake", "vib_net"),
    *("clip_flow", "cosine", "image", "caption"),
)
"""Heads, networks, neighbours, a flow, linear probes; those on pixels are below."""


def part_of(labels, *, shift=2.0, seed=0):
    """Images without objects; fakes differ by `shift` in one direction, text too."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels)
    image, text = rng.normal(size=(2, len(labels), WIDTH)).astype(np.float32)
    image[:, 0] += shift * labels
    text[:, 1] += shift * labels
    rows = [
        {
            "key": str(i),
            "label": ("real", "fake")[int(y)],
            "generator": "g",
            "split": "",
        }
        for i, y in enumerate(labels)
    ]
    none = np.zeros((0, WIDTH), np.float32)
    return Embeddings(rows, image, text, none, none, np.zeros(len(labels) + 1, int))


def data_of(*parts):
    labels = np.concatenate([part.labels for part in parts])
    towers = types.SimpleNamespace(
        **{"name": "tiny", "checkpoint_sha256": "", "embed_dim": WIDTH},
        **{"image_size": 32, "dtype": "float32"},
    )
    facts = {
        **{"real": int((labels == 0).sum()), "fake": int((labels == 1).sum())},
        **{"split": "", "only": [], "generators": ["g"], "benchmarks": ["own"]},
        "records_sha256": "",
    }
    embedding = settings.embedding(towers, config_lib.default(), {})
    return train.TrainingSet(list(parts), embedding, facts)


class Pictures:
    """An image of each key; those of fakes are noisier."""

    error_maps = None

    def __init__(self, part):
        self.labels = dict(zip((row["key"] for row in part.rows), part.labels))

    def __call__(self, key):
        rng = np.random.default_rng(int(key))
        spread = 60 if self.labels[key] else 10
        return (128 + spread * rng.uniform(-1, 1, (40, 48, 3))).astype(np.uint8)


@pytest.fixture
def config():
    c = config_lib.default()
    c.train.epochs, c.train.batch_size, c.train.seeds = 3, 16, 2
    return c


@pytest.mark.parametrize("name", METHODS)
def test_every_fit_reports_its_training_auc(name, config):
    parts = part_of(np.arange(50) % 2), part_of(np.arange(31) % 3 == 0, seed=1)
    made = train.fit_method(name, data_of(*parts), config)
    assert len(made) == (2 if hasattr(made[0].module, "fit_seeds") else 1)
    labels = np.concatenate([part.labels for part in parts])
    for one in made:
        scores = np.concatenate([one.score(part) for part in parts])
        expected = roc_auc_score(labels, scores)
        assert one.config["fit"]["train_auc"] == pytest.approx(expected, abs=1e-3)
        assert one.config["fit"]["train_auc_images"] == 81
        assert one.range()["train_auc"] == one.train_auc


@pytest.mark.parametrize("name", ["item_jax.methods.npr:small", "dct_spectrum"])
def test_a_fit_on_pixels_does_so_too(name, config):
    part = part_of(np.arange(24) % 2)
    part = dataclasses.replace(part, images=Pictures(part))
    config.train.epochs = 1
    made = train.fit_method(name, data_of(part), config, overridden=("train.epochs",))
    for one in made:
        expected = roc_auc_score(part.labels, one.score(part))
        assert one.config["fit"]["train_auc"] == pytest.approx(expected, abs=0.02)
    counts = [one.config["fit"]["epochs"] for one in made]
    assert counts == ([1, 1] if "npr" in name else [None])


def test_the_training_auc_of_many_images_is_of_some_of_each_label(config, monkeypatch):
    monkeypatch.setattr(fit_records, "JUDGED", 20)
    labels = np.arange(400) % 4 == 0
    (one,) = train.fit_method("image", data_of(part_of(labels)), config)
    assert one.config["fit"]["train_auc_images"] == 40
    everything = roc_auc_score(labels, one.score(part_of(labels)))
    assert one.train_auc == pytest.approx(everything, abs=0.1)


@pytest.mark.parametrize("name", ["item", "image"])
def test_a_fit_that_did_not_learn_is_said_wherever_it_is_shown(name, config, tmp_path):
    """Labels that nothing follows, and training that moves nothing."""
    config.train.learning_rate = 1e-12
    noise = part_of(np.arange(400) % 2, shift=0.0)
    made = train.fit_method(name, data_of(noise), config)
    if name == "image":  # a probe fits noise; give it the score of chance
        for one in made:
            one.config["fit"]["train_auc"] = 0.55
    assert all(one.learned is False for one in made)
    (warning,) = fitted.not_learned("rival", made)
    assert f"rival did not learn{' in 2 of 2 seeds' * (len(made) > 1)}: AUC" in warning
    assert ("try more epochs" in warning) == (name == "item")
    shown = f"it did not learn them (training AUC {made[0].train_auc:.3f})"
    assert shown in made[0].range()["text"]
    made[0].save(tmp_path / "x")
    again = FittedMethod.load(tmp_path / "x")
    assert again.train_auc == made[0].train_auc and again.learned is False
    card = (tmp_path / "x/README.md").read_text()
    assert f"| training AUC | {made[0].train_auc:.3f}, on 400 training images |" in card
    assert "it did not learn them" in card


def test_what_learnt_and_what_has_nothing_to_learn_is_not_warned_of(config):
    data = data_of(part_of(np.arange(80) % 2, shift=4.0))
    for name in ("image", "constant", "nearest"):
        made = train.fit_method(name, data, config)
        assert fitted.not_learned(name, made) == []
        assert "did not learn" not in made[0].range()["text"]
    assert made[0].train_auc == 1.0, "its neighbour is the image itself"


@pytest.mark.parametrize("damage", [{"train_auc": 1.5}, {"epochs": -1}, {"epochs": ""}])
def test_a_damaged_record_is_refused(damage, config, tmp_path):
    data = data_of(part_of(np.arange(20) % 2))
    (one,) = train.fit_method("image", data, config)
    broken = one.config | {"fit": one.config["fit"] | damage}
    dataclasses.replace(one, config=broken).save(tmp_path)
    with pytest.raises(ValueError, match=f"config.json: '?fit.{next(iter(damage))}"):
        FittedMethod.load(tmp_path)


# -------------------------------------------------------------------------- the epochs


def reference(config, labels, accuracies):
    """Epochs that CNNDetection's rule trains, from the held-out accuracies."""
    best, waited, least, rate = -np.inf, 0, 0.001, config.train.learning_rate
    for epoch, accuracy in enumerate(accuracies, 1):
        if accuracy >= best + least:
            best, waited = accuracy, 0
            continue
        waited += 1
        if waited >= 5:
            rate /= 10
            if rate < 1e-6 * (1 - 1e-3):
                return epoch
            best, waited, least = -np.inf, 0, 0.002
    return len(accuracies)


def test_epochs_are_those_that_were_trained(config):
    """A network that learns nothing stops early, by the rule of its authors."""
    config.train.learning_rate = 1e-6  # the default is replaced by the published one
    labels = np.arange(200) % 2
    data = data_of(part_of(labels, shift=0.0))
    overridden = ("train.learning_rate",)
    config.train.epochs, seen = 40, []
    made = train.fit_method(
        *("unifd", data, config),
        overridden=overridden,
        on_epoch=lambda epoch, losses: seen.append(epoch),
    )
    counts = [one.config["fit"]["epochs"] for one in made]
    # Accuracies do not move at this rate: 1 better epoch, then 5 that are not.
    assert counts == [reference(config, labels, [0.5] * 40)] * 2 == [6, 6]
    assert max(seen) == 6
    assert _epochs(made) == ", 6 epochs of at most 40"
    made[1].config["fit"]["epochs"] = 18
    assert _epochs(made) == ", 6 to 18 epochs of at most 40"


@pytest.mark.parametrize("name", ["item", "vib_net", "de_fake"])
def test_without_early_stopping_all_epochs_are_trained(name, config):
    data = data_of(part_of(np.arange(40) % 2))
    made = train.fit_method(name, data, config, overridden=("train.epochs",))
    assert [one.config["fit"]["epochs"] for one in made] == [3, 3]
    assert _epochs(made) == ", 3 epochs"
    (probe,) = train.fit_method("image", data, config)
    assert probe.config["fit"]["epochs"] is None and _epochs([probe]) == ""


def test_a_resumed_training_counts_the_epochs_before(config, tmp_path):
    config.train.learning_rate, config.train.epochs = 1e-6, 40
    config.train.checkpoint_every = 2
    data = data_of(part_of(np.arange(200) % 2, shift=0.0))

    class Killed(Exception):
        pass

    def kill(epoch, losses):
        if epoch == 5:
            raise Killed

    options = {"overridden": ("train.learning_rate",), "checkpoints": tmp_path}
    with pytest.raises(Killed):
        train.fit_method("unifd", data, config, on_epoch=kill, **options)
    made = train.fit_method("unifd", data, config, **options)
    assert [one.config["fit"]["epochs"] for one in made] == [6, 6]
    with training_loop.counted() as outer:
        pass
    assert outer == [], "nothing ran"


# ------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def unnamed(photos, towers, tmp_path_factory):
    """A workdir whose images name no generator."""
    root, records = photos
    records = [dataclasses.replace(r, generator="") for r in records]
    c = config_lib.default()
    folder = tmp_path_factory.mktemp("unnamed")
    embed_records(records, towers, c, images=root, folder=folder / "embeddings")
    return folder


def test_the_command_says_epochs_auc_and_unnamed_generators(unnamed, capsys):
    words = ["train", "--workdir", str(unnamed), "--method", "unifd"]
    words += ["--config.train.epochs=40", "--config.train.learning_rate=1e-6"]
    assert main([*words, "--config.train.seeds=2"]) == 0
    said = capsys.readouterr().out
    seeds = load_seeds(unnamed / "methods/unifd")
    epochs = {one.config["fit"]["epochs"] for one in seeds}
    assert max(epochs) < 40, "it stops early"
    shown = " to ".join(str(e) for e in sorted(epochs))
    aucs = sorted(one.train_auc for one in seeds)
    assert (
        f"6 real + 6 fake of unnamed generators, {shown} epochs of at most 40" in said
    )
    assert f"training AUC {aucs[0]:.3f} to {aucs[1]:.3f}, " in said
    warned = "warning: unifd did not learn" in said
    assert warned == (aucs[0] < fitted.LEARNED)
    stored = json.loads((unnamed / "methods/unifd/config.json").read_text())
    assert stored["fit"]["epochs"] == seeds[0].config["fit"]["epochs"]
    # Again: nothing to do, and what is there is still what it is.
    assert main([*words, "--config.train.seeds=2"]) == 0
    said = capsys.readouterr().out
    assert "nothing to do" in said and ("did not learn" in said) == warned


def test_evaluate_keeps_the_warning(unnamed, capsys):
    made = load_seeds(unnamed / "methods/unifd")
    for one in made:
        one.config["fit"]["train_auc"] = 0.49
    c = config_lib.default()
    found = evaluate.evaluate_methods(
        EmbeddingCache(unnamed / "embeddings"), {"unifd": made}, c
    )
    said = "unifd did not learn in 2 of 2 seeds: AUC 0.490, 0.490"
    assert any(said in w for w in found["warnings"])
    assert found["methods"]["unifd"]["train_auc"] == [0.49, 0.49]
    assert said in " ".join(tables.table(found).split())


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "unnamed generators"),
        ([""], "unnamed generators"),
        (["", "gan"], "gan and unnamed ones"),
        (["gan", "vae"], "gan, vae"),
    ],
)
def test_generators_without_a_name_are_called_so(names, text):
    assert protocol.generators_text(names) == text


# ------------------------------------------------------------------ validation images


@pytest.mark.parametrize(
    "name", ["unifd", dataclasses.replace(npr.small, stopping=_classifier.stops)]
)
def test_validation_images_end_a_training(name, config, monkeypatch):
    """They decide which epoch is kept: labels turned round keep another one."""
    whole = part_of(np.arange(24) % 2)
    whole = dataclasses.replace(whole, images=Pictures(whole))
    judge = part_of(np.arange(20) % 2, seed=2)
    judge = dataclasses.replace(judge, images=Pictures(judge))
    wrong = [
        row | {"label": {"real": "fake", "fake": "real"}[row["label"]]}
        for row in judge.rows
    ]
    seen = []
    run = training_loop.run

    def watched(recipe, data, *others, held_out=None, **named):
        seen.append((len(data["labels"]), np.array((held_out or {}).get("labels", []))))
        return run(recipe, data, *others, held_out=held_out, **named)

    monkeypatch.setattr(training_loop, "run", watched)
    config.train.learning_rate, config.train.epochs = 0.1, 6
    made = []
    for validation in ([judge], [dataclasses.replace(judge, rows=wrong)], []):
        data = dataclasses.replace(data_of(whole), validation=validation)
        made.append(train.fit_method(name, data, config))
    (n, own), (_, turned), (rest, tenth) = seen
    np.testing.assert_array_equal(own, judge.labels)
    np.testing.assert_array_equal(turned, 1 - judge.labels)
    assert n == 24 and rest + len(tenth) == 24 and len(tenth) == 4
    if name == "unifd":
        first, second = (one[0].score(whole) for one in made[:2])
        assert not np.array_equal(first, second)
    for one, count in zip(made, (10, 10, 0)):
        told = one[0].config["training"]["validation"]
        assert told == {"real": count, "fake": count}
    assert "validation images" in _judged(made[0][0])
    assert "(no validation images)" in _judged(made[2][0])


def test_beta_is_chosen_on_validation_images(config):
    data = data_of(part_of(np.arange(24) % 2))
    judge = part_of(np.arange(20) % 2, seed=2)
    (one,) = train.fit_method("vib_net", data, _seeds(config, 1))
    data = dataclasses.replace(data, validation=[judge])
    (other,) = train.fit_method("vib_net", data, _seeds(config, 1))
    assert not np.array_equal(
        one.state["held_out_errors"], other.state["held_out_errors"]
    )


def test_methods_that_nothing_judges_are_given_no_validation_images(config):
    data = data_of(part_of(np.arange(24) % 2))
    data = dataclasses.replace(data, validation=[part_of(np.arange(8) % 2, seed=3)])
    (one,) = train.fit_method("item", data, _seeds(config, 1))
    assert "validation" not in one.config["training"] and _judged(one) == ""


def _seeds(config, count):
    config.train.seeds = count
    return config
