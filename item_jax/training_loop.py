"""The training loop of every method: epochs as compiled scans, exact resumption.

What is trained is a `Recipe`: parameters, a loss, an optimizer. The training set stays
on the device and an epoch is one compiled scan over its mini-batches. Several seeds
train side by side under `vmap`. Orbax checkpoints between epochs make a stopped run
resume exactly: order and noise of an epoch depend on seed and epoch alone. In a
multi-process run every process trains the same on the same data, bit for bit: a head is
seconds of work, less than communicating the parts of it would cost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from item_jax import early_stopping, files, heads
from item_jax.config import to_json
from item_jax.early_stopping import EarlyStopping
from item_jax.sharding import barrier, is_main_process

OnEpoch = Callable[[int, np.ndarray], None]
Arrays = dict[str, Any]

_counts: ContextVar[list[list[int]] | None] = ContextVar("counts", default=None)

STATE = 2
"""Of what a checkpoint holds; one of another layout is never continued."""

NOISE = 2**31 - 1
"""Folded into a seed's key for dropout and the like. Epochs, which are folded in for
the order, stay below it."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is trained, and how.

    Attributes:
      facts: JSON values that, with data and seeds, decide the result. A checkpoint of
        a run with other facts is never continued.
      init: (key, data) -> variables, of one seed: `{"params": what is trained, ...}`.
      loss: (variables, batch, weights, key) -> the mean loss of a mini-batch, and the
        other variables that it changes, `{}` for none. `batch` has the arrays of the
        data, `[B, ...]`; `weights` are `[B]`, 0 for the padding of a short last batch;
        `key` is for dropout and the like.
      optimizer: of the parameters.
      epochs: passes over the data, at most.
      batch_size: rows of a mini-batch.
      drop_last: whether a short last batch is left out, as PyTorch's `drop_last`.
      stopping: when to lower the learning rate and to stop, by held-out images.
    """

    facts: Mapping[str, Any]
    init: Callable[[jax.Array, Arrays], Arrays]
    loss: Callable[[Arrays, Arrays, jax.Array, jax.Array], tuple[jax.Array, Arrays]]
    optimizer: optax.GradientTransformation
    epochs: int
    batch_size: int
    drop_last: bool = False
    stopping: EarlyStopping | None = None


def fit(
    features,
    labels,
    config: ConfigDict,
    *,
    seeds: Sequence[int],
    checkpoints: str | Path | None = None,
    on_epoch: OnEpoch = lambda epoch, losses: None,
) -> list[Any]:
    """Trains one head of `item_jax.heads` per seed, all at once.

    Args:
      features: D, float32 `[N, D']`.
      labels: int `[N]`, real 0 and fake 1.
      config: `head` and `train` of `item_jax.config`.
      seeds, checkpoints, on_epoch: as for `run`.

    Returns:
      K parameter trees of NumPy arrays.

    Raises:
      ValueError, FloatingPointError: as `run`.
    """
    trained = run(
        head_recipe(config),
        {"features": features, "labels": labels},
        seeds=seeds,
        checkpoints=checkpoints,
        checkpoint_every=config.train.checkpoint_every,
        on_epoch=on_epoch,
    )
    return [variables["params"] for variables in trained]


def head_recipe(config: ConfigDict) -> Recipe:
    """Returns how a head of `head` and `train` of `item_jax.config` is trained, on
    `features` and `labels`.
    """
    c = config.train
    module = heads.make(config.head.name, hidden_dim=config.head.hidden_dim)

    def init(key, data):
        return module.init(key, data["features"][:1])

    def loss(variables, batch, weights, key):
        logits: Any = module.apply({"params": variables["params"]}, batch["features"])
        return heads.bce_loss(logits, batch["labels"], weights), {}

    return Recipe(
        facts={
            "head": to_json(config.head),
            "train": [c.epochs, c.batch_size, c.learning_rate, c.weight_decay],
        },
        init=init,
        loss=loss,
        # PyTorch's AdamW, which the papers use, decays every parameter: no mask here.
        optimizer=optax.adamw(c.learning_rate, weight_decay=c.weight_decay),
        epochs=c.epochs,
        batch_size=c.batch_size,
    )


def run(
    recipe: Recipe,
    data: Mapping[str, Any],
    *,
    seeds: Sequence[int],
    held_out: Mapping[str, Any] | None = None,
    constants: Mapping[str, Any] | None = None,
    checkpoints: str | Path | None = None,
    checkpoint_every: int = 10,
    on_epoch: OnEpoch = lambda epoch, losses: None,
) -> list[Arrays]:
    """Trains one set of variables per seed, all at once.

    Args:
      recipe: what and how.
      data: arrays `[N, ...]` by name, `labels` int among them.
      seeds: K seeds; a result depends on its own seed alone, not on its neighbours.
      held_out: the same of other images, for `recipe.stopping`.
      constants: arrays `[K]` by name, a value for each seed, which the loss finds in
        `variables["constants"]`.
      checkpoints: a folder for Orbax checkpoints; a run found there with the same
        data, facts and seeds goes on, anything else is deleted.
      checkpoint_every: epochs.
      on_epoch: called with the epoch (from 1) and the mean losses `[K]` of its steps.

    Returns:
      K trees of variables, NumPy arrays.

    Raises:
      ValueError: for data that are not finite, or too few for one batch.
      FloatingPointError: if the loss stops being finite.
    """
    data, held_out = _on_device(data), _on_device(held_out or {})
    count = len(data["labels"])
    if recipe.drop_last and count < recipe.batch_size:
        raise ValueError(
            f"{count} training images are less than one batch of "
            f"{recipe.batch_size}; lower train.batch_size"
        )
    constants = {k: jnp.asarray(v, jnp.float32) for k, v in (constants or {}).items()}
    keys = jnp.stack([jax.random.key(s) for s in seeds])

    def init(key, constants, data):
        variables = dict(recipe.init(jax.random.fold_in(key, 0), data))
        if constants:
            variables["constants"] = constants
        optimizer_state = recipe.optimizer.init(variables["params"])
        return variables, optimizer_state, early_stopping.init(recipe, variables)

    state = jax.jit(jax.vmap(init, in_axes=(0, 0, None)))(keys, constants, data)
    one = functools.partial(_epoch, recipe)
    run_epoch = jax.jit(_side_by_side(one, len(seeds)), donate_argnums=0)
    run_id = None
    if checkpoints is not None:  # hashing the data takes a moment
        run_id = _run_id(recipe, data, held_out, constants, seeds)
    with _Checkpoints(checkpoints, run_id) as saved:
        done, state = saved.restore(state)
        for epoch in range(done + 1, recipe.epochs + 1):
            if early_stopping.all_done(state[2]):
                break
            state, losses = run_epoch(state, keys, epoch, data, held_out)
            losses = np.asarray(losses)
            if not np.isfinite(losses).all():
                raise FloatingPointError(
                    f"the loss of epoch {epoch} is {losses.tolist()}: lower "
                    "train.learning_rate"
                )
            on_epoch(epoch, losses)
            if epoch % checkpoint_every == 0 and epoch < recipe.epochs:
                saved.save(epoch, state)
    _count(recipe, state[2], len(seeds))
    variables = jax.device_get(early_stopping.best(state[2], state[0]))
    return [jax.tree.map(lambda p, k=k: p[k], variables) for k in range(len(seeds))]


@contextlib.contextmanager
def counted() -> Iterator[list[list[int]]]:
    """Gives a list that every `run` in the block adds to: the epochs of each seed.

    A method hands back states, not what `run` returned; this is beside it, and right
    for a run that was resumed.
    """
    found: list[list[int]] = []
    token = _counts.set(found)
    try:
        yield found
    finally:
        _counts.reset(token)


def _count(recipe: Recipe, stopping: Mapping[str, Any], seeds: int) -> None:
    found = _counts.get()
    if found is not None:
        epochs = stopping.get("epochs", np.full(seeds, recipe.epochs))
        found.append([int(count) for count in np.asarray(epochs)])


def _on_device(data: Mapping[str, Any]) -> Arrays:
    for name, values in data.items():
        if not np.issubdtype(values.dtype, np.floating):
            continue
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=-1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            raise ValueError(f"{name} of row {row} are not finite")
    return {name: jnp.asarray(values, _dtype(values)) for name, values in data.items()}


def _dtype(values: Any) -> Any:
    """uint8 as it is, which images are, and float16, which tokens of a cache are; other
    integers int32; other numbers float32."""
    if values.dtype in (np.uint8, np.float16):
        return values.dtype
    whole = np.issubdtype(values.dtype, np.integer)
    return jnp.int32 if whole else jnp.float32


def _side_by_side(one: Callable, count: int) -> Callable:
    """Runs an epoch of every seed; with a single one, without `vmap`.

    A batched matrix product over one head costs a quarter more than a plain one on a
    CPU (0.65 against 0.50 s an epoch of 80,000 x 768).
    """
    if count > 1:
        return jax.vmap(one, in_axes=(0, 0, None, None, None))

    def alone(state, keys, epoch, data, held_out):
        state = jax.tree.map(lambda x: x[0], state)
        state, loss = one(state, keys[0], epoch, data, held_out)
        return jax.tree.map(lambda x: x[None], state), loss[None]

    return alone


def _epoch(recipe: Recipe, state, key, epoch, data, held_out):
    """One pass over the data in a fresh order; the last batch may be short."""
    count, size = data["labels"].shape[0], recipe.batch_size
    steps = count // size if recipe.drop_last else -(-count // size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    order = jnp.pad(order, (0, max(0, steps * size - count)))[: steps * size]
    valid = jnp.arange(steps * size) < count
    noise = jax.random.fold_in(jax.random.fold_in(key, NOISE), epoch)
    variables, optimizer_state, stopping = state

    def step(carry, batch):
        variables, optimizer_state = carry
        number, index, weights = batch
        rows = {name: values[index] for name, values in data.items()}

        def loss_fn(params):
            own = jax.random.fold_in(noise, number)
            return recipe.loss(variables | {"params": params}, rows, weights, own)

        (loss, changed), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            variables["params"]
        )
        params = variables["params"]
        updates, optimizer_state = recipe.optimizer.update(
            grads, optimizer_state, params
        )
        updates = early_stopping.scaled(stopping, updates)
        params = optax.apply_updates(params, updates)
        return (variables | changed | {"params": params}, optimizer_state), loss

    batches = (
        jnp.arange(steps),
        order.reshape(steps, size),
        valid.reshape(steps, size).astype(jnp.float32),
    )
    trained, losses = jax.lax.scan(step, (variables, optimizer_state), batches)
    stopping = early_stopping.judged(recipe, stopping, trained[0], held_out)
    return early_stopping.frozen(state, (*trained, stopping)), losses.mean()


def _run_id(recipe: Recipe, data, held_out, constants, seeds) -> dict[str, Any]:
    """What a checkpoint must have in common with a run that goes on from it."""
    digest = hashlib.sha256()
    for arrays in (data, held_out, constants):
        for name, values in sorted(arrays.items()):
            digest.update(f"{name} {values.shape} ".encode())
            digest.update(np.asarray(values).tobytes())
    known = {"data_sha256": digest.hexdigest(), "seeds": list(seeds), "state": STATE}
    return {**recipe.facts, **known}


class _Checkpoints:
    """Orbax checkpoints of one run, the newest only; nothing without a folder.

    `run.json` marks whose they are. It is written before the first checkpoint, and a
    folder without it, or with another run's, is deleted and never adopted.
    """

    def __init__(self, folder: str | Path | None, run_id: dict[str, Any] | None):
        self.folder = None if folder is None else Path(folder).absolute()
        self.run_id = json.loads(json.dumps(run_id))

    def __enter__(self) -> _Checkpoints:
        if self.folder is None:
            return self
        if is_main_process() and not self._ours():
            files.remove_folder(self.folder)
            files.write_json(self.folder / "run.json", self.run_id)
        barrier("checkpoints")
        options = ocp.CheckpointManagerOptions(max_to_keep=1)
        self.manager = ocp.CheckpointManager(self.folder / "steps", options=options)
        return self

    def _ours(self) -> bool:
        assert self.folder is not None
        try:
            return files.read_json(self.folder / "run.json") == self.run_id
        except (OSError, ValueError):  # missing or damaged: nobody knows whose
            return False

    def __exit__(self, *error: object) -> None:
        if self.folder is not None:
            self.manager.close()

    def restore(self, state: Any) -> tuple[int, Any]:
        """Returns `(epochs done, state)`, `(0, state)` when there is none."""
        step = None if self.folder is None else self.manager.latest_step()
        if step is None:
            return 0, state
        target = ocp.args.StandardRestore(jax.device_get(state))
        return step, self.manager.restore(step, args=target)

    def save(self, epoch: int, state: Any) -> None:
        """Saves; complete or absent, whatever happens."""
        if self.folder is not None:
            state = jax.device_get(state)  # alike in every process; Orbax writes one
            self.manager.save(epoch, args=ocp.args.StandardSave(state))
