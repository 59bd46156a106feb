"""RINE: class tokens of all blocks, weighed (Koutlis & Papadopoulos, ECCV 2024).

The class tokens of all blocks of CLIP ViT-L/14, behind the second normalisation of
each and before its MLP (`class_tokens` of the cache, 1024 wide, not projected), go
through a first projection of four layers (linear, ReLU, dropout 0.5) to 128, are summed
over blocks with weights that each of the 128 features learns (softmax of `alpha`), go
through a second projection like the first, and through 128, 128 and 1.

Settings of the authors' code for two classes of ProGAN (`src/utils.py`, `src/models.py`
and the names of `results/grid`): cross-entropy, summed over the batch, + 0.2 times the
supervised contrastive loss (temperature 0.07) of the vectors behind the second
projection; Adam 1e-3, divided by ten from epochs 6 and 11 on, batches of 128, one
epoch. The loss that is reported is such a sum too.

Deviations: the authors train on crops, blurred and compressed at random (each in half
of the images), where the cache has one clean view; the cache holds the tokens in
float16; the authors crop the middle 224 pixels without resizing, where `views.geometry`
of the cache decides. They train on 72,000 images, so that an epoch is 563 steps:
`--config.train.epochs` gives small sets more. Other published sizes (1 and 4 classes,
latent diffusion) are read, not trained: `item-jax train --method rine --weights
model_2class_trainable.pth`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings
from item_jax.methods import _network, _start

NEEDS = ("class_tokens",)
SETTINGS = ("train.epochs", "train.batch_size", "train.learning_rate", "train.seeds")
DEFAULTS = {
    "train.epochs": 1,
    "train.batch_size": 128,
    "train.learning_rate": 1e-3,
}
DEPTH, WIDTH = 4, 128
"""`nproj` and `proj_dim` of the authors' best for two classes."""
SKIPPED = ("clip.",)
"""CLIP's tensors, which a state of the whole of the authors' model has."""
CONTRAST, TEMPERATURE = 0.2, 0.07
"""The weight of the contrastive loss, `factor`, and its temperature."""
FALLS = (6, 11)
"""Epochs, from 1, before which the learning rate is divided by ten."""
MOST = 4096
"""Of a depth or width that a file may name."""
PUBLISHED = {
    "680d301b6d191da85b9dabcebf42cd3df20c5c669fa8320c498f835d02bf5ccb": {
        "real": 36_000,
        "fake": 36_000,
        "generators": ["progan"],
        "benchmarks": ["forensynths"],
    }
}
"""What the authors' `model_2class_trainable.pth` was trained on, by its SHA-256: two of
the twenty classes of ForenSynths' training images."""


class Importance(nn.Module):
    """`[B, L, K]` -> `[B, K]`: the sum over L with weights that each feature learns."""

    @nn.compact
    def __call__(self, x):
        alpha = self.param("alpha", nn.initializers.normal(1.0), (1, *x.shape[1:]))
        return jnp.sum(nn.softmax(alpha, axis=1) * x, axis=1)


class Network(nn.Module):
    """Tokens `[B, L, W]` -> logits `[B]`; in training also the vectors `[B, width]`.

    Attributes:
      depth: layers of each projection.
      width: of its outputs.
    """

    depth: int = DEPTH
    width: int = WIDTH

    @nn.compact
    def __call__(self, batch, train: bool = False):
        def drop(x):
            return nn.Dropout(0.5, deterministic=not train)(x)

        def layer(x, name):
            return drop(nn.relu(_network.linear(x, self.width, name)))

        x = drop(batch["class_tokens"].astype(jnp.float32))
        for i in range(self.depth):
            x = layer(x, f"first{i}")
        x = drop(Importance(name="importance")(x))
        for i in range(self.depth):
            x = layer(x, f"second{i}")
        vectors = x
        for i in range(2):
            x = layer(x, f"head{i}")
        logits = _network.linear(x, 1, "output")[:, 0]
        return (logits, vectors) if train else logits


