"""Folders with two sets of weights: which are the same, and which are not."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.tensors import read_params


def compare(
    params: dict[str, Any],
    config: Any,
    read: str,
    other: CheckpointFiles,
    module: Any,
) -> None:
    """Compares what was loaded with another set of weights in the same folder.

    Args:
      params, config: as loaded.
      read: the name of the weights they are from.
      other: the files, the other weights chosen.
      module: the family.

    Raises:
      ValueError: if they differ, with how to choose. If they do not there is a warning.
    """
    dtype = next(iter(flax.traverse_util.flatten_dict(params["text"]).values())).dtype
    both = f"{other.folder} has two sets of weights, {read} and {other.chosen}"
    try:
        config_2 = module.read_config(other)
        layout = other.layout(module.LAYOUTS)
        assert layout is not None
        shapes = module.param_shapes(config_2, dtype)
        params_2 = read_params(other.source, other.weights(layout), shapes, layout)
    except ValueError as e:
        difference = f"the second cannot be read: {e}"
    else:
        difference = _difference(params, config, params_2, config_2)
    if difference:
        raise ValueError(
            f"{both}, and they are not the same: {difference}\nDelete one of them, or "
            f"give the file that is meant as the checkpoint: {other.folder / read}"
        )
    warnings.warn(f"{both}, with the same tensors; {read} is read", stacklevel=3)


def _difference(params: Any, config: Any, params_2: Any, config_2: Any) -> str:
    """Says how two models differ; "" if not, or only by rounding to 16 bits."""
    if config != config_2:
        a, b = (dataclasses.asdict(c) for c in (config, config_2))
        key = next(k for k in a if a[k] != b.get(k))
        return f"{key} is {a[key]} and {b.get(key)}"
    ones, twos = (
        flax.traverse_util.flatten_dict(p, sep="/") for p in (params, params_2)
    )
    for path, one in ones.items():
        two = twos[path]
        if np.array_equal(one, two):
            continue
        x, y = one.astype(np.float32), two.astype(np.float32)
        if not any(_rounded_alike(x, y, d) for d in (np.float16, jnp.bfloat16)):
            return f"{path} differs by up to {np.abs(x - y).max():.2g}"
    return ""


def _rounded_alike(x: np.ndarray, y: np.ndarray, dtype: Any) -> bool:
    with np.errstate(over="ignore"):
        x, y = x.astype(dtype), y.astype(dtype)
    return bool(np.isfinite(x).all()) and np.array_equal(x, y)
