"""Xception, F3Net, Patchforensics and Swin against PyTorch, SciPy and transformers."""

import functools
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
import scipy.fft
import scipy.special
import torch
import torch_networks

from item_jax import published
from item_jax.methods import (
    _network,
    _start,
    _xception,
    f3net,
    patchforensics,
    resnet50,
    swin_t,
)
from item_jax.methods._swin import Swin

CHANNELS = (4, 6, 8, 8, 10, 12, 12, 14)


def count(module, size):
    x = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    return sum(int(np.prod(p.shape)) for p in jax.tree.leaves(params))


def same_probability(found, expected):
    """P(fake) of logits, to 1e-5."""
    ours, theirs = (scipy.special.expit(np.asarray(x)) for x in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def nchw(x):
    return torch.tensor(x).permute(0, 3, 1, 2)


def test_parameters_are_those_published():
    # Swin-T of 1,000 classes has 28,288,354, of which 769,000 in the last layer.
    assert count(swin_t.NETWORK, 224) == 28_288_354 - 769_000 + 769
    # Xception has 22,855,952 with a last layer to 1,000; two of them, whose first
    # convolutions see 12 and 6 channels for 3.
    streams = 2 * (22_855_952 - 2_049_000) + 9 * 32 * (9 + 3)
    masks = 4 * 299**2 + 6 * 10**2
    mixing = sum(4 * (c**2 + c) + 2 * (2 * c) + 2 * (2 * c) + 2 for c in (728, 1024))
    assert count(f3net.Network(), 299) == streams + masks + mixing + 4096 + 1
    assert count(patchforensics.Network(), 299) == 191_330


# --------------------------------------------------------------------------- xception


@pytest.mark.slow
def test_patchforensics_is_pytorchs_xception_cut_short():
    torch.manual_seed(0)
    net = torch_networks.shaken(torch_networks.Xception(CHANNELS))
    x = np.random.default_rng(0).normal(size=(2, 40, 40, 3)).astype(np.float32)
    module = patchforensics.Network(CHANNELS)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    layers = {
        ours: theirs
        for ours, theirs in _xception.layers("").items()
        if ours in {**variables["params"], **variables["batch_stats"]}
    }
    rest = tuple(f"block{i}." for i in range(3, 13)) + ("conv3", "conv4", "bn3", "bn4")
    variables = _start.filled(
        variables, layers, torch_networks.arrays(net), ignored=rest
    )
    with torch.no_grad():
        features = net.blocks(net.stem(nchw(x)), 1, 2).permute(0, 2, 3, 1).numpy()
    output = variables["params"]["output"]
    two = features @ np.array(output["kernel"])[0, 0] + np.array(output["bias"])
    expected = two[..., 1] - two[..., 0]
    found = jax.jit(module.apply)(variables, x)
    assert found.shape == expected.shape == (2, 5, 5)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
    same_probability(found, expected)


# ------------------------------------------------------------------------------ f3net


def test_bands_of_the_picture_are_scipys_dct():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 30, 30, 3)).astype(np.float32)
    learned = rng.normal(size=(4, 30, 30))
    masks = f3net.picture_bands(30) + np.tanh(learned / 2)
    found = jax.jit(f3net.decomposed)(x, masks)
    spectrum = scipy.fft.dctn(x, axes=(1, 2), norm="ortho")
    total = np.add.outer(np.arange(30), np.arange(30))
    edges = [(0, 10), (10, 15), (15, 60), (0, 60)]  # 30 // 2.82 is 10
    for i, (low, high) in enumerate(edges):
        mask = ((total >= low) & (total <= high)) + np.tanh(learned[i] / 2)
        back = scipy.fft.idctn(
            spectrum * mask[None, ..., None], axes=(1, 2), norm="ortho"
        )
        np.testing.assert_allclose(found[..., 3 * i : 3 * i + 3], back, atol=2e-5)


