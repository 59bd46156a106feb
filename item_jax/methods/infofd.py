"""InfoFD: an information bottleneck guided by captions (Qin et al., arXiv 2505.15217).

x is the class token after block 12 of CLIP ViT-L/14's 24, without the last
normalisation, times the projection: `block_tokens` of the cache. mu and s, 32 each, are
linear in x; z = mu + exp(s / 10) u with u uniform in [0, 1); logit = linear(mu). Two
memories hold the running mean caption of real and of fake images, through a fixed
random projection; the loss is 0.15 cross-entropy + 1.0 mean squared difference of the
class means of z and the memories.

Settings of the authors' code (`utils/preprocess.py`, `models/IBEncoder.py`,
`configs/EP1.yml`), with what is peculiar in it: SGD 0.25 falling with power 0.8,
batches of 512 of which a short last one is dropped, 24 epochs; x and T are
batch-normalised in training and taken as they are in a test; in every batch x is
divided by its columns' norms and the fakes are shifted at random; the memories weigh
4096 captions, the encoder's default, since `lp: 512` of the configuration is never
passed to it.

Deviations: the last epoch is kept, where the authors keep the best on a validation set.
On a tower of another depth x is the token after the middle block, which the authors do
not define; the state says which, as `block` of `blocks`. The cache holds x in float16.
The authors crop the middle 224 pixels without resizing; here `views.geometry` of the
cache decides. `item-jax train --method infofd --weights best-EP1.pth` takes their own
weights.
"""

from __future__ import annotations

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

NEEDS = ("block_tokens", "text_emb")
SETTINGS = ("train.epochs", "train.batch_size", "train.learning_rate", "train.seeds")
DEFAULTS = {
    "train.epochs": 24,
    "train.batch_size": 512,
    "train.learning_rate": 0.25,
}
BOTTLENECK = 32
MEMORY = 4096
"""How many captions a memory weighs against those of a batch: `lp` of `IBEncoder`."""
CLASSIFYING, GUIDING = 0.15, 1.0
"""Weights of the two terms of the loss: `lambda_0`, `lambda_1`."""
SHIFT, SPREAD = 0.4, 0.5
"""How far fakes are shifted: `shift_intensity`, `aug_intensity`."""
POWER = 0.8
EPSILON = 1e-5
"""Added to a variance: that of PyTorch's BatchNorm."""
LAYERS = {
    "mu": "mu_encoder",
    "sigma": "sigma_encoder",
    "output": "decoder",
    "norm": "batchnorm",
}
"""Our layers and the authors'."""
BLOCK, BLOCKS = 12, 24
"""The block whose token the authors take, and how many blocks their tower has."""
PUBLISHED = {
    digest: {"benchmarks": ["genimage"]}
    for digest in (
        "3d3a48920244f562efc18b1273e160139c97be975c8213a66e494713f5d9a83e",
        "6b1969240f4f62038fe95b3012aa1cddcd95d817db6e4bb14e516c91d7bc7573",
    )
}
"""What the authors' `best-EP1.pth` and `final-EP1.pth` were trained on, by SHA-256: on
GenImage's training images, how many they do not say."""


class Norm(nn.Module):
    """The scale and shift, `[D]` each, that BatchNorm learns."""

    @nn.compact
    def __call__(self, x):
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape)
        shift = self.param("bias", nn.initializers.zeros, shape)
        return x * scale[None] + shift[None]


class Network(nn.Module):
    """`[B, D]` -> logits `[B]`; in training also z `[B, 32]`.

    In training the images are batch-normalised, and `key` draws z.
    """

    @nn.compact
    def __call__(self, batch, train: bool = False, key: Any = None):
        x = batch["class_token"]
        own = Norm(name="norm")(normalised(x) if train else x)
        x = own if train else x
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
    much, noise, draw = jax.random.split(key, 3)
    x = batch["class_token"]
    # Columns are divided by their norm over the batch before the shift is added.
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=0, keepdims=True), 1e-12)
    spread = SPREAD * jax.random.uniform(much, x.shape)
    two = jax.random.normal(noise, (2, *x.shape))
    shift = two[0] * SHIFT + two[1] * spread
    x = x + jnp.where((labels == 1)[:, None], shift, 0)
    out: Any = Network().apply({"params": params}, {"class_token": x}, True, draw)
    logits, z = out
    # Images and captions share one BatchNorm; the memories take no gradient.
    norm = params["norm"]
    captions = normalised(batch["text_emb"]) * norm["scale"][None] + norm["bias"][None]
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
    """Returns the class token after the middle block; a test sees no captions."""
    tokens = part.outputs["block_tokens"]
    return {"class_token": np.asarray(tokens[:, middle(part) - 1], np.float32)}


def middle(part: Embeddings) -> int:
    """Returns the number, from 1, of the block whose token is taken: 12 of 24."""
    return max(1, part.outputs["block_tokens"].shape[1] // 2)


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
        width = data["class_token"].shape[-1]
        start = nn.initializers.xavier_uniform()(projection, (width, BOTTLENECK))
        rows = {"class_token": data["class_token"][:1]}
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
    blocks = parts[0].outputs["block_tokens"].shape[1]
    place = {"block": middle(parts[0]), "blocks": blocks}
    return [_network.state(data, own["params"], **place) for own in trained]


def from_weights(tensors: Mapping[str, np.ndarray]) -> _network.State:
    """Returns the state that weights of the authors' network are.

    Args:
      tensors: of `mu_encoder`, `sigma_encoder`, `decoder` and `batchnorm`, as in
        `best-EP1.pth`; `proj`, of the captions in training, is not needed.

    Raises:
      ValueError: if they are others, naming what is missing, too many or misshapen.
    """
    inputs = {"class_token": [_start.width(tensors, "mu_encoder.weight")]}
    training = ("proj.", "batchnorm.running_")
    found = _start.state(Network(), inputs, LAYERS, tensors, ignored=training)
    return found | {"block": BLOCK, "blocks": BLOCKS}


fit = _network.alone(fit_seeds)
_score, _check = _network.scorer(Network(), inputs)


def score(state: _network.State, part: Embeddings) -> np.ndarray:
    """Returns P(fake), float32 `[n]`.

    Raises:
      ValueError: for tokens of a tower with another number of blocks.
    """
    found = part.outputs["block_tokens"].shape[1]
    if found != state["blocks"]:
        raise ValueError(
            f"it takes the token after block {state['block']} of {state['blocks']}; "
            f"the tower of these embeddings has {found} blocks"
        )
    return _score(state, part)


def check(state: _network.State) -> None:
    """Makes sure that a state read from a file can be scored.

    Raises:
      ValueError: naming what does not fit.
    """
    block, blocks = state["block"], state["blocks"]
    if not (type(block) is int and type(blocks) is int and 1 <= block <= blocks):
        raise ValueError(f"block {block!r} of {blocks!r} is not one of a tower")
    _check(state)
