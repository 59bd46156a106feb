"""F3Net: what frequencies give away (Qian et al., ECCV 2020).

Two Xceptions. One sees the picture split into low, middle, high and all frequencies of
its DCT (FAD); the other, how strong each of six bands is in windows of ten pixels, two
apart (LFS). The bands' masks are fixed plus learned. The two exchange what they see by
attention (MixBlock), and one linear layer joins their means.

The authors published no code. Masks, windows and MixBlock are those of the paper as
github.com/yyk-wew/F3Net implements it, which has the MixBlock and does not use it; here
it stands after blocks 7 and 12, a reading of the paper. Its settings: squashed to 299
(bicubic), flips, pixels in [-1, 1], Adam 2e-4, batches of 12, dropout 0.2 (the paper:
batches of 128). `--start` takes Xception's weights of ImageNet under the names of its
ports, such as `timm/legacy_xception.tf_in1k`.

LFS takes log10(|x| + 1e-15), there and here. In a flat window all but one number of the
DCT are zeros; what float32 leaves of a zero, 1e-15 or 1e-6, is noise, and its logarithm
is noise of several units. P(fake) of the same weights differs by up to 0.02 between
their program and this one for that reason, and differs between machines.

Differences: early stopping as `resnet50.py`'s and at most 100 epochs, theirs are 5, the
last of which is kept; batches are not half real and half fake; BatchNorm's running
variance is Flax's, without Bessel's correction. Their weights are not read: they are
without the MixBlock.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax import views
from item_jax.methods import _network, _pictures, _xception
from item_jax.methods._augment import dct_matrix
from item_jax.methods._classifier import Classifier

WINDOW, STRIDE, MARGIN, BANDS = 10, 2, 4, 6
"""Of the local statistics: pixels, pixels, zeros around the picture, masks."""

GRAY = (0.299, 0.587, 0.114)
HIGHEST = jax.lax.Precision.HIGHEST


class Network(nn.Module):
    """Pictures in [-1, 1], `[B, S, S, 3]` -> logits `[B]`."""

    channels: tuple[int, ...] = _xception.CHANNELS

    @nn.compact
    def __call__(self, x, train: bool = False, valid: jax.Array | None = None):
        norm = _xception.norms(train, valid)
        own: Any = {"channels": self.channels}
        fad = decomposed(x, self.masks(picture_bands(x.shape[1]), "fad_masks"))
        lfs = statistics(x, self.masks(window_bands(), "lfs_masks"))
        fad = _xception.stem(fad, norm, "fad_", **own)
        lfs = _xception.stem(lfs, norm, "lfs_", stride=1, **own)
        for numbers in (range(1, 8), range(8, 13)):
            fad = _xception.blocks(fad, norm, numbers, "fad_", **own)
            lfs = _xception.blocks(lfs, norm, numbers, "lfs_", **own)
            fad, lfs = self.mixed(fad, lfs, norm, f"mix{numbers[-1]}")
        ends = [
            _xception.ending(stream, norm, name, **own)
            for stream, name in ((fad, "fad_"), (lfs, "lfs_"))
        ]
        out = nn.Dropout(0.2, deterministic=not train)(jnp.concatenate(ends, -1))
        return _network.linear(out, 1, "output")[:, 0]

    def masks(self, bands: np.ndarray, name: str) -> jax.Array:
        """Fixed masks plus learned ones in (-1, 1), `[K, S, S]`."""
        learned = self.param(name, nn.initializers.normal(0.1), bands.shape)
        return jnp.asarray(bands, jnp.float32) + 2 * jax.nn.sigmoid(learned) - 1

    def mixed(self, fad: jax.Array, lfs: jax.Array, norm: _xception.Norm, name: str):
        """Each stream plus what the other one shows where the two agree."""

        def one(x, kind):
            width = x.shape[-1]
            return _xception.conv(x, width, f"{name}_{kind}", use_bias=True)

        # Rows attend to rows, a channel at a time; both streams side by side.
        query = jnp.concatenate([one(fad, "fad_query"), one(lfs, "lfs_query")], 2)
        keys = jnp.concatenate([one(fad, "fad_key"), one(lfs, "lfs_key")], 2)
        energy = jnp.einsum("bihc,bjhc->bijc", query, keys, precision=HIGHEST)
        attention = jax.nn.softmax(energy, axis=2)

        def added(x, other, kind):
            strength = self.param(f"{name}_{kind}_gamma", nn.initializers.zeros, (1,))
            shown = other * attention * (2 * jax.nn.sigmoid(strength[0]) - 1)
            width = x.shape[-1]
            shown = _xception.conv(
                shown, width, f"{name}_{kind}_conv", groups=width, use_bias=True
            )
            return x + norm(shown, f"{name}_{kind}_norm")

        return added(fad, lfs, "lfs"), added(lfs, fad, "fad")


def band(size: int, low: float, high: float) -> np.ndarray:
    """1 where row + column is from low to high, both included, `[size, size]`."""
    total = np.add.outer(np.arange(size), np.arange(size))
    return ((total >= low) & (total <= high)).astype(np.float64)


def picture_bands(size: int) -> np.ndarray:
    """Low, middle, high and all frequencies of a picture, `[4, size, size]`."""
    edges = [(0, size // 2.82), (size // 2.82, size // 2), (size // 2, 2 * size)]
    return np.stack([band(size, *edge) for edge in (*edges, (0, 2 * size))])


def window_bands() -> np.ndarray:
    """Six bands of a window's frequencies, `[6, 10, 10]`."""
    width = 2 * WINDOW / BANDS
    return np.stack([band(WINDOW, i * width, (i + 1) * width) for i in range(BANDS)])