def contrast(x: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """The supervised contrastive loss (Khosla et al., 2020) of one view.

    Args:
      x: vectors `[B, K]`, normalised here.
      labels: int `[B]`.
      weights: `[B]`, 0 for rows that do not count.

    Returns:
      The mean over rows that count of minus the mean log-probability of the others of
      its label among all others; 0 for a row without others of its label.
    """
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    likeness = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST) / TEMPERATURE
    others = (weights > 0)[None, :] & ~jnp.eye(len(x), dtype=bool)
    least = jnp.finfo(jnp.float32).min
    total = jax.nn.logsumexp(jnp.where(others, likeness, least), axis=1, keepdims=True)
    alike = others & (labels[:, None] == labels[None, :])
    each = jnp.sum(jnp.where(alike, likeness - total, 0), axis=1)
    each = -each / jnp.maximum(jnp.sum(alike, axis=1), 1)
    return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1)


def inputs(part: Embeddings) -> dict[str, np.ndarray]:
    """Returns the class tokens as the cache holds them, float16."""
    return {"class_tokens": part.outputs["class_tokens"]}


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: Any = _network.quiet,
) -> list[_network.State]:
    """Trains a network per seed, side by side."""
    c, module = config.train, Network()

    def loss(variables, batch, weights, key):
        params = {"params": variables["params"]}
        out: Any = module.apply(params, batch, train=True, rngs={"dropout": key})
        logits, vectors = out
        error = _network.bce(logits, batch["labels"], weights) * jnp.sum(weights)
        return error + CONTRAST * contrast(vectors, batch["labels"], weights), {}

    data = _network.joined(parts, inputs)
    steps = -(-len(data["labels"]) // c.batch_size)

    def rate(step):
        epoch = step // steps + 1
        return c.learning_rate / 10.0 ** sum(epoch >= first for first in FALLS)

    recipe = _network.recipe("rine", module, config, optax.adam(rate), loss=loss)
    trained = _network.train(recipe, data, config, seeds, checkpoints, on_epoch)
    sizes = {"network": {"depth": DEPTH, "width": WIDTH}}
    return [_network.state(data, own["params"], **sizes) for own in trained]


def from_weights(tensors: Mapping[str, np.ndarray]) -> _network.State:
    """Returns the state that weights of the authors' network, of any size, are.

    Args:
      tensors: `alpha [1, L, K]`, and `weight` and `bias` of the linear layers of
        `proj1`, `proj2` and `head`, as in `model_2class_trainable.pth`.

    Raises:
      ValueError: if they are others, naming what is missing, too many or misshapen.
    """
    if "alpha" not in tensors:
        raise ValueError("alpha [1, L, K] is missing")
    alpha = np.asarray(tensors["alpha"], np.float32)
    if alpha.ndim != 3 or len(alpha) != 1 or not alpha.size:
        raise ValueError(f"alpha has shape {list(alpha.shape)}, expected [1, L, K]")
    _, blocks, width = alpha.shape
    inside = _start.width(tensors, "proj1.1.weight")
    depth = sum(f"proj1.{1 + 3 * i}.weight" in tensors for i in range(len(tensors)))
    sizes = _sizes(depth, width)
    layers = {"head0": "head.0", "head1": "head.3", "output": "head.6"}
    for i in range(depth):
        layers |= {f"first{i}": f"proj1.{1 + 3 * i}"}
        layers |= {f"second{i}": f"proj2.{1 + 3 * i}"}
    rows = {"class_tokens": [blocks, inside]}
    found = _start.state(
        Network(depth, width), rows, layers, tensors, ignored=("alpha",)
    )
    found["params"]["importance"] = {"alpha": alpha}
    return found | {"network": sizes}


def _sizes(depth: Any, width: Any) -> dict[str, int]:
    """Returns the sizes of a network.

    Raises:
      ValueError: if they are none.
    """
    for name, value in (("depth", depth), ("width", width)):
        if type(value) is not int or not 1 <= value <= MOST:
            raise ValueError(f"network.{name} is {value!r}, not in 1 to {MOST}")
    return {"depth": depth, "width": width}


@functools.lru_cache
def _scorer(depth: int, width: int):
    return _network.scorer(Network(depth, width), inputs)


def score(state: _network.State, part: Embeddings) -> np.ndarray:
    """Returns P(fake), float32 `[n]`."""
    return _scorer(**state["network"])[0](state, part)


def check(state: _network.State) -> None:
    """Makes sure that a state read from a file can be scored.

    Raises:
      ValueError: naming what does not fit.
    """
    _scorer(**_sizes(**state["network"]))[1](state)


fit = _network.alone(fit_seeds)
