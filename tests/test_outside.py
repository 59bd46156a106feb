"""One of each thing from somebody else's package, through the real programs.

`tests/outside/my_ideas` is never imported by item_jax itself, and nothing of item_jax
is edited for it. The rows of the README's table of extensions are tested here.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

ROOT = Path(__file__).parent.parent
OUTSIDE = Path(__file__).parent / "outside"


def run(*words, status=0, program=("-m", "item_jax")):
    done = subprocess.run(
        [sys.executable, *program, *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYTHONPATH": f"{ROOT}{os.pathsep}{OUTSIDE}", "XLA_FLAGS": ""},
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A checkpoint of the family `my_ideas.colours`."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    config = {"model_type": "colours", "embed_dim": 8, "image_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    letters = rng.normal(size=(128, 8)).astype(np.float32)
    letters[0] = 0  # the padding
    colour = rng.normal(size=(8, 3)).astype(np.float32)
    save_file(
        {"colour.weight": colour, "letters.weight": letters},
        folder / "model.safetensors",
    )
    return folder


@pytest.fixture(scope="module")
def study(clip, tmp_path_factory):
    """A benchmark of one's own, captioned and grounded by one's own, embedded."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("real", "fake"):
            place = folder / "images/album" / split / label
            place.mkdir(parents=True)
            for i in range(6):
                picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                picture[..., 0 if label == "fake" else i % 3] = 250
                Image.fromarray(picture).save(place / f"{i}.png")
    images = folder / "images"
    run(
        *("--images", images, "--out", folder / "c", "--model", "any"),
        *("--captioner", "my_ideas.sidecars"),
        program=[ROOT / "scripts/caption.py"],
    )
    captions = folder / "c/captions.jsonl"
    rows = [json.loads(line) for line in captions.read_text().splitlines()]
    assert {r["caption"] for r in rows} <= {
        f"A {c} picture." for c in ("red", "green", "blue")
    }
    phrases = [{"key": r["key"], "phrases": ["picture"]} for r in rows]
    (folder / "phrases.jsonl").write_text(
        "".join(json.dumps(p) + "\n" for p in phrases)
    )
    run(
        *("--images", images, "--captions", captions, "--out", folder / "o"),
        *("--grounder", "my_ideas.sidecars:Grounder", "--model", "any"),
        *("--phrases", folder / "phrases.jsonl"),
        program=[ROOT / "scripts/ground.py"],
    )
    out = run(
        *("index", "--images", images, "--benchmark", "my_ideas.album"),
        *("--captions", captions, "--objects", folder / "o/objects.jsonl"),
        *("--out", folder / "records.jsonl"),
    )
    assert re.search(r"6 fake +camera +train", out) and "fault" not in out
    embed = (
        *("embed", "--workdir", folder, f"--config.tower={clip}"),
        "--config.tower_family=my_ideas.colours",
    )
    run(*embed)
    run(
        *(*embed, "--cache", "few-colours"),
        *("--config.perturb.name=my_ideas.posterise", "--config.perturb.severity=2"),
    )
    return folder


@pytest.mark.slow
def test_captioner_grounder_benchmark_and_towers_are_recorded(study):
    manifest = json.loads((study / "embeddings/manifest.json").read_text())
    embedding = manifest["embedding"]
    assert embedding["captioner"]["id"] == "colour namer"
    assert embedding["grounder"]["id"] == "left half"
    assert embedding["tower"]["family"] == "my_ideas.colours"
    assert embedding["perturb"] == {"name": "none", "severity": 0}
    manifest = json.loads((study / "caches/few-colours/manifest.json").read_text())
    assert manifest["embedding"]["perturb"]["name"] == "my_ideas.posterise"
    rows = [
        json.loads(line)
        for line in (study / "embeddings/shard-00000.jsonl").read_text().splitlines()
    ]
    assert {row["benchmark"] for row in rows} == {"album"}
    assert all(row["objects"][0]["phrase"] == "picture" for row in rows)


@pytest.mark.slow
def test_misalignment_head_and_method_through_train_evaluate_and_predict(study):
    out = run(
        *("train", "--workdir", study, "--config.train.epochs=40"),
        "--config.misalignment.name=my_ideas.distance",
        "--config.head.name=my_ideas.deep:ThreeLayers",
    )
    assert "trained 'item', 1 seed, on 6 real + 6 fake of camera" in out
    out = run("train", "--workdir", study, "--method", "my_ideas.centroid")
    assert "methods/centroid" in out
    out = run("evaluate", "--workdir", study)
    results = json.loads((study / "results/results.json").read_text())
    assert {"head", "centroid"} <= results["methods"].keys()
    method = results["methods"]["head"]["config"]["training"]["settings"]
    assert method["misalignment"]["name"] == "my_ideas.distance"
    assert method["head"]["name"] == "my_ideas.deep:ThreeLayers"
    assert "misalignment 'my_ideas.distance'" in " ".join(out.split())
    out = run("evaluate", "--workdir", study, "--cache", "few-colours")
    assert "perturbation my_ideas.posterise:2" in " ".join(out.split())
    image = study / "images/album/test/fake/0.png"
    for head in ("head", "methods/centroid"):
        out = run(
            *("predict", image, "--head", study / head),
            *("--records", study / "records.jsonl"),
        )
        assert "P(fake) = " in out and "captions by colour namer" in out