def test_local_statistics_are_numpys():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (1, 21, 21, 3)).astype(np.float32)
    learned = rng.normal(size=(6, 10, 10))
    masks = f3net.window_bands() + np.tanh(learned / 2)
    found = jax.jit(f3net.statistics)(x, masks)
    gray = ((x @ np.array([0.299, 0.587, 0.114]))[0] + 1) * 122.5
    padded = np.pad(gray, 4)
    assert found.shape == (1, 10, 10, 6)
    total = np.add.outer(np.arange(10), np.arange(10))
    for i in range(6):
        fixed = (total >= 20 / 6 * i) & (total <= 20 / 6 * (i + 1))
        mask = (fixed + np.tanh(learned[i] / 2)) / fixed.sum()
        for row, column in ((0, 0), (3, 7), (9, 9)):
            window = padded[2 * row : 2 * row + 10, 2 * column : 2 * column + 10]
            logs = np.log10(abs(scipy.fft.dctn(window, norm="ortho")) + 1e-15)
            if (abs(logs) > 3).any():  # a zero, which float32 cannot tell from another
                continue
            expected = (logs * mask).sum()
            np.testing.assert_allclose(found[0, row, column, i], expected, atol=2e-3)


@pytest.mark.slow
def test_the_whole_of_f3net_is_pytorchs():
    torch.manual_seed(0)
    fad = torch_networks.shaken(torch_networks.Xception(CHANNELS, 12), 1)
    lfs = torch_networks.shaken(torch_networks.Xception(CHANNELS, 6, stride=1), 2)
    mixes = {
        number: torch_networks.shaken(torch_networks.Mix(width), number)
        for number, width in ((7, CHANNELS[4]), (12, CHANNELS[5]))
    }
    x = np.random.default_rng(0).uniform(-1, 1, (2, 63, 63, 3)).astype(np.float32)
    module = f3net.Network(CHANNELS)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    for name, net in (("fad_", fad), ("lfs_", lfs)):
        variables = _start.filled(
            variables, _xception.layers(name), torch_networks.arrays(net), ignored=()
        )
    for number, mix in mixes.items():
        tensors = torch_networks.arrays(mix)
        names = [f"{s}_{k}" for s in ("fad", "lfs") for k in ("query", "key", "conv")]
        names += ["fad_norm", "lfs_norm"]
        variables = _start.filled(
            variables,
            {f"mix{number}_{name}": name for name in names},
            tensors,
            ignored=("fad_gamma", "lfs_gamma"),
        )
        for name in ("fad", "lfs"):
            gamma = tensors[f"{name}_gamma"]
            variables["params"][f"mix{number}_{name}_gamma"] = gamma
    masks = {n: variables["params"][f"{n}_masks"] for n in ("fad", "lfs")}
    bands = {"fad": f3net.picture_bands(63), "lfs": f3net.window_bands()}
    masks = {n: bands[n] + np.tanh(np.array(m) / 2) for n, m in masks.items()}
    with torch.no_grad():
        a = nchw(np.array(f3net.decomposed(x, masks["fad"])))
        b = nchw(np.array(f3net.statistics(x, masks["lfs"])))
        a, b = fad.stem(a), lfs.stem(b)
        for first, last in ((1, 7), (8, 12)):
            a, b = fad.blocks(a, first, last), lfs.blocks(b, first, last)
            a, b = mixes[last](a, b)
        ends = torch.cat([fad.ending(a), lfs.ending(b)], 1).numpy()
    output = variables["params"]["output"]
    expected = ends @ np.array(output["kernel"])[:, 0] + np.array(output["bias"])
    found = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    same_probability(found, expected)


# ------------------------------------------------------------------------------- swin


