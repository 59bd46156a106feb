"""InfoFD: an information bottleneck guided by captions (Qin et al., arXiv 2505.15217).

mu and s, 32 each, from I; z = mu + exp(s / 10) u with u uniform in [0, 1); logit =
linear(mu). Two memories hold the running mean caption of real and of fake images,
through a fixed random projection; the loss is 0.15 cross-entropy + 1.0 mean squared
difference of the class means of z and the memories. Settings of the authors'
`models/IBEncoder.py` and `configs/EP1.yml`, with what is peculiar in them: SGD 0.25
falling with power 0.8, batches of 512 of which a short last one is dropped, 24 epochs;
I and T are batch-normalised in training and taken as they are in a test; in a fifth of
the batches the fakes are shifted at random. The last epoch is kept, where the authors
keep the best on a validation set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings
from item_jax.methods import _network

NEEDS = ("image_emb", "text_emb")
SETTINGS = ("train.epochs", "train.batch_size", "train.learning_rate", "train.seeds")
DEFAULTS = {
    "train.epochs": 24,
    "train.batch_size": 512,
    "train.learning_rate": 0.25,
}
BOTTLENECK = 32
MEMORY = 512
"""How many captions a memory weighs against those of a batch: `lp`."""
CLASSIFYING, GUIDING = 0.15, 1.0
"""Weights of the two terms of the loss: `lambda_0`, `lambda_1`."""
SHIFTED, SHIFT, SPREAD = 0.2, 0.4, 0.5
"""Share of the batches whose fakes are shifted, `shift_intensity`, `aug_intensity`."""
POWER = 0.8
EPSILON = 1e-5
"""Added to a variance: that of PyTorch's BatchNorm."""


class Network(nn.Module):
    """`[B, D]` -> logits `[B]`; in training also z `[B, 32]`.

    In training the images are batch-normalised by the scale and shift that `normalised`
    learns, and `key` draws z.
    """

    @nn.compact
    def __call__(self, batch, train: bool = False, key: Any = None):
        x = batch["image_emb"]
        shape = (1, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, shape)
        shift = self.param("shift", nn.initializers.zeros, shape)
        if train:
            x = normalised(x) * scale + shift
        start = nn.initializers.xavier_uniform()
        mu = _network.linear(x, BOTTLENECK, "mu", kernel_init=start)
        s = _network.linear(x, BOTTLENECK, "sigma", kernel_init=start)
        logits = _network.linear(mu, 1, "output", kernel_init=start)[:, 0]
        if not train:
            return logits
        z = mu + jnp.exp(jnp.minimum(s, 100) / 10) * jax.random.uniform(key, mu.shape)
        return logits, z


def normalised(x: jax.Array) -> jax.Array:
    """Each column with mean 0 and variance 1 over the batch, `[B, D]`."""
    variance = x.var(0, keepdims=True)
    return (x - x.mean(0, keepdims=True)) / jnp.sqrt(variance + EPSILON)


def class_means(x: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums of rows of label 0 and 1 and their numbers, `[2, D]` and `[2, 1]`."""
    member = jax.nn.one_hot(labels, 2, axis=0)
    sums = jnp.matmul(member, x, precision=jax.lax.Precision.HIGHEST)
    return sums, member.sum(1, keepdims=True)


def remembered(memory: jax.Array, captions: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the memories `[2, K]` with the projected captions `[B, K]` of a batch."""
    sums, counts = class_means(captions, labels)
    first = sums / jnp.maximum(counts, 1)
    later = (memory * MEMORY + sums) / (MEMORY + counts)
    return jnp.where((memory == 0).all(), first, later)


def loss(variables, batch, weights, key):
    """The training loss, and the memories after the batch."""
    params, labels = variables["params"], batch["labels"]
    whether, much, noise, draw = jax.random.split(key, 4)
    x = batch["image_emb"]
    # Columns are divided by their norm over the batch before the shift is added.
    columns = x / jnp.maximum(jnp.linalg.norm(x, axis=0, keepdims=True), 1e-12)
    spread = SPREAD * jax.random.uniform(much, x.shape)
    two = jax.random.normal(noise, (2, *x.shape))
    shifted = columns + jnp.where((labels == 1)[:, None], two[0] * SHIFT, 0)
    shifted += jnp.where((labels == 1)[:, None], two[1] * spread, 0)
    x = jnp.where(jax.random.uniform(whether) < SHIFTED, shifted, x)
    out: Any = Network().apply({"params": params}, {"image_emb": x}, True, draw)
    logits, z = out
    # Images and captions share one BatchNorm; the memories take no gradient.
    captions = normalised(batch["text_emb"]) * params["scale"] + params["shift"]
    projected = jnp.matmul(
        jax.lax.stop_gradient(captions),
        variables["projection"],
        precision=jax.lax.Precision.HIGHEST,
    )
    memory = remembered(variables["memory"], projected, labels)
    sums, counts = class_means(z, labels)
    # A batch of one class guides by that class; in PyTorch the mean would be NaN.
    apart = jnp.where(counts > 0, sums / jnp.maximum(counts, 1) - memory, 0)
    total = CLASSIFYING * _network.bce(logits, labels, weights)
    return total + GUIDING * jnp.mean(apart**2), {"memory": memory}


def inputs(part: Embeddings) -> dict[str, np.ndarray]:
    """Returns I as it is; captions are seen in training alone."""
    return {"image_emb": np.asarray(part.image_emb, np.float32)}


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: Any = _network.quiet,
) -> list[_network.State]:
    """Trains a network per seed, side by side.

    Raises:
      ValueError: if there are fewer training images than one batch.
    """
    c = config.train

    def both(part):
        return inputs(part) | {"text_emb": np.asarray(part.text_emb, np.float32)}

    def init(key, data):
        params, projection = jax.random.split(key)
        width = data["image_emb"].shape[-1]
        start = nn.initializers.xavier_uniform()(projection, (width, BOTTLENECK))
        rows = {"image_emb": data["image_emb"][:1]}
        memory = jnp.zeros((2, BOTTLENECK))
        own = {"projection": start, "memory": memory}
        return {**Network().init(params, rows), **own}

    data = _network.joined(parts, both)
    steps = len(data["labels"]) // c.batch_size

    def rate(step):  # changed between epochs, as PyTorch's PolynomialLR
        epoch = jnp.floor(step / max(steps, 1))
        return c.learning_rate * jnp.maximum(0, 1 - epoch / c.epochs) ** POWER

    recipe = _network.recipe(
        "infofd",
        Network(),
        config,
        optax.sgd(rate),
        loss=loss,
        init=init,
        drop_last=True,
    )
    trained = _network.train(recipe, data, config, seeds, checkpoints, on_epoch)
    del data["text_emb"]
    return [_network.state(data, variables["params"]) for variables in trained]


fit = _network.alone(fit_seeds)
score, check = _network.scorer(Network(), inputs)
