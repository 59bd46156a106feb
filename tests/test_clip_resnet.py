"""Configurations of CLIP ResNets; test_open_clip.py compares their numbers."""

import json

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import pytest

from item_jax.towers import clip_resnet, clip_resnet_keys
from item_jax.towers.checkpoint import open_checkpoint

# open_clip's RN50.json and preprocessing, and that its weights need QuickGELU.
RN50 = {
    "model_cfg": {
        "embed_dim": 1024,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 224,
            "layers": [3, 4, 6, 3],
            "width": 64,
            "patch_size": None,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 512,
            "heads": 8,
            "layers": 12,
        },
    },
    "preprocess_cfg": {"interpolation": "bicubic", "resize_mode": "shortest"},
}


def config_of(folder, raw=RN50):
    (folder / "open_clip_config.json").write_text(json.dumps(raw))
    return clip_resnet.read_config(open_checkpoint(str(folder)))


def test_the_table_names_every_parameter(tmp_path):
    config = config_of(tmp_path)
    assert config.heads == 32 and config.geometry == "clip"
    assert config.text.activation == "quick_gelu" and config.eos_token_id == 49407
    shapes = clip_resnet.param_shapes(config, jnp.float32)
    paths = flax.traverse_util.flatten_dict(shapes, sep="/")
    counts = {"text/block_": 12}
    for stage, count in zip(clip_resnet_keys.STAGES, config.blocks):
        counts[f"vision/stage_{stage}_block_"] = count
    named = set()
    for path in clip_resnet_keys.OPEN_CLIP:
        start = path.partition("{i}")[0]
        shortcut = path.startswith("vision") and "/shortcut/" in path
        # Only the first of a stage has a shortcut that is a convolution.
        named |= {
            path.format(i=i) for i in range(1 if shortcut else counts.get(start, 1))
        }
    assert set(paths) == named
    # open_clip, docs/model_profile.csv: 102.01 million, of which 38.32 in the image
    # tower; a batch norm, of two numbers a channel, is folded into one bias.
    millions = sum(np.prod(p.shape) for p in paths.values()) / 1e6
    assert millions == pytest.approx(102.01, abs=0.04)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("vision_cfg.layers", [3, 4, 6], r"'layers' is \[3, 4, 6\]; expected four"),
        ("vision_cfg.layers", [3, 0, 6, 3], "'layers' is 0; expected a whole number"),
        ("vision_cfg.layers", [3, 10**9, 6, 3], "'layers' is 1000000000"),
        ("vision_cfg.width", 63, "'width' is 63; the stem halves it"),
        ("vision_cfg.width", 10**9, "'width' is 1000000000"),
        ("vision_cfg.image_size", 230, "'image_size' is 230; the strides"),
        ("vision_cfg.patch_size", 32, "'patch_size': 32 is not supported"),
        ("vision_cfg.stem", "deep", "'stem': 'deep' is not understood"),
        ("text_cfg.no_causal_mask", True, "'no_causal_mask': True is not supported"),
        ("text_cfg.heads", 7, "7 heads do not divide the width 512"),
        ("embed_dim", None, "'embed_dim' is None"),
    ],
)
def test_configurations_that_are_refused(tmp_path, key, value, words):
    raw = json.loads(json.dumps(RN50))
    *outer, last = key.split(".")
    row = raw["model_cfg"]
    for name in outer:
        row = row[name]
    row[last] = value
    with pytest.raises(ValueError, match=words):
        config_of(tmp_path, raw)


def test_a_batch_norm_is_folded():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(5, 4, 3, 3)).astype(np.float32)
    beta, mean, gamma = rng.normal(size=(3, 5)).astype(np.float32)
    variance = rng.uniform(0.5, 2, 5).astype(np.float32)
    table = clip_resnet_keys.OPEN_CLIP
    _, fold_kernel = table["vision/stem_1/kernel"]
    _, fold_bias = table["vision/stem_1/bias"]
    folded = fold_kernel(kernel, gamma, variance)
    bias = fold_bias(beta, mean, gamma, variance)
    x = rng.normal(size=(3, 3, 4))
    plain = np.einsum("rci,oirc->o", x, kernel)
    expected = (plain - mean) / np.sqrt(variance + 1e-5) * gamma + beta
    found = np.einsum("rci,rcio->o", x, folded) + bias
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_impossible_variance_is_not_finite():
    """And the reader of tensors then names it."""
    table = clip_resnet_keys.OPEN_CLIP
    _, fold = table["vision/stem_1/bias"]
    assert np.isnan(fold(*np.ones((3, 2)), np.array([1.0, -1.0]))[1])
