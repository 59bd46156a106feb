"""Image and text tower: ours against Hugging Face PyTorch, eager and compiled.

Needs torch; onnx, onnxscript and onnxruntime add ONNX Runtime, on CPU in float32.
"""

from __future__ import annotations

import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import CLIPModel

from benchmarks.peers import peers
from benchmarks.race import check_equal, race
from item_jax import testing
from item_jax.towers.towers import load_towers

# GFLOP per sample at 224 pixels or 77 tokens (open_clip docs/model_profile.csv).
GFLOP = {
    "ViT-B-32": (8.82, 5.96),
    "ViT-B-16": (35.13, 5.96),
    "ViT-L-14": (162.03, 13.30),
}
CPU_BATCH = {"ViT-B-32": 16, "ViT-B-16": 16, "ViT-L-14": 8}
GPU_BATCH = {"ViT-B-32": 2048, "ViT-B-16": 1024, "ViT-L-14": 512}


def matmul_peak(dtype) -> float:
    """Returns the best FLOP/s of a large matrix product, an upper bound for towers."""
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), dtype)
    product = jax.jit(lambda a, b: a @ b)
    product(a, a).block_until_ready()
    best = np.inf
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(5):
            out = product(a, a)
        out.block_until_ready()
        best = min(best, (time.perf_counter() - start) / 5)
    return 2 * n**3 / best


def run(arguments):
    """Yields one row per tower and size."""
    gpu = jax.default_backend() == "gpu"
    peak = matmul_peak(getattr(jnp, arguments.dtype))
    for size in arguments.sizes:
        batch = (GPU_BATCH if gpu else CPU_BATCH)[size]
        with tempfile.TemporaryDirectory() as folder:
            testing.save_random_clip(folder, size)
            model = CLIPModel.from_pretrained(folder).eval()
            towers = load_towers(folder, arguments.dtype)
        model = model.to("cuda" if gpu else "cpu", getattr(torch, arguments.dtype))
        rng = np.random.default_rng(0)
        s = towers.config.image_size
        views = rng.integers(0, 256, (batch, s, s, 3), dtype=np.uint8)
        tokens = rng.integers(0, 49406, (batch, 77), dtype=np.int32)
        tokens[:, -1] = towers.config.eos_token_id
        for which, x in (("image", views), ("text", tokens)):
            yield _row(size, which, x, model, towers, peak, arguments)
        del model, towers


def _row(size, which, x, model, towers, peak, arguments) -> dict:
    """Races one tower on `x`; its memory is free when this returns."""
    encoders = {"image": towers.image_encoder, "text": towers.text_encoder}
    run = encoders[which](batch_size=len(x), devices=jax.devices()[:1])
    # The inputs are on the device: transfers are not part of the race.
    on_device = jnp.asarray(x)

    def ours():
        return np.asarray(run(on_device))

    others = peers(model, which, towers.config, x, quick=arguments.quick)
    mine = ours()
    for name, peer in others.items():
        check_equal(name, mine, peer(), towers.dtype)
    result = race({"ours": ours, **others}, arguments.rounds)
    rate = len(x) / result["ours"]["seconds"]
    flops = rate * GFLOP[size][which == "text"] * 1e9
    row = {
        "tower": f"{size} {which}",
        "batch": len(x),
        "dtype": arguments.dtype,
        "ours /s": rate,
        "spread": result["ours"]["spread"],
        "TFLOP/s": flops / 1e12,
        "of matmul peak": flops / peak,
    }
    for name in others:
        row[f"{name} /s"] = len(x) / result[name]["seconds"]
        row[f"x {name}"] = result[name]["ratio"]
    return row
