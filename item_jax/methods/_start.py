"""Weights of PyTorch networks as the parameters of ours, to start a training from.

A network says where each of its layers is: `{ours: theirs}`, the names of the layers.
Their tensors are read by kind: convolutions, linear layers, normalisations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from item_jax.methods._network import shapes

Tensors = Mapping[str, np.ndarray]

BUFFERS = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Last parts of the names of tensors that are no parameters."""


def filled(
    variables: Mapping[str, Any],
    layers: Mapping[str, str],
    tensors: Tensors,
    *,
    ignored: tuple[str, ...],
) -> dict[str, Any]:
    """Returns variables with the layers of a PyTorch network in them.

    Args:
      variables: `params` and, with BatchNorm, `batch_stats`: `{layer: {name: array}}`.
      layers: our name -> their name, for each layer that is replaced.
      tensors: theirs by name.
      ignored: beginnings of the names of tensors that are not needed, such as the last
        layer's.

    Raises:
      ValueError: if a tensor is missing, of another shape, or of no layer.
    """
    found = {name: dict(layers) for name, layers in variables.items()}
    used: set[str] = set()
    for ours, theirs in layers.items():
        made = layer(theirs, tensors)
        for name, arrays in made.items():
            if not arrays:
                continue
            old = shapes(found.get(name, {}).get(ours, {}))
            if shapes(arrays) != old:
                raise ValueError(
                    f"{theirs} has {shapes(arrays)}; {ours} of this network has {old}"
                )
            found[name][ours] = arrays
        used |= {name for name in tensors if name.rpartition(".")[0] == theirs}
    rest = [
        name
        for name in sorted(set(tensors) - used)
        if not name.startswith(ignored) and name.rpartition(".")[2] not in BUFFERS
    ]
    if rest:
        raise ValueError(
            f"{len(rest)} tensors are of no layer of this network, such as {rest[0]}"
        )
    return found


def layer(name: str, tensors: Tensors) -> dict[str, dict[str, Any]]:
    """Returns `params` and `batch_stats` of one layer of PyTorch.

    Raises:
      ValueError: if there is no such layer.
    """
    weight = tensors.get(f"{name}.weight")
    if weight is None:
        raise ValueError(f"{name}.weight is missing")
    weight = np.asarray(weight, np.float32)
    if weight.ndim == 1:
        params = {"scale": weight}
    elif weight.ndim == 2:
        params = {"kernel": weight.T}
    else:
        params = {"kernel": weight.transpose(2, 3, 1, 0)}
    own = {
        "params": params | _others(name, tensors, {"bias": "bias"}),
        "batch_stats": _others(
            name, tensors, {"running_mean": "mean", "running_var": "var"}
        ),
    }
    return {
        collection: {key: jnp.asarray(value) for key, value in arrays.items()}
        for collection, arrays in own.items()
    }


def _others(name: str, tensors: Tensors, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        ours: np.asarray(tensors[f"{name}.{theirs}"], np.float32)
        for theirs, ours in names.items()
        if f"{name}.{theirs}" in tensors
    }
