"""ITEM: an MLP on the misalignment D (Algorithm 1), and with it every ablation of D.

`config.misalignment` chooses D, `config.head` the classifier: `misalignment.w2=0` is
"only global", `w1=0` "only local", `misalignment.levels=concat` both side by side,
`misalignment.name=image_only` the visual modality alone, and so on.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from item_jax import choices, heads, misalignment
from item_jax.config import to_json
from item_jax.embeddings import ARRAYS, Embeddings

if TYPE_CHECKING:
    from item_jax.training_loop import OnEpoch

NEEDS = ARRAYS
SETTINGS = ("misalignment", "head", "train")

State = dict[str, Any]


def fit(parts: Sequence[Embeddings], config: ConfigDict) -> State:
    """Trains one head with `config.seed`."""
    return fit_seeds(parts, config, [config.seed])[0]


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: OnEpoch = lambda epoch, losses: None,
) -> list[State]:
    """Trains a head per seed, side by side.

    Args:
      parts: of the training set, all labelled.
      config: `misalignment`, `head` and `train`.
      seeds: as many as heads.
      checkpoints, on_epoch: as for `training_loop.fit`.

    Returns:
      For each seed `{"misalignment": its section, "head": its section with
      "input_dim", "params": arrays}`.
    """
    from item_jax import training_loop  # a verdict needs neither Optax nor Orbax

    d = np.concatenate([part.misalignment(config) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    trained = training_loop.fit(
        d, labels, config, seeds=seeds, checkpoints=checkpoints, on_epoch=on_epoch
    )
    shared = {
        "misalignment": to_json(config.misalignment),
        "head": to_json(config.head) | {"input_dim": d.shape[1]},
    }
    return [shared | {"params": params} for params in trained]


def score(state: State, part: Embeddings) -> np.ndarray:
    """Returns P(fake), float32 `[n]`.

    Raises:
      ValueError: if D is not as wide as what the head was trained on.
    """
    d = part.misalignment(state["misalignment"])
    head = state["head"]
    if d.shape[-1] != head["input_dim"]:
        raise ValueError(
            f"the head takes misalignments of width {head['input_dim']} "
            f"({state['misalignment']['name']!r}), found width {d.shape[-1]}"
        )
    return np.asarray(_p_fake(head["name"], head["hidden_dim"], state["params"], d))


def weighted(state: State, **weights: float) -> State:
    """Returns the state with another `w1` or `w2`: the score without a level."""
    return state | {"misalignment": state["misalignment"] | weights}


def check(state: State) -> None:
    """Makes sure that a state read from a file can be scored.

    Raises:
      ValueError: naming the field or tensors that do not fit.
    """
    c, head = state["misalignment"], state["head"]
    misalignment.get(c["name"])
    choices.check("misalignment.no_objects", c["no_objects"], misalignment.NO_OBJECTS)
    choices.check("misalignment.levels", c["levels"], misalignment.LEVELS)
    for field, kind in (("w1", float | int), ("w2", float | int)):
        if not isinstance(c[field], kind):
            raise ValueError(f"misalignment.{field} is {c[field]!r}, not a number")
    for field in ("input_dim", "hidden_dim"):
        if not (type(head[field]) is int and 0 < head[field] <= 10**6):
            raise ValueError(f"head.{field} is {head[field]!r}, not a width")
    module = heads.make(head["name"], hidden_dim=head["hidden_dim"])
    d = jax.ShapeDtypeStruct((1, head["input_dim"]), jnp.float32)
    wanted = jax.eval_shape(module.init, jax.random.key(0), d)["params"]
    expected, found = _shapes(wanted), _shapes(state.get("params", {}))
    if found != expected:
        raise ValueError(f"its tensors are {found}; its settings describe {expected}")


def _shapes(tree: Any) -> dict[str, list[int]]:
    flat = flax.traverse_util.flatten_dict(tree, sep=".")
    return {name: list(value.shape) for name, value in sorted(flat.items())}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _p_fake(name: str, hidden_dim: int, params: Any, d: jax.Array) -> jax.Array:
    head = heads.make(name, hidden_dim=hidden_dim)
    logits: Any = head.apply({"params": params}, d)
    return heads.p_fake(logits)
