"""The training loop: a head per seed, epochs as compiled scans, exact resumption.

The features of the whole training set stay on the device and an epoch is one compiled
scan over its mini-batches. Several seeds train side by side under `vmap`. Orbax
checkpoints between epochs make a stopped run resume exactly: the order of an epoch
depends on seed and epoch alone. In a multi-process run every process trains the same
heads on the same data, bit for bit: a head is seconds of work, less than communicating
the parts of it would cost.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from item_jax import files, heads
from item_jax.config import to_json
from item_jax.sharding import barrier, is_main_process

OnEpoch = Callable[[int, np.ndarray], None]


def fit(
    features,
    labels,
    config: ConfigDict,
    *,
    seeds: Sequence[int],
    checkpoints: str | Path | None = None,
    on_epoch: OnEpoch = lambda epoch, losses: None,
) -> list[Any]:
    """Trains one head per seed, all at once.

    Args:
      features: D, float32 `[N, D']`.
      labels: int `[N]`, real 0 and fake 1.
      config: `head` and `train` of `item_jax.config`.
      seeds: K seeds; a head depends on its own seed alone, not on its neighbours.
      checkpoints: a folder for Orbax checkpoints; a run found there with the same
        data, settings and seeds goes on, anything else is deleted.
      on_epoch: called with the epoch (from 1) and the mean losses `[K]` of its steps.

    Returns:
      K parameter trees of NumPy arrays.

    Raises:
      ValueError: for features that are not finite.
      FloatingPointError: if the loss stops being finite.
    """
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=-1))[0])
        raise ValueError(f"features of row {row} are not finite")
    features = jnp.asarray(features, jnp.float32)
    labels = jnp.asarray(labels, jnp.int32)
    c = config.train
    module = heads.make(config.head.name, hidden_dim=config.head.hidden_dim)
    # PyTorch's AdamW, which the papers use, decays every parameter: no mask here.
    optimizer = optax.adamw(c.learning_rate, weight_decay=c.weight_decay)
    keys = jnp.stack([jax.random.key(s) for s in seeds])

    def init(key, x):
        params = module.init(jax.random.fold_in(key, 0), x[:1])["params"]
        return params, optimizer.init(params)

    state = jax.jit(jax.vmap(init, in_axes=(0, None)))(keys, features)
    one_head = functools.partial(_epoch, module, optimizer, c.batch_size)
    run_epoch = jax.jit(_side_by_side(one_head, len(seeds)), donate_argnums=0)
    run_id = None
    if checkpoints is not None:  # hashing the data takes a moment
        run_id = _run_id(features, labels, config, seeds)
    with _Checkpoints(checkpoints, run_id) as saved:
        done, state = saved.restore(state)
        for epoch in range(done + 1, c.epochs + 1):
            state, losses = run_epoch(state, keys, epoch, features, labels)
            losses = np.asarray(losses)
            if not np.isfinite(losses).all():
                raise FloatingPointError(
                    f"the loss of epoch {epoch} is {losses.tolist()}: lower "
                    f"train.learning_rate, which is {c.learning_rate:g}"
                )
            on_epoch(epoch, losses)
            if epoch % c.checkpoint_every == 0 and epoch < c.epochs:
                saved.save(epoch, state)
    params = jax.device_get(state[0])
    return [jax.tree.map(lambda p, k=k: p[k], params) for k in range(len(seeds))]


def _side_by_side(one_head: Callable, count: int) -> Callable:
    """Runs an epoch of every head; with a single one, without `vmap`.

    A batched matrix product over one head costs a quarter more than a plain one on a
    CPU (0.65 against 0.50 s an epoch of 80,000 x 768).
    """
    if count > 1:
        return jax.vmap(one_head, in_axes=(0, 0, None, None, None))

    def alone(state, keys, epoch, features, labels):
        state = jax.tree.map(lambda x: x[0], state)
        state, loss = one_head(state, keys[0], epoch, features, labels)
        return jax.tree.map(lambda x: x[None], state), loss[None]

    return alone


def _epoch(module, optimizer, batch_size, state, key, epoch, features, labels):
    """One pass over the data in a fresh order; the last batch may be short."""
    count = features.shape[0]
    steps = -(-count // batch_size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), count)
    order = jnp.pad(order, (0, steps * batch_size - count))
    valid = jnp.arange(steps * batch_size) < count

    def step(state, batch):
        params, opt_state = state
        index, weights = batch

        def loss_fn(params):
            logits = module.apply({"params": params}, features[index])
            return heads.bce_loss(logits, labels[index], weights)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    batches = (
        order.reshape(steps, batch_size),
        valid.reshape(steps, batch_size).astype(jnp.float32),
    )
    state, losses = jax.lax.scan(step, state, batches)
    return state, losses.mean()


def _run_id(features, labels, config: ConfigDict, seeds) -> dict[str, Any]:
    """What a checkpoint must have in common with a run that goes on from it."""
    data = hashlib.sha256(np.asarray(features).tobytes())
    data.update(np.asarray(labels).tobytes())
    c = config.train
    return {
        "head": to_json(config.head),
        "train": [c.epochs, c.batch_size, c.learning_rate, c.weight_decay],
        "data_sha256": data.hexdigest(),
        "seeds": list(seeds),
    }


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
