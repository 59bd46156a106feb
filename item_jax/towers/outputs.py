"""More of an image tower than its embedding, for methods that look deeper.

| output | per view | what it is |
| --- | --- | --- |
| `embedding` | `[D]` | in the joint space |
| `pooled` | `[width]` | before the projection |
| `class_tokens` | `[layers, width]` | behind `ln_2` of each block, as in RINE |

All of them come from one pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

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
        `ln_2`, the class token first.
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
        capture_intermediates=lambda module, _: module.name in ("ln_2", "ln_post"),
        mutable=["intermediates"],
    )
    seen: Any = state["intermediates"]

    def output(name: str) -> jax.Array:
        if name == EMBEDDING:
            return embedding
        if name == "pooled":
            return seen["ln_post"]["__call__"][0]
        count = sum(key.startswith("block_") for key in seen)
        tokens = [seen[f"block_{i}"]["ln_2"]["__call__"][0][:, 0] for i in range(count)]
        return jnp.stack(tokens, axis=1)

    rows = [output(name).reshape(len(views), -1) for name in outputs]
    return jnp.concatenate(rows, axis=1).astype(jnp.float32)


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