def with_weights(model, params, depths):
    """A SwinForImageClassification with our parameters."""
    tensors = model.state_dict()

    def put(name, own):
        weight = np.array(own["kernel"] if "kernel" in own else own["scale"])
        weight = weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight.T
        tensors[f"{name}.weight"] = torch.tensor(weight)
        if "bias" in own:
            tensors[f"{name}.bias"] = torch.tensor(np.array(own["bias"]))

    put("swin.embeddings.patch_embeddings.projection", params["patch"])
    put("swin.embeddings.norm", params["patch_norm"])
    put("swin.layernorm", params["norm"])
    put("classifier", params["output"])
    for stage, depth in enumerate(depths):
        if stage:
            theirs = f"swin.encoder.layers.{stage - 1}.downsample"
            put(f"{theirs}.reduction", params[f"{stage}_merge"])
            put(f"{theirs}.norm", params[f"{stage}_merge_norm"])
        for number in range(depth):
            own = params[f"{stage}_{number}"]
            theirs = f"swin.encoder.layers.{stage}.blocks.{number}"
            put(f"{theirs}.layernorm_before", own["norm1"])
            put(f"{theirs}.layernorm_after", own["norm2"])
            for i, name in enumerate("qkv"):
                part = {
                    k: np.split(np.array(v), 3, -1)[i] for k, v in own["qkv"].items()
                }
                put(f"{theirs}.attention.{name}_proj", part)
            put(f"{theirs}.attention.o_proj", own["proj"])
            put(f"{theirs}.mlp.fc1", own["fc1"])
            put(f"{theirs}.mlp.fc2", own["fc2"])
            bias = "attention.relative_position_bias.relative_position_bias_table"
            tensors[f"{theirs}.{bias}"] = torch.tensor(np.array(own["bias"]))
    model.load_state_dict(tensors)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 14])
def test_swin_is_that_of_transformers(side):
    """With windows that fit, and with some that must be padded."""
    from transformers import SwinConfig, SwinForImageClassification

    size, window = 4 * side, 4
    config = SwinConfig(
        image_size=size,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=window,
        num_labels=1,
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    module = Swin((2, 2), heads=(2, 4), width=8, window=window)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    variables = jax.tree.map(
        lambda p: p + rng.normal(size=p.shape).astype(np.float32) / 5, variables
    )
    model = SwinForImageClassification(config)
    with torch.no_grad():
        model = with_weights(model, variables["params"], (2, 2))
        expected = model(nchw(x)).logits[:, 0].numpy()
    found = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    same_probability(found, expected)


# ---------------------------------------------------------------- timm, at full size


class Whole(nn.Module):
    """All of Xception, `[B, H, W, 3]` -> `[B, 1]` by a last layer."""

    @nn.compact
    def __call__(self, x):
        norm = _xception.norms(False, None)
        x = _xception.blocks(_xception.stem(x, norm), norm, range(1, 13))
        return _network.linear(_xception.ending(x, norm), 1, "output")[:, 0]


@pytest.fixture(scope="module")
def timms(references, tmp_path_factory):
    folder = tmp_path_factory.mktemp("timm")
    program = Path(__file__).parent / "network_reference.py"
    words = [sys.executable, str(program), str(folder)]
    subprocess.run(words, env=references, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, method, module, started",
    [
        (
            *("swin_tiny_patch4_window7_224", "swin_t", swin_t.NETWORK),
            swin_t.METHOD.started,
        ),
        ("tv_resnet50", "cnndet", resnet50.NETWORK, resnet50.METHOD.started),
        (
            *("legacy_xception", "f3net", Whole()),
            functools.partial(_xception.started, names=("",)),
        ),
    ],
)
def test_networks_that_start_from_timms_weights_are_timms(
    name, method, module, started, timms
):
    start = published.start(method, timms / f"{name}.safetensors")
    with np.load(timms / f"{name}.npz") as found:
        x, features = found["x"], found["features"]
    variables = jax.jit(module.init)(jax.random.key(0), x)
    variables = started(variables, start.tensors)
    output = variables["params"]["output"]
    expected = features @ np.array(output["kernel"])[:, 0] + np.array(output["bias"])
    found = jax.jit(module.apply)(variables, x)
    scale = np.abs(features).max()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)
