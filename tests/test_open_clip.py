"""The families against open_clip_torch, on random weights in its own files."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from item_jax.towers.towers import load_towers

TESTS = Path(__file__).parent
SMALL_TEXT = {"text_cfg.layers": 2, "text_cfg.vocab_size": 1000}
SMALL_TOWERS = SMALL_TEXT | {"vision_cfg.layers": 2}
THIN = {"vision_cfg.layers": [1, 2, 1, 1], "text_cfg.layers": 1, "quick_gelu": True}

# Of a configuration of open_clip: its family, and what makes it smaller. Widths, heads
# and patches are the real ones; RN50 and one SigLIP 2 are whole.
MODELS = {
    "RN50": ("clip_resnet", {"quick_gelu": True}),
    "RN101": ("clip_resnet", THIN),
    "RN50x4": ("clip_resnet", THIN),
    "RN50x16": ("clip_resnet", THIN),
    "RN50x64": ("clip_resnet", THIN),
    "ViT-B-16": ("clip_vit", {"vision_cfg.layers": 2, "text_cfg.layers": 2}),
    "ViT-H-14": ("clip_vit", {"vision_cfg.layers": 2, "text_cfg.layers": 2}),
    "ViT-L-14-CLIPA": ("general_vit", SMALL_TOWERS),
    "ViT-bigG-14-CLIPA-336": ("general_vit", SMALL_TOWERS),
    "ViT-H-14-worldwide-quickgelu": ("general_vit", SMALL_TOWERS),
    "ViT-bigG-14-worldwide": ("general_vit", SMALL_TOWERS),
    "ViT-B-16-SigLIP": ("general_vit", SMALL_TEXT),
    "ViT-B-32-SigLIP2-256": ("general_vit", {}),
    "ViT-SO400M-16-SigLIP-i18n-256": (
        "general_vit",  # the text tower has no projection
        SMALL_TEXT,
    ),
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not say quick_gelu")
@pytest.mark.parametrize("name", MODELS)
def test_parity_with_open_clip(name, references, tmp_path):
    family, changes = MODELS[name]
    subprocess.run(
        [
            *(sys.executable, str(TESTS / "open_clip_reference.py"), str(tmp_path)),
            json.dumps({"name": name, "set": changes}),
        ],
        env=references,
        check=True,
    )
    expected = np.load(tmp_path / "reference.npz")
    texts = json.loads((tmp_path / "texts.json").read_text())
    towers = load_towers(tmp_path)
    assert towers.family == family
    tokens, _ = towers.tokenize(texts)
    for text, row, theirs in zip(texts, tokens, expected["tokens"]):
        assert row == theirs[: len(row)].tolist(), text
    one = {"devices": jax.devices()[:1], "batch_size": 8}
    views = expected["views"]
    for dtype in ("float32", "bfloat16"):
        towers = load_towers(tmp_path, dtype)
        found = {
            "image_emb": towers.encode_image(views, **one),
            "text_emb": towers.encode_text(texts, **one),
        }
        for key, ours in found.items():
            a, b = unit(ours), unit(expected[key])
            if dtype == "float32":
                assert np.abs(a - b).max() <= 1e-5, key
            else:
                assert (a * b).sum(-1).min() >= 0.999, key


@pytest.mark.slow
def test_how_many_tags_of_open_clip_are_read(references):
    """Their configurations; that a family computes the same is tested above."""
    script = TESTS.parent / "scripts" / "describe_checkpoint.py"
    done = subprocess.run(
        [sys.executable, str(script), "--open-clip"],
        env=references,
        capture_output=True,
        text=True,
        check=True,
    )
    families = "clip_resnet 16, clip_vit 80, general_vit 38, none 62"
    assert done.stdout.splitlines()[-1] == f"134 of 196 tags are read ({families})"
