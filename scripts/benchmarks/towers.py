"""Image and text tower: ours against Hugging Face PyTorch, eager and compiled."""

from __future__ import annotations

import functools
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import random_clip
from benchmarks.race import check_equal, race
from item_jax.towers import clip_vit
from item_jax.towers.load import load_towers

# GFLOP a sample at 224 pixels or 77 tokens (open_clip docs/model_profile.csv).
GFLOP = {
    "ViT-B-32": (8.82, 5.96),
    "ViT-B-16": (35.13, 5.96),
    "ViT-L-14": (162.03, 13.30),
}
CPU_BATCH = {"ViT-B-32": 16, "ViT-B-16": 16, "ViT-L-14": 8}
GPU_BATCH = {"ViT-B-32": 2048, "ViT-B-16": 1024, "ViT-L-14": 512}


def matmul_peak(dtype) -> float:
    """The best FLOP/s of a large matrix product here, the roof of the towers."""
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
    """Yields a row per tower and size."""
    import torch

    gpu = jax.default_backend() == "gpu"
    dtype = getattr(jnp, arguments.dtype)
    torch_dtype = getattr(torch, arguments.dtype)
    device = "cuda" if gpu else "cpu"
    peak = matmul_peak(dtype)
    limit = 1e-5 if arguments.dtype == "float32" else 5e-2
    for size in arguments.sizes:
        batch = (GPU_BATCH if gpu else CPU_BATCH)[size]
        with tempfile.TemporaryDirectory() as folder:
            model = random_clip.save_random_clip(folder, size)
            towers = load_towers(folder, arguments.dtype)
        model = model.to(device, torch_dtype)
        config = towers.config
        rng = np.random.default_rng(0)
        s = config.image_size
        views = rng.integers(0, 256, (batch, s, s, 3), dtype=np.uint8)
        tokens = rng.integers(0, 49406, (batch, 77), dtype=np.int32)
        tokens[:, -1] = config.eos_token_id
        mean, std = (
            torch.tensor(v, device=device).view(1, 3, 1, 1)
            for v in (config.image_mean, config.image_std)
        )
        # Inputs lie on the device: the towers are raced, not the bus.
        on_jax = {"image": jnp.asarray(views), "text": jnp.asarray(tokens)}
        t_views = torch.from_numpy(views).to(device)
        t_tokens = torch.from_numpy(tokens).long().to(device)

        def torch_image(run=model.get_image_features, x=t_views, m=mean, s=std):
            x = ((x.permute(0, 3, 1, 2).float() / 255 - m) / s).to(torch_dtype)
            with torch.inference_mode():
                return run(pixel_values=x).pooler_output.float().cpu().numpy()

        def torch_text(run=model.get_text_features, ids=t_tokens):
            with torch.inference_mode():
                return run(input_ids=ids).pooler_output.float().cpu().numpy()

        for which, peer in (("image", torch_image), ("text", torch_text)):
            fn = {"image": clip_vit.encode_image, "text": clip_vit.encode_text}[which]
            jitted = jax.jit(functools.partial(fn, config=config, dtype=dtype))
            params = jax.device_put(
                towers.params[{"image": "vision", "text": "text"}[which]]
            )

            def ours(run=jitted, params=params, x=on_jax[which]):
                return np.asarray(run(params, x))

            check_equal(ours(), peer(), limit)
            contestants = {"ours": ours, "eager": peer}
            if not arguments.quick:
                compiled = torch.compile(
                    {
                        "image": model.get_image_features,
                        "text": model.get_text_features,
                    }[which]
                )
                contestants["compiled"] = lambda p=peer, c=compiled: p(c)
                check_equal(ours(), contestants["compiled"](), limit)
            result = race(contestants, arguments.rounds)
            rate = batch / result["ours"]["seconds"]
            flops = rate * GFLOP[size][which == "text"] * 1e9
            row = {
                "tower": f"{size} {which}",
                "batch": batch,
                "dtype": arguments.dtype,
                "ours /s": rate,
                "spread": result["ours"]["spread"],
                "TFLOP/s": flops / 1e12,
                "of matmul peak": flops / peak,
            }
            for name in list(contestants)[1:]:
                row[f"{name} /s"] = batch / result[name]["seconds"]
                row[f"x {name}"] = result[name]["ratio"]
            yield row
        del model, towers
