"""Attention with one query: how ResNets and SigLIP pool a sequence to a vector."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from item_jax.towers.attention import precision


def attend_once(q: jax.Array, kv: jax.Array, *, heads: int) -> jax.Array:
    """Softmax attention of one query, its softmax in float32.

    Args:
      q: `[B, D]`.
      kv: `[B, T, 2 * D]`, keys and values side by side.
      heads: they divide D.

    Returns:
      `[B, D]`.
    """
    batch, length, width = kv.shape
    dim = width // 2 // heads
    q = q.reshape(batch, heads, dim) * jnp.asarray(dim**-0.5, q.dtype)
    keys, values = jnp.moveaxis(kv.reshape(batch, length, 2, heads, dim), 2, 0)
    logits = jnp.einsum(
        "bhd,bthd->bht",
        q,
        keys,
        precision=precision(q.dtype),
        preferred_element_type=jnp.float32,
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    out = jnp.einsum("bht,bthd->bhd", weights, values, precision=precision(q.dtype))
    return out.reshape(batch, width // 2)
