"""Early stopping by held-out images, as CNNDetection and UniFD train.

When the accuracy on held-out images has not improved for `patience` epochs, the
learning rate is divided by `factor`; when it would fall below `smallest`, training
ends. What counts as an improvement is stricter after the first drop. The variables of
the last improvement are kept. All of it is state of the training loop, so that a
stopped run resumes exactly, and every seed has its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from item_jax.training_loop import Recipe


@dataclasses.dataclass(frozen=True)
class EarlyStopping:
    """When to lower the learning rate and to stop.

    The defaults are those of CNNDetection and UniFD (`train.py`, `earlystop.py`).

    Attributes:
      accuracy: (variables, held-out arrays) -> a figure, higher is better.
      learning_rate: of the recipe's optimizer.
      patience: epochs without improvement.
      improvement: the least one; `improvement_later` after the first drop.
      factor: what the learning rate is divided by.
      smallest: learning rate.
    """

    accuracy: Callable[[Any, Any], jax.Array]
    learning_rate: float
    patience: int = 5
    improvement: float = 0.001
    improvement_later: float = 0.002
    factor: float = 10.0
    smallest: float = 1e-6


def init(recipe: Recipe, variables: Any) -> dict[str, Any]:
    """Returns the state before the first epoch; `{}` without early stopping."""
    if recipe.stopping is None:
        return {}
    return {
        "scale": jnp.float32(1),
        "best": jnp.float32(-jnp.inf),
        "waited": jnp.int32(0),
        "improvement": jnp.float32(recipe.stopping.improvement),
        "done": jnp.bool_(False),
        "epochs": jnp.int32(0),
        "kept": jax.tree.map(jnp.copy, variables),
    }


def scaled(state: dict[str, Any], updates: Any) -> Any:
    """Multiplies an optimizer's updates by what is left of the learning rate."""
    if not state:
        return updates
    return jax.tree.map(lambda u: u * state["scale"], updates)


def judged(
    recipe: Recipe, state: dict[str, Any], variables: Any, held_out: Any
) -> dict[str, Any]:
    """Returns the state after an epoch."""
    if recipe.stopping is None:
        return state
    own = recipe.stopping
    accuracy = own.accuracy(variables, held_out).astype(jnp.float32)
    improved = accuracy >= state["best"] + state["improvement"]
    waited = jnp.where(improved, 0, state["waited"] + 1)
    drop = waited >= own.patience
    scale = jnp.where(drop, state["scale"] / own.factor, state["scale"])
    # 1e-4 / 10 / 10 is not below 1e-6, whatever its rounding.
    too_small = own.learning_rate * scale < own.smallest * (1 - 1e-3)
    best = jnp.where(improved, accuracy, state["best"])
    return {
        "scale": scale,
        "best": jnp.where(drop, -jnp.inf, best),
        "waited": jnp.where(drop, 0, waited),
        "improvement": jnp.where(drop, own.improvement_later, state["improvement"]),
        "done": drop & too_small,
        "epochs": state["epochs"] + 1,
        "kept": _where(improved, variables, state["kept"]),
    }


def frozen(old: Any, new: Any) -> Any:
    """Returns the old state of the loop where training has ended, else the new one."""
    stopping = old[2]
    return _where(stopping["done"], old, new) if stopping else new


def all_done(state: dict[str, Any]) -> bool:
    """Whether the training of every seed has ended."""
    return bool(state) and bool(np.all(state["done"]))


def best(state: dict[str, Any], variables: Any) -> Any:
    """Returns the variables that are kept; without early stopping the last ones."""
    return state["kept"] if state else variables


def _where(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
