"""From uint8 views to normalised pixels and patches, for the families' image towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def normalised(
    views: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any
) -> jax.Array:
    """Normalises pixels as the checkpoint was trained.

    Args:
      views: uint8 `[B, S, S, 3]`.
      mean, std: pixel statistics on [0, 1], one per channel.
      dtype: of the result; the arithmetic is float32.

    Returns:
      `[B, S, S, 3]`.
    """
    offset = jnp.asarray(mean, jnp.float32).reshape(1, 1, 1, 3)
    scale = jnp.asarray(std, jnp.float32).reshape(1, 1, 1, 3)
    return ((views.astype(jnp.float32) / 255.0 - offset) / scale).astype(dtype)


def patch_rows(pixels: jax.Array, patch: int) -> jax.Array:
    """Cuts pixels into patches, row by row.

    A convolution whose stride is its size is a matrix product over patches. What is
    left over at the right and below, where the patches do not fill the view, is left
    out as a convolution leaves it out.

    Args:
      pixels: `[B, S, S, 3]`.
      patch: side of a patch in pixels.

    Returns:
      `[B, (S // patch)², patch * patch * 3]`.
    """
    batch, side = pixels.shape[0], pixels.shape[1] // patch
    x = pixels[:, : side * patch, : side * patch]
    x = x.reshape(batch, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, side * side, patch * patch * 3)
