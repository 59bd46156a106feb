"""UniFD: one linear layer on the image embedding as it is (Ojha et al., CVPR 2023).

logit = w I + b on the embedding without normalisation. Settings of the authors'
`networks/trainer.py` and options: start N(0, 0.02), AdamW 1e-4 without weight decay,
batches of 256, at most 100 epochs, early stopping by the accuracy on held-out images.

Deviations: the authors hold out ProGAN's test images, of which they blur (sigma 1.5)
and compress (JPEG 65) half each; here it is the validation images of the training's
generators or, without any, a tenth of the training images, clean. They
train on images resized to 256, cropped, flipped, blurred and compressed at random,
where the cache has one clean view. Here the best epoch is kept; their
`model_epoch_best.pth` is written anew in each epoch, so that it is the last. They test
on the middle 224 pixels without resizing, where `views.geometry` of the cache decides.
`item-jax train --method unifd --weights fc_weights.pth` takes the authors' own weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import optax
from ml_collections import ConfigDict

from item_jax.early_stopping import EarlyStopping
from item_jax.embeddings import Embeddings
from item_jax.methods import _network, _start

NEEDS = ("image_emb",)
SETTINGS = ("train",)
VALIDATES = True
DEFAULTS = {
    "train.epochs": 100,
    "train.batch_size": 256,
    "train.learning_rate": 1e-4,
    "train.weight_decay": 0.0,
}
PUBLISHED = {
    "477100745713bcc957beb2b40859536859b6483fd6301b3b9293151b194c7847": {
        "real": 360_000,
        "fake": 360_000,
        "generators": ["progan"],
        "benchmarks": ["forensynths"],
    }
}
"""What the authors' `fc_weights.pth` was trained on (UniFD, Sec. 4), by its SHA-256."""
SKIPPED = ("model.",)
"""CLIP's tensors, which the authors' training code saves beside the layer."""


class Network(nn.Module):
    """`[B, D]` -> logits `[B]`."""

    @nn.compact
    def __call__(self, batch, train: bool = False):
        start = nn.initializers.normal(0.02)
        x = batch["image_emb"]
        return _network.linear(x, 1, "output", kernel_init=start)[:, 0]


def inputs(part: Embeddings) -> dict[str, np.ndarray]:
    """Returns I as it is."""
    return {"image_emb": np.asarray(part.image_emb, np.float32)}


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: Any = _network.quiet,
    validation: Sequence[Embeddings] = (),
) -> list[_network.State]:
    """Trains a layer per seed, side by side."""
    c = config.train
    module = Network()

    def accuracy(variables, rows):
        logits: Any = module.apply({"params": variables["params"]}, rows)
        return _network.accuracy(logits, rows["labels"])

    recipe = _network.recipe(
        "unifd",
        module,
        config,
        optax.adamw(c.learning_rate, weight_decay=c.weight_decay),
        stopping=EarlyStopping(accuracy, learning_rate=c.learning_rate),
    )
    data, held_out = _network.held_out(
        _network.joined(parts, inputs),
        _network.joined(validation, inputs) if validation else None,
    )
    trained = _network.train(
        recipe, data, config, seeds, checkpoints, on_epoch, held_out=held_out
    )
    return [_network.state(data, variables["params"]) for variables in trained]


def from_weights(tensors: Mapping[str, np.ndarray]) -> _network.State:
    """Returns the state that weights of the authors' form are.

    Args:
      tensors: `fc.weight [1, D]` and `fc.bias [1]`, as the authors' training code saves
        them, or `weight` and `bias`, as in `fc_weights.pth`.

    Raises:
      ValueError: if they are others, naming what is missing, too many or misshapen.
    """
    if "fc.weight" not in tensors:
        bare = {"weight": "fc.weight", "bias": "fc.bias"}
        tensors = {bare.get(name, name): value for name, value in tensors.items()}
    inputs = {"image_emb": [_start.width(tensors, "fc.weight")]}
    return _start.state(Network(), inputs, {"output": "fc"}, tensors)


fit = _network.alone(fit_seeds)
score, check = _network.scorer(Network(), inputs)
