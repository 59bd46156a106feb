"""Fitted methods: every one of the package, and folders that somebody tampered with."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from item_jax import methods
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import RecordList
from item_jax.embed import embed_records
from item_jax.embeddings import Embeddings
from item_jax.fitted import FittedMethod, load_seeds
from item_jax.methods._classifier import Classifier
from item_jax.pixels import Pictures
from item_jax.train import fit_method
from item_jax.training_data import training_set

BEFORE = Path(__file__).parent / "data" / "version_0.1"


@pytest.fixture(scope="module")
def data(photos, towers, tmp_path_factory):
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads, c.train.epochs = 10, 2, 2
    c.head.hidden_dim, c.train.batch_size = 8, 4
    c.embed.outputs = ("class_tokens", "block_tokens")
    root, records = photos
    folder = tmp_path_factory.mktemp("cache")
    cache = embed_records(records, towers, c, images=root, folder=folder)
    cache.images = Pictures(RecordList(records, root), cache.embedding)
    return cache, training_set(cache, c), c


@pytest.fixture
def head(data, tmp_path):
    _, training, config = data
    (made,) = fit_method("item", training, config)
    made.save(tmp_path / "head")
    return tmp_path / "head"


# Networks on pixels are trained at small sizes, by test_pixel_rivals.py and
# test_error_maps.py.
ON_CACHED_FEATURES = [
    name for name in methods.names() if not isinstance(methods.get(name), Classifier)
]

# The others are fitted here in the slow lane; test_rivals.py compares them with theirs.
QUICK = {"item", "tidy", "cosine", "image", "constant", "nearest", "unifd"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in ON_CACHED_FEATURES
    ],
)
def test_every_method_is_fitted_saved_and_scored_anywhere(name, data, tmp_path):
    cache, training, config = data
    (made,) = fit_method(name, training, config)[:1]
    made.save(tmp_path)
    again = FittedMethod.load(tmp_path)
    assert again.name == name
    assert len(again.about()) > 20 and "\n" not in again.about()
    for part in cache.select(split="test"):
        p = made.score(part)
        assert p.shape == (len(part),) and ((0 <= p) & (p <= 1)).all()
        np.testing.assert_array_equal(again.score(part), p)


@pytest.mark.parametrize("name", ["cosine", "image", "caption"])
def test_probes_are_scikit_learns(name, data):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cache, training, config = data
    module = methods.get(name)
    x = np.concatenate([module.features(part) for part in training.parts])
    y = np.concatenate([part.labels for part in training.parts])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x, y)
    (made,) = fit_method(name, training, config)
    for part in cache.select(split="test"):
        expected = model.predict_proba(module.features(part))[:, 1]
        np.testing.assert_allclose(made.score(part), expected, atol=1e-6)


def test_cosine_features_by_hand(data):
    cache, _, _ = data
    features = methods.get("cosine").features
    for part in cache.select():
        found = features(part)
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


def test_unknown_methods_name_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        methods.get("cosin")
    with pytest.raises(ValueError, match="tried to import no.such.module"):
        methods.get("no.such.module")
    with pytest.raises(ValueError, match="'item_jax.records' lacks NEEDS, fit, score"):
        methods.get("item_jax.records")


def test_scores_that_are_not_probabilities_stop(data):
    cache, training, config = data
    (made,) = fit_method("constant", training, config)
    part = next(iter(cache.select(split="test")))

    class Wrong:
        def __init__(self, value):
            self.value = value

        def score(self, state, part):
            return np.full(len(part), self.value)

    for value in (np.nan, 1.5, -0.1):
        broken = dataclasses.replace(made, module=Wrong(value))
        with pytest.raises(ValueError, match=f"{part.rows[0]['key']}.*not in"):
            broken.score(part)


def test_a_state_that_is_not_finite_is_not_saved(data, tmp_path):
    _, training, config = data
    (made,) = fit_method("image", training, config)
    state = made.state | {"weight": np.full_like(made.state["weight"], np.nan)}
    with pytest.raises(ValueError, match="tensor 'weight' holds numbers that are not"):
        dataclasses.replace(made, state=state).save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_range_is_told(data, head):
    method = FittedMethod.load(head)
    about = method.range()
    assert (about["real"], about["fake"]) == (6, 6) and not about["toy_world"]
    assert "6 real and 6 fake images of gan, vae (own)" in about["text"]
    assert "few images" in about["text"] and "untested" in about["text"]
    assert about["text"] in (head / "README.md").read_text()
    training = method.config["training"] | {"benchmarks": ["miniature"]}
    toy = dataclasses.replace(method, config=method.config | {"training": training})
    assert toy.range()["toy_world"] and "toy world" in toy.range()["text"]
    assert "Toy world" in toy.card()


def tampered(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def drop(*names):
    def change(config):
        for name in names[:-1]:
            config = config[name]
        del config[names[-1]]

    return change


def put(value, *names):
    def change(config):
        for name in names[:-1]:
            config = config[name]
        config[names[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("schema"), "schema None"),
        (put("item-method/9", "schema"), "schema 'item-method/9'"),
        (drop("method"), "'method' is missing"),
        (put("itm", "method"), "Did you mean 'item'"),
        (drop("embedding"), "'embedding.tower.name' is missing"),
        (drop("embedding", "views"), "'embedding.views.geometry' is missing"),
        (put("wide", "embedding", "tower", "embed_dim"), "expected int"),
        (drop("training"), "'training.real' is missing"),
        (put("six", "training", "real"), "'training.real' is 'six'"),
        (drop("threshold"), "'threshold' is missing"),
        (put(50, "threshold"), r"threshold 50 is not in \[0, 1\]"),
        (put(True, "threshold"), "'threshold' is True"),
        (drop("state", "misalignment"), "'misalignment' is missing"),
        (put("itme", "state", "misalignment", "name"), "Did you mean 'item'"),
        (put("x", "state", "misalignment", "w1"), "misalignment.w1 is 'x'"),
        (put(-1, "state", "head", "hidden_dim"), "head.hidden_dim is -1"),
        (put("512", "state", "head", "hidden_dim"), "head.hidden_dim is '512'"),
        (put(7, "state", "head", "hidden_dim"), "its settings describe"),
        (put("cat", "state", "misalignment", "levels"), "Did you mean 'concat'"),
        (put("mpl", "state", "head", "name"), "Did you mean 'mlp'"),
        (put([], "state"), "'state' is"),
    ],
)
def test_a_tampered_folder_is_refused_by_field(head, change, words):
    tampered(head, change)
    with pytest.raises(ValueError, match=words):
        FittedMethod.load(head)


def test_a_head_from_before_the_levels_sums_them(data, head):
    def older(config):
        del config["state"]["misalignment"]["levels"]
        del config["training"]["settings"]["misalignment"]["levels"]

    before = FittedMethod.load(head)
    tampered(head, older)
    after = FittedMethod.load(head)
    assert after.state["misalignment"]["levels"] == "sum"
    assert after.config == before.config
    part = next(iter(data[0].select(split="test")))
    np.testing.assert_array_equal(after.score(part), before.score(part))


def test_a_damaged_folder_is_refused_by_file(head):
    config = (head / "config.json").read_text()
    for text, words in (
        ("[]", "expected a JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        (config.replace("0.5", "NaN"), "not a finite number"),
    ):
        (head / "config.json").write_text(text)
        with pytest.raises(ValueError, match=f"config.json.*{words}"):
            FittedMethod.load(head)
    (head / "config.json").write_text(config)
    weights = head / "weights.safetensors"
    good = load_file(weights)
    for value in (np.nan, np.inf):
        bad = {k: v.copy() for k, v in good.items()}
        bad["params.hidden.kernel"][3, 4] = value
        save_file(bad, weights)
        with pytest.raises(ValueError, match="'params.hidden.kernel' holds numbers"):
            FittedMethod.load(head)
    save_file(good | {"params.more.bias": np.zeros(2, np.float32)}, weights)
    with pytest.raises(ValueError, match="its tensors are .*more.bias"):
        FittedMethod.load(head)
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(ValueError, match="weights.safetensors is damaged"):
        FittedMethod.load(head)
    weights.unlink()
    with pytest.raises(ValueError, match="weights.safetensors is missing"):
        FittedMethod.load(head)
    with pytest.raises(ValueError, match="nowhere: there is no such folder"):
        FittedMethod.load(head.parent / "nowhere")
    (head.parent / "empty").mkdir()
    with pytest.raises(
        ValueError, match="no fitted method in .*config.json is missing"
    ):
        FittedMethod.load(head.parent / "empty")


def test_seeds_of_different_trainings_are_not_joined(data, tmp_path):
    _, training, config = data
    config = config.copy_and_resolve_references()
    (one,) = fit_method("item", training, config)
    config.misalignment.name, config.seed = "tidy", 1
    (other,) = fit_method("item", training, config)
    one.save(tmp_path)
    other.save(tmp_path / "seed-1")
    with pytest.raises(ValueError, match="seed-1 differs from .* more than the seed"):
        load_seeds(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("method",),
        ("state", "misalignment", "name"),
        ("state", "head", "name"),
        ("embedding", "tower", "family"),
    ],
)
def test_a_downloaded_method_imports_nothing_of_its_choice(
    head, names, tmp_path, monkeypatch
):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("trap", "trap:x", "os.path:join"):
        tampered(head, put(name, *names))
        with pytest.raises(ValueError, match="names code that is not part of item_jax"):
            FittedMethod.load(head, modules=False)


# ------------------------------------------------------------- what version 0.1 wrote


def test_a_head_of_version_0_1_gives_the_scores_it_gave():
    first, second = load_seeds(BEFORE / "head")
    assert second.config["training"]["seed"] == 1
    assert first.range()["toy_world"], "it was trained on the miniature's CLIP"
    with open(BEFORE / "results/scores.csv", newline="") as f:
        rows = {row["key"]: float(row["p_fake"]) for row in csv.DictReader(f)}
    found = {}
    for path in sorted((BEFORE / "embeddings").glob("*.safetensors")):
        lines = path.with_suffix(".jsonl").read_text().splitlines()
        part = Embeddings(list(map(json.loads, lines)), **load_file(path))
        part = part.where(lambda row: row["split"] == "test")
        found |= dict(zip((row["key"] for row in part.rows), first.score(part)))
    assert found.keys() == rows.keys()
    for key, p in rows.items():
        assert found[key] == pytest.approx(p, abs=1e-6)


def test_a_head_of_version_0_1_that_was_tampered_with_is_refused(tmp_path):
    shutil.copytree(BEFORE / "head", tmp_path / "h")
    tampered(tmp_path / "h", drop("misalignment"))
    with pytest.raises(ValueError, match="config.json: 'misalignment' is missing"):
        FittedMethod.load(tmp_path / "h")


def test_a_cache_of_version_0_1_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match="item-embeddings/1.*Delete .*embed` again"):
        EmbeddingCache(BEFORE / "embeddings")


def test_the_schema_of_our_own_data_is_the_old_one():
    for path in (BEFORE / "head/config.json", BEFORE / "embeddings/manifest.json"):
        assert re.fullmatch(
            r"item-(head|embeddings)/1", json.loads(path.read_text())["schema"]
        )


@pytest.mark.slow
def test_seeds_may_have_fitted_other_numbers(data, tmp_path):
    """VIB-Net chooses its beta for each seed."""
    _, training, config = data
    config = config.copy_and_resolve_references()
    config.train.seeds = 2
    made = fit_method("vib_net", training, config)
    made[0].save(tmp_path / "head")
    made[1].save(tmp_path / "head/seed-1")
    errors = [one.state["held_out_errors"] for one in load_seeds(tmp_path / "head")]
    assert len(errors) == 2 and (errors[0] != errors[1]).all()
