"""More of an image tower than its embedding, for methods that look deeper.

| output | per view | what it is |
| --- | --- | --- |
| `embedding` | `[D]` | in the joint space |
| `pooled` | `[width]` | before the projection |
| `class_tokens` | `[layers, width]` | class token after `ln_2` of each block (RINE) |
| `block_tokens` | `[layers, D]` | class token after each block, times the projection |

All of them come from one pass. `block_tokens` skip `ln_post`, as InfoFD's features do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax.towers.transformer import dense

EMBEDDING = "embedding"

# The shape of each output for one view.
Shapes = Mapping[str, tuple[int, ...]]


def embedded(tower: nn.Module, params: Any, rows: Any) -> jax.Array:
    """Runs a tower as a pure function.

    Args:
      tower: the module.
      params: its tree.
      rows: uint8 views `[B, S, S, 3]`, or int32 tokens `[B, T]`.

    Returns:
      float32 `[B, D]`, un-normalised.
    """
    embeddings: Any = tower.apply({"params": params}, rows)
    return embeddings.astype(jnp.float32)


def joined(
    tower: nn.Module, params: Any, views: Any, outputs: Sequence[str]
) -> jax.Array:
    """Runs an image tower and returns several of its outputs side by side, since a
    sharded function has one result.

    Args:
      tower: a module with `ln_post` and blocks `block_0`, `block_1`, ... that have
        `ln_2`, the class token first; for "block_tokens" also with a `projection`.
      params: of the tower.
      views: uint8 `[B, S, S, 3]`.
      outputs: their names, in the order wanted.

    Returns:
      float32 `[B, sum of their sizes]`; `split` takes it apart.
    """
    if tuple(outputs) == (EMBEDDING,):
        return embedded(tower, params, views)
    embedding, state = tower.apply(
        {"params": params},
        views,
        capture_intermediates=_is_seen,
        mutable=["intermediates"],
    )
    seen: Any = state["intermediates"]

    def output(name: str) -> jax.Array:
        if name == EMBEDDING:
            return embedding
        if name == "pooled":
            return seen["ln_post"]["__call__"][0]
        count = sum(key.startswith("block_") for key in seen)
        blocks = [seen[f"block_{i}"] for i in range(count)]
        if name == "class_tokens":
            tokens = [block["ln_2"]["__call__"][0][:, 0] for block in blocks]
            return jnp.stack(tokens, axis=1)
        # A block returns the pieces of its sequences; the class token is the first.
        tokens = [block["__call__"][0][0][:, 0] for block in blocks]
        return _projected(jnp.stack(tokens, axis=1), params["projection"])

    rows = [output(name).reshape(len(views), -1) for name in outputs]
    return jnp.concatenate(rows, axis=1).astype(jnp.float32)


def _is_seen(module: nn.Module, method: str) -> bool:
    name = module.name or ""
    seen = name in ("ln_2", "ln_post") or name.startswith("block_")
    return seen and method == "__call__"


def _projected(tokens: jax.Array, params: Mapping[str, jax.Array]) -> jax.Array:
    width = params["kernel"].shape[-1]
    layer = dense(width, tokens.dtype, name="projection", use_bias=False)
    rows: Any = layer.apply({"params": params}, tokens)
    return rows


def split(
    rows: np.ndarray, shapes: Shapes, outputs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Takes the rows of `joined` apart: each output as `[N, *its shape]`."""
    ends = np.cumsum([math.prod(shapes[name]) for name in outputs])
    parts = np.split(rows, ends[:-1], axis=1)
    return {
        name: part.reshape(len(rows), *shapes[name])
        for name, part in zip(outputs, parts)
    }
