"""Patchforensics: real or fake, patch by patch (Chai et al., ECCV 2020).

The beginning of an Xception, up to its second block, gives two logits for each patch
of its receptive field: `xception_block2` of the authors' repository (patch-forensics),
its example and their choice for generative models; 191,330 parameters. ITEM and TIDY do
not say which of the networks they used. Settings of that example: the short side to 299
by Lanczos, the middle square, flips, pixels in [-1, 1], weights from Xavier's normal
with a gain of 0.02, Adam 1e-3 in batches of 32, cross-entropy over all patches;
training ends after 100 epochs without a better accuracy of patches, at 1,000 at the
latest.

The authors print three figures, which differ in how P(fake) of a picture is made of its
patches:

    patchforensics                          the mean of P(fake): "after softmax"
    item_jax.methods.patchforensics:logits  P(fake) of the mean logits: "before softmax"
    item_jax.methods.patchforensics:voted   the share of patches that say fake: "vote"

`--weights` takes what their code saves, of `xception_block2`. Differences: real and
fake images are not paired within a batch, an accuracy of 1 does not end the training;
without validation images a tenth of the training images decides when it ends; and
BatchNorm's running variance is Flax's, without Bessel's correction.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from item_jax.methods import _network, _pictures, _start, _xception
from item_jax.methods._classifier import Classifier

GAIN = 0.02


class Network(nn.Module):
    """Pictures `[B, H, W, 3]` -> logits of patches `[B, h, w]`."""

    channels: tuple[int, ...] = _xception.CHANNELS

    @nn.compact
    def __call__(self, x, train: bool = False, valid: jax.Array | None = None):
        init = nn.initializers.variance_scaling(GAIN**2, "fan_avg", "normal")

        def around_one(key, shape, dtype=float):
            return 1 + GAIN * jax.random.normal(key, shape, dtype)

        norm = _xception.norms(train, valid, around_one)
        options: dict[str, Any] = {"channels": self.channels, "init": init}
        x = _xception.stem(x, norm, **options)
        x = _xception.blocks(x, norm, range(1, 3), **options)
        two = _xception.conv(x, 2, "output", init=init, use_bias=True)
        # Softmax over real and fake is the sigmoid of their difference.
        return two[..., 1] - two[..., 0]


def stops(c: ConfigDict) -> dict[str, Any]:
    """No lower learning rate: the first time that it would fall is the end."""
    return {
        "learning_rate": c.learning_rate,
        "smallest": c.learning_rate,
        "patience": 101,  # more than five times the example's 20, as theirs counts
        "improvement": 1e-6,
    }


def vote(logits: jax.Array) -> jax.Array:
    """The share of patches that say fake, `[B]`, of logits `[B, h, w]`."""
    return (logits > 0).mean((1, 2))


def before_softmax(logits: jax.Array) -> jax.Array:
    """P(fake) of the mean logits, `[B]`, of logits `[B, h, w]`."""
    return jax.nn.sigmoid(logits.mean((1, 2)))


def from_weights(tensors: Mapping[str, np.ndarray]) -> _network.State:
    """Returns the state that the weights of the authors' `xception_block2` are.

    Their class 0 is fake (`fake_class_id`), which is 1 here.

    Args:
      tensors: under the names of the ports of Xception; the last layer is `convout`.

    Raises:
      ValueError: for tensors that are missing, of another shape, or of no layer.
    """
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    empty = _start.variables(Network(), x)
    ours = {**empty["params"], **empty["batch_stats"]}
    layers = {k: v for k, v in _xception.layers().items() if k in ours}
    layers["output"] = "convout"
    found = _start.filled(empty, layers, tensors, ignored=())
    output = found["params"]["output"]
    found["params"]["output"] = {
        name: value[..., ::-1] for name, value in output.items()
    }
    return jax.tree.map(np.asarray, found)


METHOD = Classifier(
    "patchforensics",
    Network(),
    functools.partial(_pictures.middle, filter=Image.Resampling.LANCZOS),
    size=299,
    crop=299,
    test=299,
    DEFAULTS={
        "train.epochs": 1000,
        "train.batch_size": 32,
        "train.learning_rate": 1e-3,
    },
    scale=_pictures.symmetric,
    stopping=stops,
    from_weights=from_weights,
)
voted = dataclasses.replace(METHOD, name="patchforensics-voted", pool=vote)
logits = dataclasses.replace(METHOD, name="patchforensics-logits", pool=before_softmax)
small = dataclasses.replace(
    METHOD,
    name="patchforensics-small",
    network=Network((8, 16, 16, 32)),
    size=64,
    crop=64,
    test=64,
    DEFAULTS={**METHOD.DEFAULTS, "train.epochs": 10},
    from_weights=None,
)