def decomposed(x: jax.Array, masks: jax.Array) -> jax.Array:
    """Pictures as each mask lets their DCT through, `[B, S, S, 12]`.

    Args:
      x: `[B, S, S, 3]`.
      masks: `[4, S, S]`.
    """
    basis = dct_matrix(x.shape[1]).astype(np.float32)
    spectrum = jnp.einsum("ui,bijc,vj->buvc", basis, x, basis, precision=HIGHEST)
    each = [
        jnp.einsum(
            "ui,buvc,vj->bijc",
            basis,
            spectrum * mask[None, :, :, None],
            basis,
            precision=HIGHEST,
        )
        for mask in masks
    ]
    return jnp.concatenate(each, -1)


def statistics(x: jax.Array, masks: jax.Array) -> jax.Array:
    """Log-magnitudes of windows' DCT in each band, `[B, s, s, 6]`.

    Args:
      x: `[B, S, S, 3]` in [-1, 1].
      masks: `[6, 10, 10]`.
    """
    gray = jnp.einsum("bijc,c->bij", x, np.array(GRAY, np.float32), precision=HIGHEST)
    spectra = local_spectra((gray + 1) * 122.5)
    logs = jnp.log10(jnp.abs(spectra) + 1e-15)
    weights = masks / window_bands().sum((1, 2), keepdims=True).astype(np.float32)
    return jnp.einsum("bijuv,kuv->bijk", logs, weights, precision=HIGHEST)


def local_spectra(x: jax.Array) -> jax.Array:
    """The DCT of windows, `[B, S, S]` -> `[B, s, s, 10, 10]`."""
    basis = dct_matrix(WINDOW).astype(np.float32)
    padded = jnp.pad(x, [(0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)])
    # A window's DCT is a convolution of the picture with each basis picture.
    kernels = jnp.einsum("ui,vj->ijuv", basis, basis).reshape(WINDOW, WINDOW, 1, -1)
    found = jax.lax.conv_general_dilated(
        padded[..., None],
        kernels,
        (STRIDE, STRIDE),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=HIGHEST,
    )
    return found.reshape(*found.shape[:3], WINDOW, WINDOW)


METHOD = Classifier(
    "f3net",
    Network(),
    views.squash,
    size=299,
    crop=299,
    test=299,
    DEFAULTS={
        "train.epochs": 100,
        "train.batch_size": 12,
        "train.learning_rate": 2e-4,
    },
    scale=_pictures.symmetric,
    START="Xception of ImageNet",
    started=functools.partial(_xception.started, names=("fad_", "lfs_")),
)
small = dataclasses.replace(
    METHOD,
    name="f3net-small",
    network=Network((8, 8, 8, 16, 16, 16, 16, 16)),
    size=64,
    crop=64,
    test=64,
    DEFAULTS={**METHOD.DEFAULTS, "train.epochs": 10, "train.batch_size": 64},
    START="",
)
