"""Weights of PyTorch networks as the parameters of ours: to start from, or to score.

A network says where each of its layers is: `{ours: theirs}`, the names of the layers.
Their tensors are read by kind: convolutions, linear layers, normalisations.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax.files import printable

Tensors = Mapping[str, np.ndarray]

NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""Flax's names of a layer's arrays and PyTorch's."""

BUFFERS = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Last parts of the names of tensors that are no parameters."""


def variables(module: nn.Module, *arguments: Any) -> dict[str, Any]:
    """Returns the shapes of a network's variables, as `jax.ShapeDtypeStruct`.

    Args:
      module: the network.
      arguments: of its `__call__`, arrays or `ShapeDtypeStruct`.
    """
    return dict(jax.eval_shape(module.init, jax.random.key(0), *arguments))


def state(
    module: nn.Module,
    inputs: Mapping[str, list[int]],
    layers: Mapping[str, str],
    tensors: Tensors,
    *,
    ignored: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Returns the state, as `_network.state`, that the weights of a network are.

    Args:
      module: the network, of rows by name.
      inputs: the shape of a row of each.
      layers, tensors, ignored: as for `filled`.

    Raises:
      ValueError: as `filled`.
    """
    batch = {
        name: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        for name, shape in inputs.items()
    }
    found = filled(variables(module, batch), layers, tensors, ignored=ignored)
    params = jax.tree.map(np.asarray, found["params"])
    return {"inputs": dict(inputs), "params": params}


def width(tensors: Tensors, name: str) -> int:
    """Returns how many inputs a linear layer takes, from its weight `[out, in]`.

    Args:
      tensors: by name.
      name: of the weight.

    Raises:
      ValueError: if there is none, with the nearest name, or it is of another kind.
    """
    if name not in tensors:
        raise ValueError(f"a tensor is missing: {_missing(name, tensors)}")
    shape = tensors[name].shape
    if len(shape) != 2 or not all(shape):
        raise ValueError(f"{name} has shape {list(shape)}; expected [out, in]")
    return shape[1]


def filled(
    variables: Mapping[str, Any],
    layers: Mapping[str, str],
    tensors: Tensors,
    *,
    ignored: tuple[str, ...],
) -> dict[str, Any]:
    """Returns variables with the layers of a PyTorch network in them.

    Args:
      variables: `params` and, with BatchNorm, `batch_stats`: `{layer: {name: array}}`;
        of those that are replaced the shapes are enough.
      layers: our name -> their name, for each layer that is replaced.
      tensors: theirs by name.
      ignored: beginnings of the names of tensors that are not needed, such as the last
        layer's.

    Raises:
      ValueError: for tensors that are missing, of another shape or kind, or of no
        layer; naming the first of each, with the nearest name.
    """
    found = {collection: dict(own) for collection, own in variables.items()}
    wanted: dict[str, tuple[str, str, str]] = {}
    for ours, theirs in layers.items():
        for collection, own in variables.items():
            for name in own.get(ours, {}):
                wanted[f"{theirs}.{NAMES[name]}"] = (collection, ours, name)
    rest = [
        name
        for name in tensors
        if name not in wanted
        and not name.startswith(ignored)
        and name.rpartition(".")[2] not in BUFFERS
    ]
    missing = [name for name in wanted if name not in tensors]
    faults = []
    if missing:
        faults.append(
            f"{_count(missing)} missing: "
            + _listed(_missing(name, rest) for name in missing)
        )
    if rest:
        faults.append(
            f"{_count(rest)} of no layer of this network: "
            + _listed(map(printable, rest))
        )
    wrong = []
    for name, (collection, ours, leaf) in wanted.items():
        if name not in tensors:
            continue
        value, shape = tensors[name], variables[collection][ours][leaf].shape
        expected = list(_theirs(leaf, shape))
        if list(value.shape) != expected:
            wrong.append(f"{name} has shape {list(value.shape)}, expected {expected}")
        elif not jnp.issubdtype(value.dtype, jnp.floating):
            wrong.append(f"{name} is of {value.dtype}, not of floating point")
        else:
            array = np.asarray(value, np.float32)
            own = dict(found[collection][ours])
            own[leaf] = jnp.asarray(_ours(leaf, array))
            found[collection][ours] = own
    if wrong:
        faults.append(_listed(wrong))
    if faults:
        raise ValueError("; ".join(faults))
    return found


def _theirs(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in PyTorch of an array of ours."""
    if leaf != "kernel":
        return shape
    return shape[::-1] if len(shape) == 2 else (*shape[:-3:-1], *shape[:-2])


def _ours(leaf: str, array: np.ndarray) -> np.ndarray:
    if leaf != "kernel":
        return array
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


def _missing(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"{name} (nearest: {printable(close[0])})" if close else name


def _count(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _listed(items: Iterable[str], most: int = 3) -> str:
    shown = list(items)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
