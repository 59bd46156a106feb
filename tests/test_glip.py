"""The adapter of GLIP against what mmdet asks of it.

A random GLIP runs end to end in an environment of its own: `scripts/try_glip.py`.
"""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tiny_captioners
import torch
import transformers
from safetensors.torch import save_file

from item_sidecars.grounders import glip

ROOT = Path(__file__).parent.parent


def make(model, **changes):
    options = {"name": "glip", "dtype": "auto", "local_rank": 0} | changes
    return glip.Grounder(str(model), **options)


def phrase(text, part, start=0):
    at = text.index(part, start)
    return {"phrase": part, "span": [at, at + len(part)]}


def picture():
    return np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture
def mmdet(monkeypatch):
    """Stands for mmdet where it is not installed: keeps what it is asked."""
    asked = []
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "FixScaleResize", "scale": [800, 1333]},
        {"type": "mmdet.PackDetInputs", "meta_keys": ["img_path", "text"]},
    ]
    config = types.SimpleNamespace(
        model=types.SimpleNamespace(backbone=types.SimpleNamespace(init_cfg="a url")),
        test_dataloader=types.SimpleNamespace(
            dataset=types.SimpleNamespace(pipeline=pipeline)
        ),
    )

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(2))
            tokenizer = transformers.BertTokenizer(vocab=tiny_captioners.bert_vocab())
            self.language_model = types.SimpleNamespace(
                tokenizer=tokenizer, max_tokens=24
            )

    class DetInferencer:
        def __init__(self, **options):
            asked.append(options)
            self.model = Model()

        def __call__(self, inputs, batch_size):
            asked.append({"inputs": inputs, "batch_size": batch_size})
            labels = list(range(len(inputs[0]["tokens_positive"])))
            where = [[0, 0, 10.0 * (i + 1), 20.0] for i in labels]
            return {
                "predictions": [
                    {"labels": labels, "scores": [0.5] * len(labels), "bboxes": where}
                ]
            }

    modules = {
        "torch": torch,
        "mmengine": types.SimpleNamespace(
            Config=types.SimpleNamespace(fromfile=lambda path: config)
        ),
        "mmdet.apis": types.SimpleNamespace(DetInferencer=DetInferencer),
    }
    monkeypatch.setattr(glip, "environment", lambda: modules)
    return asked, config


def glip_folder(folder, weight=(1.0, 2.0)):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.tensor(weight)}, folder / "model.safetensors")
    return folder


def test_glip_is_given_our_spans(mmdet, tmp_path):
    asked, config = mmdet
    grounder = make(glip_folder(tmp_path / "glip"))
    # Without this mmdet ignores the spans and looks for phrases itself.
    keys = config.test_dataloader.dataset.pipeline[2]["meta_keys"]
    assert keys == ("img_path", "text", "tokens_positive")
    assert config.test_dataloader.dataset.pipeline[1]["scale"] == (800, 1333)
    assert config.model.backbone.init_cfg is None
    assert grounder._inferencer.model.weight.tolist() == [1, 2]
    assert asked[0]["model"] is config and asked[0]["weights"] is None

    text = "A man. A woman, a man"
    own = [phrase(text, "A man"), phrase(text, "man", 16), phrase(text, "A woman")]
    image = picture()
    views = [grounder.prepare(image)] * 2
    first, none = grounder.ground(views, [text, "running"], [own, []])
    # No phrase, no call: mmdet would look for phrases itself.
    assert len(asked) == 2 and asked[1]["batch_size"] == 1
    (call,) = asked[1]["inputs"]
    np.testing.assert_array_equal(call["img"], image[:, :, ::-1])  # BGR
    assert call["text"] == "a man. a woman, a man"
    assert call["tokens_positive"] == [[[0, 5]], [[18, 21]], [[7, 14]]]
    where, how = first
    np.testing.assert_allclose(where[1], [0, 0, 20 / 50, 20 / 40])
    np.testing.assert_allclose(how, 0.5 * np.eye(3))
    assert none[0].shape == (0, 4) and none[1].shape == (0, 0)


def test_glip_cuts_what_its_language_model_would(mmdet, tmp_path):
    asked, _ = mmdet
    grounder = make(glip_folder(tmp_path / "glip"))
    text = "a dog " * 20  # 40 tokens, 24 at most
    own = [phrase(text, "a dog"), phrase(text, "a dog", 100), phrase(text, "dog", 7)]
    ((_, how),) = grounder.ground([grounder.prepare(picture())], [text], [own])
    (call,) = asked[1]["inputs"]
    assert call["tokens_positive"] == [[[0, 5]], [[8, 11]]]
    assert call["text"] == ("a dog " * 10).strip()
    # The labels of mmdet count the phrases it was given.
    np.testing.assert_allclose(how, [[0.5, 0, 0], [0, 0, 0.5]])


def test_glip_refuses_weights_that_do_not_fit(mmdet, tmp_path):
    folder = glip_folder(tmp_path / "glip")
    save_file({"wait": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 missing \['weight'\], 1 unknown \['wait'"):
        make(folder)
    (folder / "second.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="one file of weights, found"):
        make(folder)
    with pytest.raises(ValueError, match="no weights 'nowhere'.*glip_l_mmdet"):
        make("nowhere")
    with pytest.raises(ValueError, match="float32, not in float16"):
        make(folder, dtype="float16")


class Touch:
    """What a hostile pickle does."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_of_glip_runs_nothing(mmdet, tmp_path):
    folder = tmp_path / "glip"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    torch.save({"state_dict": {"weight": torch.ones(2)}}, folder / "glip.pth")
    assert make(folder)._inferencer.model.weight.tolist() == [1, 1]
    torch.save({"state_dict": Touch(tmp_path / "harm")}, folder / "glip.pth")
    with pytest.raises(ValueError, match="holds more than tensors"):
        make(folder)
    assert not (tmp_path / "harm").exists()


def test_glip_says_how_to_make_its_environment(tmp_path):
    """In this environment, where mmdet is not installed."""
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "try_glip.py"), str(tmp_path)),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "requirements-glip.txt" in done.stderr
    assert "--grounder mm-grounding-dino needs none" in done.stderr
