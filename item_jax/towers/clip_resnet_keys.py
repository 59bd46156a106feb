"""The files of CLIP ResNet checkpoints: known configuration keys, and the key table.

They come in one layout, open_clip's (OpenAI's own names). Every batch norm is folded
into the convolution before it while the files are read: at inference it is a scale and
a shift per channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from item_jax.towers.checkpoint import KeyTable, Layout
from item_jax.towers.key_tables import (
    IGNORED,
    affine,
    as_is,
    open_clip_text,
    scalar,
)

OPEN_CLIP_VISION = ("image_size", "layers", "width", "head_width")
OPEN_CLIP_VISION_HARMLESS: dict[str, Any] = {
    # What open_clip's CLIPVisionCfg has for ViTs alone, at values that say nothing.
    "patch_size": (None, 16),
    "mlp_ratio": (4.0,),
    "output_tokens": (False,),
    "patch_dropout": (0.0,),
    "timm_model_name": (None,),
}

STAGES = (1, 2, 3, 4)

# torch.nn.BatchNorm2d's own.
BATCH_NORM_EPS = 1e-5


def _scale(gamma: np.ndarray, variance: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):  # the reader names the tensor
        return gamma.astype(np.float64) / np.sqrt(
            variance.astype(np.float64) + BATCH_NORM_EPS
        )


def _folded_kernel(
    kernel: np.ndarray, gamma: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    # [out, in, row, column] -> [row, column, in, out], the last axis scaled
    return kernel.transpose(2, 3, 1, 0) * _scale(gamma, variance)


def _folded_bias(
    beta: np.ndarray, mean: np.ndarray, gamma: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    return beta - mean * _scale(gamma, variance)


def _convolution(path: str, conv: str, norm: str) -> dict[str, Any]:
    scale = (f"{norm}.weight", f"{norm}.running_var")
    return {
        f"{path}/kernel": ((f"{conv}.weight", *scale), _folded_kernel),
        f"{path}/bias": (
            (f"{norm}.bias", f"{norm}.running_mean", *scale),
            _folded_bias,
        ),
    }


def _three(ours: str, theirs: str) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for n in (1, 2, 3):
        table |= _convolution(f"{ours}_{n}", f"{theirs}conv{n}", f"{theirs}bn{n}")
    return table


def _bottlenecks(stage: int) -> dict[str, Any]:
    ours, theirs = f"vision/stage_{stage}_block_{{i}}", f"visual.layer{stage}.{{i}}"
    shortcut = _convolution(
        f"{ours}/shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1"
    )
    return shortcut | _three(f"{ours}/conv", f"{theirs}.")


OPEN_CLIP: KeyTable = {
    "logit_scale": ("logit_scale", scalar),
    "vision/pool/position_embedding": ("visual.attnpool.positional_embedding", as_is),
    **affine("vision/pool/q", "visual.attnpool.q_proj"),
    **affine("vision/pool/kv", "visual.attnpool.k_proj", "visual.attnpool.v_proj"),
    **affine("vision/pool/out", "visual.attnpool.c_proj"),
    **_three("vision/stem", "visual."),
    **{path: at for n in STAGES for path, at in _bottlenecks(n).items()},
    **open_clip_text(),
}

LAYOUTS = (
    Layout(
        "open_clip",
        "open_clip_config.json",
        ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
        OPEN_CLIP,
        rf"{IGNORED}|.*\.num_batches_tracked",
        open_clip_kinds=("CLIP ResNet",),
    ),
)
