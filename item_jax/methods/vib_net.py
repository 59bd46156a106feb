"""VIB-Net: a variational information bottleneck on the image embedding (CVPR 2025).

Dropout 0.5 on I as it is -> 1024 (ReLU) -> 1024 (ReLU) -> mu, s of 256 each; z = mu +
softplus(s - 5) noise; logit = linear(z). The network is that of the authors'
repository (`models/clip_models.py`).

Deviations: their training code is not published. Of its settings their
`options/base_options.py` has batches of 256, no weight decay, crops of 224 and flips,
blur (sigma 0 to 3) and JPEG (30 to 100) of a tenth of the images each; the cache has
one clean view. The rest is ours: the standard loss (Alemi et al., 2017), binary
cross-entropy + beta KL(N(mu, std^2) || N(0, 1)), with AdamW 1e-4 over 50 epochs; beta
is chosen among `BETAS` by the cross-entropy on validation images or, without any, on a
tenth of the training images, and the state says which. The authors draw noise at test
time too; here z = mu, so that a score is one number. They test on the middle 224 pixels
without resizing, where `views.geometry` of the cache decides. `--weights` takes what
their training code saves, `{"model": ..., "optimizer": ...}`.
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
from item_jax.methods.unifd import inputs

NEEDS = ("image_emb",)
SETTINGS = ("train",)
VALIDATES = True
DEFAULTS = {
    "train.epochs": 50,
    "train.batch_size": 256,
    "train.learning_rate": 1e-4,
    "train.weight_decay": 0.0,
}
BETAS = (1e-4, 1e-3, 1e-2)
"""Weights of the bottleneck that are tried. Not published; Alemi et al. use 1e-3."""

BOTTLENECK = 256
LAYERS = {"first": "fc_1", "second": "fc_2", "third": "fc_3", "output": "decode"}
"""Our layers and the authors'."""
SKIPPED = ("model.",)
"""CLIP's tensors, which the authors' training code saves beside the head."""


class Network(nn.Module):
    """`[B, D]` -> logits `[B]`; in training also mu and the deviation `[B, 256]`."""

    @nn.compact
    def __call__(self, batch, train: bool = False):
        x = nn.Dropout(0.5, deterministic=not train)(batch["image_emb"])
        x = nn.relu(_network.linear(x, 1024, "first"))
        x = nn.relu(_network.linear(x, 1024, "second"))
        x = _network.linear(x, 2 * BOTTLENECK, "third")
        mu, spread = x[:, :BOTTLENECK], nn.softplus(x[:, BOTTLENECK:] - 5)
        if not train:
            return _network.linear(mu, 1, "output")[:, 0]
        noise = jax.random.normal(self.make_rng("noise"), mu.shape)
        return _network.linear(mu + spread * noise, 1, "output")[:, 0], mu, spread


def bottleneck(mu: jax.Array, spread: jax.Array) -> jax.Array:
    """KL(N(mu, spread^2) || N(0, 1)) of each row, `[B, K]` twice -> `[B]`."""
    return 0.5 * jnp.sum(mu**2 + spread**2 - 2 * jnp.log(spread) - 1, axis=-1)


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: Any = _network.quiet,
    validation: Sequence[Embeddings] = (),
) -> list[_network.State]:
    """Trains a network per seed and beta, side by side; keeps the best of each seed."""
    c, module = config.train, Network()

    def loss(variables, batch, weights, key):
        keys = dict(zip(("dropout", "noise"), jax.random.split(key)))
        params = {"params": variables["params"]}
        out: Any = module.apply(params, batch, train=True, rngs=keys)
        logits, mu, spread = out
        rate = jnp.sum(bottleneck(mu, spread) * weights) / jnp.sum(weights)
        error = _network.bce(logits, batch["labels"], weights)
        return error + variables["constants"]["beta"] * rate, {}

    recipe = _network.recipe(
        "vib_net",
        module,
        config,
        optax.adamw(c.learning_rate, weight_decay=c.weight_decay),
        loss=loss,
    )
    data, held_out = _network.held_out(
        _network.joined(parts, inputs),
        _network.joined(validation, inputs) if validation else None,
    )
    trained = _network.train(
        recipe,
        data,
        config,
        [seed for seed in seeds for _ in BETAS],
        checkpoints,
        lambda epoch, losses: on_epoch(epoch, losses.reshape(-1, len(BETAS)).mean(1)),
        held_out=held_out,
        constants={"beta": BETAS * len(seeds)},
    )
    states = []
    for k in range(len(seeds)):
        own = trained[k * len(BETAS) : (k + 1) * len(BETAS)]
        errors = [_error(module, variables["params"], held_out) for variables in own]
        best = int(np.argmin(errors))
        # Arrays, as all that is fitted: the rest of a state is the same for each seed.
        swept = {
            "betas": list(BETAS),
            "held_out_errors": np.array(errors),
            "beta": np.array([BETAS[best]]),
        }
        states.append(_network.state(data, own[best]["params"], **swept))
    return states


def _error(module: nn.Module, params: Any, rows: dict[str, Any]) -> float:
    logits: Any = module.apply({"params": params}, rows)
    weights = jnp.ones(len(rows["labels"]))
    return float(_network.bce(logits, jnp.asarray(rows["labels"]), weights))


def from_weights(tensors: Mapping[str, np.ndarray]) -> _network.State:
    """Returns the state that weights of the authors' network are.

    Args:
      tensors: of `fc_1`, `fc_2`, `fc_3` and `decode`, `weight` and `bias` each.

    Raises:
      ValueError: if they are others, naming what is missing, too many or misshapen.
    """
    inputs = {"image_emb": [_start.width(tensors, "fc_1.weight")]}
    return _start.state(Network(), inputs, LAYERS, tensors)


fit = _network.alone(fit_seeds)
score, check = _network.scorer(Network(), inputs)
