"""What rivals with a network share: arrays in, logits out, a state that is checked.

The network is a Linen module whose `__call__(batch, train)` maps a dictionary of arrays
`[B, ...]` to logits `[B]` of "fake". Its state is `{"inputs": shape of a row of each
array, "params": arrays}`. How it is trained stands in each method's file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings

if TYPE_CHECKING:
    from item_jax.training_loop import OnEpoch, Recipe

Arrays = dict[str, Any]
Inputs = Callable[[Embeddings], dict[str, np.ndarray]]
State = dict[str, Any]

HELD_OUT = 10
"""One of so many training images judges a training where there are no others for it.
Not in any paper: the authors had validation images."""


def linear(x: jax.Array, features: int, name: str, *, kernel_init: Any = None):
    """A linear layer with PyTorch's start: U(-b, b), b = 1 / sqrt(inputs), bias too."""
    bound = x.shape[-1] ** -0.5

    def uniform(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    layer = nn.Dense(
        features,
        kernel_init=kernel_init or uniform,
        bias_init=uniform,
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )
    return layer(x)


def joined(parts: Sequence[Embeddings], inputs: Inputs) -> dict[str, np.ndarray]:
    """Returns the inputs of all parts and their `labels`, as the loop takes them."""
    each = [inputs(part) | {"labels": part.labels} for part in parts]
    return {name: np.concatenate([arrays[name] for arrays in each]) for name in each[0]}


def held_out(
    data: Mapping[str, np.ndarray], validation: Mapping[str, np.ndarray] | None = None
) -> tuple[Arrays, Arrays]:
    """Returns what to train on, and what judges the training.

    Args:
      data: of the training images.
      validation: the same of validation images. Without them one of `HELD_OUT` training
        images of each label is held out, the same for every seed, so that seeds differ
        by their training alone.

    Raises:
      ValueError: if a label has fewer than two images, one of which is to be held out.
    """
    if validation is not None:
        return dict(data), dict(validation)
    labels, rng = np.asarray(data["labels"]), np.random.default_rng(0)
    chosen = np.zeros(len(labels), bool)
    for label in (0, 1):
        own = rng.permutation(np.flatnonzero(labels == label))
        if len(own) < 2:
            raise ValueError(
                f"{len(own)} {'fake' if label else 'real'} training images: one is "
                "held out, so at least 2 are needed"
            )
        chosen[own[: -(-len(own) // HELD_OUT)]] = True
    return (
        {name: values[~chosen] for name, values in data.items()},
        {name: values[chosen] for name, values in data.items()},
    )


def bce(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits `[B]`, the mean over rows of weight 1."""
    each = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))
    return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1)


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of logits `[B]` on the right side of 0; 0 itself says real."""
    return jnp.mean((logits > 0) == (labels == 1))


def recipe(
    name: str,
    module: nn.Module,
    config: ConfigDict,
    optimizer: optax.GradientTransformation,
    **others: Any,
) -> Recipe:
    """The training of a network by binary cross-entropy, with dropout.

    Args:
      name: of the method.
      module: the network.
      config: `train.epochs` and `train.batch_size` are used; all of `train` identifies
        the run.
      optimizer: of the parameters.
      others: further fields of `Recipe`, such as another `loss`.
    """
    from item_jax import training_loop

    def loss(variables, batch, weights, key):
        params = {"params": variables["params"]}
        rngs = {"dropout": key}
        logits: Any = module.apply(params, batch, train=True, rngs=rngs)
        return bce(logits, batch["labels"], weights), {}

    def init(key, data):
        return module.init(key, {name: values[:1] for name, values in data.items()})

    c = config.train
    facts = {
        "method": name,
        "train": [c.epochs, c.batch_size, c.learning_rate, c.weight_decay],
    }
    fields = {"loss": loss, "init": init} | others
    return training_loop.Recipe(
        facts=facts,
        optimizer=optimizer,
        epochs=c.epochs,
        batch_size=c.batch_size,
        **fields,
    )


def train(
    recipe: Recipe,
    data: Mapping[str, np.ndarray],
    config: ConfigDict,
    seeds: Sequence[int],
    checkpoints: Any,
    on_epoch: OnEpoch,
    **others: Any,
) -> list[Arrays]:
    """Runs the loop; see `training_loop.run`."""
    from item_jax import training_loop

    return training_loop.run(
        recipe,
        data,
        seeds=seeds,
        checkpoints=checkpoints,
        checkpoint_every=config.train.checkpoint_every,
        on_epoch=on_epoch,
        **others,
    )


def quiet(epoch: int, losses: np.ndarray) -> None:
    """Reports nothing."""


def alone(fit_seeds: Callable) -> Callable:
    """Returns the `fit` that belongs to a `fit_seeds`."""

    def fit(parts: Sequence[Embeddings], config: ConfigDict) -> State:
        """Trains with `config.seed`."""
        return fit_seeds(parts, config, [config.seed])[0]

    return fit


def state(data: Mapping[str, np.ndarray], params: Arrays, **others: Any) -> State:
    """Returns the state of a trained network."""
    shapes = {n: list(v.shape[1:]) for n, v in data.items() if n != "labels"}
    return {"inputs": shapes, **others, "params": params}


def scorer(module: nn.Module, inputs: Inputs) -> tuple[Callable, Callable]:
    """Returns `score` and `check` of a network."""

    @jax.jit
    def logits(params, batch):
        return module.apply({"params": params}, batch)

    def score(state: State, part: Embeddings) -> np.ndarray:
        """Returns P(fake), float32 `[n]`."""
        batch = inputs(part)
        found = {name: list(values.shape[1:]) for name, values in batch.items()}
        if found != state["inputs"]:
            raise ValueError(f"the network takes {state['inputs']}, found {found}")
        return np.asarray(jax.nn.sigmoid(logits(state["params"], batch)))

    def check(state: State) -> None:
        """Makes sure that a state read from a file can be scored.

        Raises:
          ValueError: naming what does not fit.
        """
        check_params(module, state["inputs"], state.get("params", {}))

    return score, check


def check_params(module: nn.Module, inputs: Mapping[str, Any], params: Any) -> None:
    """Compares the shapes of parameters with those of a network on such inputs.

    Raises:
      ValueError: if they differ, or the inputs are none.
    """
    for name, shape in inputs.items():
        if not (
            isinstance(shape, list)
            and all(type(side) is int and 0 < side <= 10**6 for side in shape)
        ):
            raise ValueError(f"inputs.{name} is {shape!r}, not the shape of a row")
    batch = {
        name: jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        for name, shape in inputs.items()
    }
    wanted = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), batch)
    expected, found = shapes(wanted["params"]), shapes(params)
    if found != expected:
        raise ValueError(f"its tensors are {found}; its settings describe {expected}")


def shapes(tree: Any) -> dict[str, list[int]]:
    """Returns the shape of each array of a tree by its dotted name."""
    flat = flax.traverse_util.flatten_dict(tree, sep=".")
    return {name: list(value.shape) for name, value in sorted(flat.items())}
