"""ResNet-50 from scratch: what a plain network learns from the same images.

The papers name it and state no settings. Here they are CNNDetection's without its blur
and JPEG: the short side to 256, random crops of 224 and flips, the last layer from N(0,
0.02), Adam 1e-4 in batches of 64, early stopping by the accuracy on a tenth of the
training images; scored on the middle 224. It starts from random weights, so its rows
are no reproduction of those that start from ImageNet's. 23,510,081 parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import optax
from ml_collections import ConfigDict

from item_jax.early_stopping import EarlyStopping
from item_jax.embeddings import Embeddings
from item_jax.methods import _network, _pictures
from item_jax.methods._resnet import ResNet

NEEDS = ("pixels",)
SETTINGS = ("train.epochs", "train.batch_size", "train.learning_rate", "train.seeds")
DEFAULTS = {
    "train.epochs": 100,
    "train.batch_size": 64,
    "train.learning_rate": 1e-4,
}
SIZE, CROP = 256, 224
NETWORK = ResNet((3, 4, 6, 3), output_init=nn.initializers.normal(0.02))


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: Any = _network.quiet,
) -> list[_network.State]:
    """Trains a network per seed, side by side."""
    c = config.train

    def accuracy(variables, rows):
        own = {name: variables[name] for name in ("params", "batch_stats")}
        return _pictures.accuracy(NETWORK, own, rows, CROP)

    recipe = _network.recipe(
        "resnet50",
        NETWORK,
        config,
        optax.adam(c.learning_rate),
        loss=_pictures.loss_of(NETWORK, CROP),
        init=_pictures.init_of(NETWORK, CROP),
        stopping=EarlyStopping(accuracy, learning_rate=c.learning_rate),
    )
    data, held_out = _network.held_out(_pictures.joined(parts, _pictures.middle, SIZE))
    return _network.train(
        recipe, data, config, seeds, checkpoints, on_epoch, held_out=held_out
    )


fit = _network.alone(fit_seeds)
score, check = _pictures.scorer(NETWORK, _pictures.middle, SIZE, CROP)