@pytest.mark.slow
def test_a_run_card_names_them_too(study, tmp_path):
    card = tmp_path / "card.py"
    card.write_text(
        "from item_jax import config\n\n\ndef get_config():\n"
        "    c = config.default()\n"
        "    c.misalignment.name = 'my_ideas.distance:misalignment'\n"
        "    c.head.name = 'my_ideas.deep:ThreeLayers'\n"
        "    c.train.epochs = 2\n    return c\n"
    )
    out = run("train", "--workdir", study, "--config", card, "--as", "from-a-card")
    assert "methods/from-a-card" in out


@pytest.mark.slow
def test_an_experiment(study):
    out = run(
        *("paper", "my_ideas.widths", "--workdir", study, "--no-embed"),
        *("--config.train.epochs=2",),
    )
    assert "ITEM with heads of two widths" in out
    written = (study / "results/paper/my_ideas.widths.md").read_text()
    assert "| 4 wide |" in written and "| 16 wide |" in written


@pytest.mark.slow
def test_a_data_set(study, clip, tmp_path):
    out = run(
        *("embed", "--workdir", tmp_path, f"--config.tower={clip}"),
        "--config.tower_family=my_ideas.colours",
        "--config.data.records=my_ideas.painted",
    )
    assert "24 images = 24 embedded + 0 failed" in out
    out = run("train", "--workdir", tmp_path, "--config.train.epochs=3")
    out = run("evaluate", "--workdir", tmp_path)
    assert "brush" in out and "captions by the painter" in " ".join(out.split())


def test_all_of_it_in_python(clip, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(OUTSIDE)
    from my_ideas import album, centroid, distance, painted

    import item_jax
    from item_jax.datasets import benchmarks

    config = item_jax.config.default()
    config.train.epochs = 2
    config.perturb.name, config.perturb.severity = "my_ideas.posterise", 1
    config.misalignment.name = "my_ideas.distance"
    config.head.name = "my_ideas.deep:ThreeLayers"
    towers = item_jax.load_towers(clip, family="my_ideas.colours")
    cache = item_jax.embed_records(
        painted.dataset(), towers, config, folder=tmp_path / "e"
    )
    data = item_jax.training_set(cache, config)
    fitted = {
        "head": item_jax.fit_method("item", data, config),
        "centroid": item_jax.fit_method(centroid, data, config),
    }
    results = item_jax.evaluate_methods(cache, fitted, config)
    assert results["generators"]["brush"]["n"] == 12
    assert results["methods"]["centroid"]["generators"]["brush"]["auc"] > 0.9
    part = data.parts[0]
    d = item_jax.misalignment.compute(distance.misalignment, *part.arrays().values())
    np.testing.assert_allclose(d, part.misalignment(config), atol=1e-6)
    assert benchmarks.get(album) is benchmarks.get("my_ideas.album") is album.BENCHMARK


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "--method", "my_ideas.nothing"],
            "method 'my_ideas.nothing': tried to import my_ideas.nothing: "
            "ModuleNotFoundError",
        ),
        (
            ["train", "--method", "my_ideas.distance"],
            "method 'my_ideas.distance' lacks NEEDS, fit, score",
        ),
        (
            ["train", "--config.misalignment.name=my_ideas.distance:mislignment"],
            "Did you mean 'misalignment'",
        ),
        (
            ["train", "--config.head.name=my_ideas.deep"],
            "my_ideas.deep has no 'Head'",
        ),
        (
            ["embed", "--config.tower_family=my_ideas.centroid", "--cache=x"],
            "tower family 'my_ideas.centroid' lacks LAYOUTS",
        ),
        (
            ["embed", "--config.perturb.name=my_ideas.deep", "--cache=x"],
            "my_ideas.deep has no 'perturb'",
        ),
    ],
)
def test_what_is_wrong_with_a_module_is_said(study, clip, words, message):
    words = [*words, "--as=x"] if words[0] == "train" else words
    tower = [f"--config.tower={clip}"] if words[0] == "embed" else []
    if words[0] == "embed" and "tower_family" not in words[1]:
        tower.append("--config.tower_family=my_ideas.colours")
        tower.append("--config.perturb.severity=1")
    out = run(*words, "--workdir", study, *tower, status=2)
    assert message in out


def test_the_readme_lists_what_is_tested_here():
    """The table of extensions in the README, row by row."""
    table = (ROOT / "README.md").read_text().split("| I want another ")[1]
    rows = re.findall(r"^\| ([a-z ,]+?) \|", table.split("\n\n")[0], re.M)
    assert set(rows) == {
        *("misalignment", "head", "method", "perturbation", "tower family"),
        *("data set", "benchmark", "experiment", "captioner", "grounder"),
    }
