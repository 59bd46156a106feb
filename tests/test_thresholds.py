"""`item-jax calibrate`: what it fits, on which images, and who uses it."""

import dataclasses
import json

import numpy as np
import pytest

from item_jax import __main__ as door
from item_jax import calibration
from item_jax.cache import EmbeddingCache
from item_jax.embed import embed_records
from item_jax.evaluate import evaluate_methods
from item_jax.fitted import FittedMethod, load_seeds
from item_jax.tables import table
from item_jax.thresholds import calibrate
from item_jax.train import train


@pytest.fixture(scope="module")
def study(photos, towers, tmp_path_factory):
    """A workdir with a head of two seeds; half of the test images are split val."""
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads, c.train.epochs, c.train.seeds = 10, 2, 5, 2
    c.head.hidden_dim = 8
    root, records = photos
    seen = {}
    split = []
    for record in records:
        if record.split == "test":
            n = seen[record.label, record.generator] = (
                seen.get((record.label, record.generator), -1) + 1
            )
            if n != 0:  # one image of each kind is left to test
                record = dataclasses.replace(record, split="val")
        split.append(record)
    workdir = tmp_path_factory.mktemp("study")
    cache = embed_records(split, towers, c, images=root, folder=workdir / "embeddings")
    train(cache, c, workdir=workdir)
    return workdir, cache, c


def test_the_threshold_is_that_of_the_held_out_images(study):
    workdir, cache, config = study
    seeds = load_seeds(workdir / "head")
    made, warnings = calibrate(cache, seeds, fpr=0.3)
    assert warnings == [] and len(made) == 2
    for before, after in zip(seeds, made):
        parts = list(cache.select(split="val"))
        scores = np.concatenate([before.score(part) for part in parts])
        labels = np.concatenate([part.labels for part in parts])
        expected = calibration.at_fpr(labels, scores, 0.3)
        assert after.threshold == expected.threshold
        c = after.calibration
        assert c["found"]["fpr"] == expected.fpr <= 0.3
        assert (c["n_real"], c["n_fake"]) == (4, 4) and c["split"] == "val"
        assert c["generators"] == ["gan", "vae"] and c["temperature"] is None
        assert c["uncalibrated_threshold"] == 0.5
        best = calibration.best_accuracy(labels, scores)
        assert c["best_accuracy_threshold"] == best.threshold
    again, _ = calibrate(cache, made, fpr=0.3)
    assert [m.config for m in again] == [m.config for m in made]


def test_temperature_changes_p_and_not_the_order(study):
    workdir, cache, _ = study
    (before, _) = load_seeds(workdir / "head")
    part = next(iter(cache.select(split="val")))
    try:
        ((after,), _) = calibrate(cache, [before], fpr=0.3, temperature=True)
    except ValueError as e:  # of a tiny random tower anything may come
        assert "no temperature" in str(e)
        degree = 2.0
        own = calibrate(cache, [before], fpr=0.3)[0][0].calibration
        config = before.config | {"calibration": own | {"temperature": degree}}
        after = dataclasses.replace(before, config=config)
    expected = calibration.apply_temperature(
        before.score(part), after.calibration["temperature"]
    )
    np.testing.assert_allclose(after.score(part), expected, atol=1e-12)


def test_images_the_method_was_fitted_on_are_left_out(study):
    workdir, cache, _ = study
    seeds = load_seeds(workdir / "head")
    with pytest.raises(ValueError, match="all 12 images of split 'train' are those"):
        calibrate(cache, seeds, split="train")
    made, warnings = calibrate(cache, seeds, split="", fpr=0.2)
    assert made[0].calibration["n_real"] == 6
    (warning,) = warnings
    assert warning.startswith("left out 12 images of split ''")
    other = seeds[0].config["training"] | {"records_sha256": "0" * 64}
    stranger = dataclasses.replace(
        seeds[0], config=seeds[0].config | {"training": other}
    )
    made, _ = calibrate(cache, [stranger], split="train", fpr=0.2)
    assert made[0].calibration["n_real"] == 6, "nothing says that they were seen"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "vla"}, "Did you mean 'val'"),
        ({"generators": ["gna"]}, "no labelled image of gna.*gan, vae"),
        ({"fpr": 0.05}, "needs at least 19 real images, found 4"),
        ({"fpr": 5}, "not a fraction"),
    ],
)
def test_refusals(study, options, words):
    workdir, cache, _ = study
    with pytest.raises(ValueError, match=words):
        calibrate(cache, load_seeds(workdir / "head"), **options)


def test_the_command_writes_and_evaluate_uses_it(study, capsys, tmp_path):
    workdir, cache, config = study
    words = ["calibrate", "--workdir", str(workdir), "--fpr", "0.3"]
    assert door.main(words) == 0
    said = capsys.readouterr().out
    assert said.count("fake when P(fake) > ") == 2 and "(before: 0.5)" in said
    assert "of 4 real and" in said and "split 'val'" in said
    seeds = load_seeds(workdir / "head")
    assert seeds[0].threshold != 0.5
    assert seeds[0].calibration["fpr"] == 0.3
    card = (workdir / "head/README.md").read_text()
    assert "threshold for 30% false alarms on 4 real images of split 'val'" in card
    results = evaluate_methods(cache, {"head": seeds}, config)
    head = results["methods"]["head"]
    assert head["threshold"] == seeds[0].threshold and head["calibration"]["fpr"] == 0.3
    for figures in results["generators"].values():
        for name in ("transferred_acc", "transferred_fpr", "transferred_tpr"):
            assert 0 <= figures[name] <= 1
        assert figures["transferred_fpr"] == pytest.approx(1 - figures["r_acc"])
        assert figures["oracle_acc"] >= max(figures["acc"], figures["acc_at_half"])
    text = " ".join(table(results).split())
    assert "fitted for 30% false alarms on 4 real images of split 'val'" in text
    assert "not held out" not in text
    config = config.copy_and_resolve_references()
    config.evaluate.split = "val"
    results = evaluate_methods(cache, {"head": seeds}, config)
    assert "warning: the threshold of head was fitted on split 'val'" in " ".join(
        table(results).split()
    )
    # The same training again finds its calibrated head, and keeps it.
    training = train(cache, config, workdir=workdir)
    assert not training.new
    assert FittedMethod.load(workdir / "head").calibration["fpr"] == 0.3
    assert door.main([*words, "--method", "haed"]) == 2
    assert "Did you mean 'head'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("fpr", "x", "'calibration.fpr' is 'x'"),
        ("fpr", 7, r"calibration.fpr 7 is not in \[0, 1\]"),
        ("n_real", None, "'calibration.n_real' is None"),
        ("temperature", 0, "calibration.temperature 0 is not above 0"),
        ("temperature", -1.5, "calibration.temperature -1.5 is not above 0"),
        ("temperature", "hot", "'calibration.temperature' is 'hot'"),
    ],
)
def test_a_tampered_calibration_is_refused(study, tmp_path, field, value, words):
    workdir, cache, _ = study
    (one, _), _ = calibrate(cache, load_seeds(workdir / "head"), fpr=0.3)
    one.save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["calibration"][field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        FittedMethod.load(tmp_path)


def test_a_cache_of_other_embeddings_is_refused(study, photos, towers, tmp_path):
    workdir, cache, config = study
    root, records = photos
    config = config.copy_and_resolve_references()
    config.views.geometry = "clip"
    embed_records(records, towers, config, images=root, folder=tmp_path / "o")
    with pytest.raises(ValueError, match="another kind"):
        calibrate(EmbeddingCache(tmp_path / "o"), load_seeds(workdir / "head"))
