"""Programs that need no item_jax: written, read back, compared."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import references

from item_jax import export
from item_jax.__main__ import main
from item_jax.fitted import FittedMethod
from item_jax.towers.towers import load_towers

README = Path(__file__).parent.parent / "item_jax" / "README.md"

# Runs the README's lines for each program, and every ONNX file; prints what they give.
ELSEWHERE = """
import json, sys
from pathlib import Path
import jax, jax.export, numpy as np, safetensors.numpy
{lines}
assert not any(name.startswith("item_jax") for name in sys.modules)
print(json.dumps(np.asarray(embeddings, np.float64).tolist()))
"""

ONNX = """
import json, sys
import numpy as np, onnxruntime
inputs = dict(np.load(sys.argv[2]))
session = onnxruntime.InferenceSession(sys.argv[1])
assert [each.name for each in session.get_inputs()] == list(inputs)
print(json.dumps(session.run(None, inputs)[0].astype(float).tolist()))
"""


@pytest.fixture(scope="module")
def onnx(tmp_path_factory):
    """The environment of a program that can write and run ONNX."""
    folder = tmp_path_factory.mktemp("onnx")
    return references.install("requirements-export.txt", folder)


def run(words, **options):
    done = subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_programs_elsewhere_give_the_scores_of_the_detector(evaluated, onnx, tmp_path):
    """Other numbers of rows than the ones compared when they were written."""
    out = tmp_path / "exported"
    words = ["-m", "item_jax", "export", "--head", evaluated.method(), "--out", out]
    said = run([*words, "--onnx"], env=onnx)
    written = json.loads((out / "export.json").read_text())
    for name, program in written["programs"].items():
        assert set(program["parity"]) == {"jax", "onnx"}
        for kind, parity in program["parity"].items():
            assert 0 <= parity < 2e-6
            for file in program["files"][kind]:
                assert (out / file).stat().st_size and file in said, name
    method = FittedMethod.load(evaluated.method())
    assert written["detector"]["range"] == method.range()
    towers = load_towers(method.embedding["tower"]["name"])

    views = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)
    (lines,) = re.findall(r"```python\n(program = .*?)```", README.read_text(), re.S)
    np.save(tmp_path / "views.npy", views)
    lines = 'views = np.load("views.npy")\n' + lines
    found = run(["-c", ELSEWHERE.format(lines=lines)], cwd=tmp_path)
    expected = towers.encode_image(views)
    np.testing.assert_allclose(json.loads(found), expected, rtol=0, atol=5e-6)

    # From pixels and token ids to P(fake), by ONNX Runtime alone.
    def computed(name, **inputs):
        np.savez(tmp_path / "inputs.npz", **inputs)
        arguments = (out / f"{name}.onnx", tmp_path / "inputs.npz")
        found = json.loads(run(["-c", ONNX, *arguments], env=onnx))
        return np.array(found, np.float32)

    texts = ["a dog", "two red cars", "", "a house by the sea", "snow"]
    image_emb = computed("image", views=views)
    text_emb = computed("text", tokens=towers.full_length(texts))
    objects, present = image_emb[:, None][:, [0, 0]], np.ones((5, 2), np.float32)
    present[2:, 1], present[4] = 0, 0
    phrases = np.stack([text_emb, text_emb[::-1]], 1)
    scores = computed(
        "head",
        image_emb=image_emb,
        text_emb=text_emb,
        object_emb=objects,
        phrase_emb=phrases,
        present=present,
    )
    from item_jax.embeddings import Embeddings

    kept = present.astype(bool)
    live = Embeddings(
        [{"key": text, "label": ""} for text in texts],
        expected,
        towers.encode_text(texts),
        objects[kept],
        phrases[kept],
        np.concatenate([[0], np.cumsum(kept.sum(1))]),
    )
    np.testing.assert_allclose(scores, method.score(live), rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, changes, calibration",
    [
        ("tidy", {"no_objects": "zero", "w2": 0.5}, None),
        ("item", {"levels": "concat"}, {"temperature": 1.7}),
    ],
)
def test_every_form_of_d_and_a_temperature(
    evaluated, towers, config, tmp_path, name, changes, calibration
):
    from item_jax import cache, train, training_data

    for field, value in changes.items():
        config.misalignment[field] = value
    config.train.epochs = 1
    data = training_data.training_set(cache.EmbeddingCache(evaluated.cache()), config)
    (method,) = train.fit_method(name, data, config)
    if calibration:
        method.config["calibration"] = calibration | {
            "fpr": 0.05,
            "n_real": 6,
            "split": "train",
        }
    written = export.export(method, towers, tmp_path / "out")
    assert written["programs"]["head"]["parity"]["jax"] < 2e-6


def test_what_cannot_be_exported_is_refused(evaluated, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["export", "--out", str(out), "--head"]
    assert main([*words, str(evaluated.method("cosine"))]) == 2
    assert "'cosine' is not a head on a misalignment" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    assert main([*words, str(evaluated.method())]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_a_program_that_computes_something_else_is_refused(
    evaluated, tiny_clip, tmp_path
):
    """Weights that changed since the live program took them; half an export stays."""
    towers = load_towers(tiny_clip[0])
    towers.encode_image(np.zeros((1, 32, 32, 3), np.uint8))
    vision = towers.params["vision"]
    flipped = {"kernel": np.flip(vision["projection"]["kernel"], 1)}
    towers.params = {**towers.params, "vision": {**vision, "projection": flipped}}
    method = FittedMethod.load(evaluated.method())
    with pytest.raises(ValueError, match=r"image \(jax\) differs from the live"):
        export.export(method, towers, tmp_path / "out")
    assert not (tmp_path / "out" / "export.json").exists()
