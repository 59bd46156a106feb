"""Swin-T: a plain transformer on the same images (Liu et al., ICCV 2021).

ITEM's tables name Swin-T, TIDY's text Swin-B at 224 with the same figures; neither
states settings. Here: the short side to 256, random crops of 224 and flips, AdamW 1e-4
in batches of 64 with Swin's weight decay of 0.05 on matrices and its stochastic depth
of 0.1, and `resnet50.py`'s early stopping; scored as `resnet50.py`. 27,520,123
parameters; with 1,000 classes, as published, 28,288,354. `--start` takes ImageNet's
weights under timm's names, such as `timm/swin_tiny_patch4_window7_224.ms_in1k`.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import optax
from ml_collections import ConfigDict

from item_jax.methods import _pictures, _swin
from item_jax.methods._classifier import Classifier
from item_jax.methods._swin import Swin

DEPTHS = (2, 2, 6, 2)
NETWORK = Swin(DEPTHS, heads=(3, 6, 12, 24), width=96)


def adamw(c: ConfigDict, steps: int) -> optax.GradientTransformation:
    """AdamW that leaves biases, norms and the tables of positions as they are."""

    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: path[-1].key == "kernel", params
        )

    return optax.adamw(c.learning_rate, weight_decay=c.weight_decay, mask=decayed)


METHOD = Classifier(
    "swin_t",
    NETWORK,
    _pictures.middle,
    size=256,
    crop=224,
    test=224,
    DEFAULTS={
        "train.epochs": 100,
        "train.batch_size": 64,
        "train.learning_rate": 1e-4,
        "train.weight_decay": 0.05,
    },
    SETTINGS=(
        *("train.epochs", "train.batch_size", "train.learning_rate", "train.seeds"),
        "train.weight_decay",
    ),
    optimizer=adamw,
    START="Swin-T of ImageNet",
    started=functools.partial(_swin.started, depths=DEPTHS),
)
small = dataclasses.replace(
    METHOD,
    name="swin_t-small",
    network=Swin((2, 2), heads=(2, 4), width=32, window=4),
    size=64,
    crop=56,
    test=56,
    DEFAULTS={**METHOD.DEFAULTS, "train.epochs": 20, "train.learning_rate": 1e-3},
    START="",
)
