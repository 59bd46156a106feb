"""Patchforensics: real or fake, patch by patch (Chai et al., ECCV 2020).

The beginning of an Xception, up to its second block, gives two logits for each patch
of its receptive field: `xception_block2` of the authors' repository, its example and
their choice for generative models; 191,330 parameters. Settings of that example:
the short side to 299 by Lanczos, the middle square, flips, pixels in [-1, 1], weights
from Xavier's normal with a gain of 0.02, Adam 1e-3 in batches of 32, cross-entropy over
all patches; training ends after 100 epochs without a better accuracy of patches, on a
tenth of the training images. P(fake) is the mean over patches. ITEM and TIDY do not
say which of the networks they used. Two differences: real and fake images are not
paired within a batch, and an accuracy of 1 does not end the training.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict
from PIL import Image

from item_jax.methods import _pictures, _xception
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
        "patience": 100,  # five times the example's 20, as the authors' loop counts
        "improvement": 1e-6,
    }


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
)
small = dataclasses.replace(
    METHOD,
    name="patchforensics-small",
    network=Network((8, 16, 16, 32)),
    size=64,
    crop=64,
    test=64,
    DEFAULTS={**METHOD.DEFAULTS, "train.epochs": 10},
)
