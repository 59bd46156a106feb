"""CLIP-Flow, a re-creation: a normalising flow that has learnt real images alone.

There is no public code of CLIP-Flow (arXiv 2508.09477); its sizes are ours. Here eight
affine couplings (subnets D -> 2 D -> D, ReLU, clamped at 1.9 as in CFLOW-AD) map the
unit image embedding, standardised, to a normal distribution. They are trained to make
the REAL training images likely; fakes are not used. The paper also makes proxy images
(real ones with a changed spectrum) unlikely, which would need an embedding of those:
what stands here is its likelihood without its proxies, not a parity with its figures.

The score is how unlikely an image is, s = (-log p - q) / std, with q the 95th
percentile and std the standard deviation of -log p over the real training images, as
P(fake) = (1 + s / (1 + |s|)) / 2: above 0.5 for what is less likely than all but 5% of
those.
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
from item_jax.methods._probe import unit

NEEDS = ("image_emb",)
SETTINGS = ("train",)
DEFAULTS = {
    "train.epochs": 50,
    "train.batch_size": 256,
    "train.learning_rate": 1e-4,
    "train.weight_decay": 1e-4,
}
"""Not published; ours."""
COUPLINGS = 8
CLAMP = 1.9
TAIL = 95
"""Percent of the real training images that are called real at 0.5."""


class Flow(nn.Module):
    """`[B, D]` -> `z [B, D]` and the logarithm of the Jacobian's determinant `[B]`."""

    @nn.compact
    def __call__(self, batch):
        x = batch["x"]
        width, total = x.shape[-1], jnp.zeros(len(x))
        for k in range(COUPLINGS):
            # A fixed permutation between couplings lets every coordinate meet others.
            x = x[:, np.random.default_rng(k).permutation(width)]
            fixed, moved = x[:, : width // 2], x[:, width // 2 :]
            hidden = nn.relu(_network.linear(fixed, 2 * width, f"first_{k}"))
            out = _network.linear(
                hidden,
                2 * moved.shape[-1],
                f"second_{k}",
                kernel_init=nn.initializers.zeros,
            )
            shift, scale = jnp.split(out, 2, axis=-1)
            scale = CLAMP * 2 / jnp.pi * jnp.arctan(scale / CLAMP)
            x = jnp.concatenate([fixed, moved * jnp.exp(scale) + shift], axis=-1)
            total += scale.sum(-1)
        return x, total


def unlikelihood(params: Any, x: jax.Array) -> jax.Array:
    """-log p in nats, `[B, D]` -> `[B]`."""
    out: Any = Flow().apply({"params": params}, {"x": x})
    z, log_determinant = out
    normal = 0.5 * jnp.sum(z**2 + jnp.log(2 * jnp.pi), axis=-1)
    return normal - log_determinant


_unlikelihood = jax.jit(unlikelihood)


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: Any = _network.quiet,
) -> list[_network.State]:
    """Trains a flow per seed, side by side, on the real images."""
    c = config.train
    reals = [part.where(lambda row: row["label"] == "real") for part in parts]
    x = np.concatenate([unit(part.image_emb) for part in reals]).astype(np.float32)
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    data = {"x": (x - mean) / scale, "labels": np.zeros(len(x), np.int32)}

    def loss(variables, batch, weights, key):
        each = unlikelihood(variables["params"], batch["x"])
        return jnp.sum(each * weights) / jnp.sum(weights), {}

    recipe = _network.recipe(
        "clip_flow",
        Flow(),
        config,
        optax.adamw(c.learning_rate, weight_decay=c.weight_decay),
        loss=loss,
    )
    trained = _network.train(recipe, data, config, seeds, checkpoints, on_epoch)
    states = []
    for variables in trained:
        own = np.asarray(_unlikelihood(variables["params"], data["x"]), np.float64)
        tail = [np.percentile(own, TAIL), max(own.std(), 1e-6)]
        standard = {"mean": mean, "scale": scale, "tail": np.array(tail)}
        states.append(_network.state(data, variables["params"], **standard))
    return states


def score(state: _network.State, part: Embeddings) -> np.ndarray:
    """Returns P(fake), float `[n]`."""
    x = (unit(np.asarray(part.image_emb, np.float32)) - state["mean"]) / state["scale"]
    nats = np.asarray(_unlikelihood(state["params"], x), np.float64)
    s = (nats - state["tail"][0]) / state["tail"][1]
    return (1 + s / (1 + np.abs(s))) / 2


def check(state: _network.State) -> None:
    """Makes sure that a state read from a file can be scored.

    Raises:
      ValueError: naming what does not fit.
    """
    _network.check_params(Flow(), state["inputs"], state.get("params", {}))
    wanted = {"mean": state["inputs"]["x"], "scale": state["inputs"]["x"], "tail": [2]}
    for name, shape in wanted.items():
        if list(state[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(state[name].shape)}, not {shape}")


fit = _network.alone(fit_seeds)
