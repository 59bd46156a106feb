"""Training (Algorithm 1 of ITEM): cache -> D -> head.

The misalignments of the whole training set stay on the device and an epoch is one
compiled scan over its mini-batches. Several heads (seeds, and variants of D) train
side by side under `vmap`. Orbax checkpoints between epochs make a stopped run resume
exactly: the order of an epoch depends on seed and epoch alone. In a multi-process run
every process trains the same heads on the same data, bit for bit: a head is seconds of
work, less than what the communication of sharing it out would cost.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from item_jax import heads
from item_jax.cache import EmbeddingCache
from item_jax.config import nearest, to_json
from item_jax.records import write_json
from item_jax.sharding import barrier, leads


def fit(
    features,
    labels,
    config: ConfigDict,
    *,
    seeds: Sequence[int],
    checkpoints: str | Path | None = None,
    on_epoch: Callable[[int, np.ndarray], None] = lambda epoch, losses: None,
) -> list[Any]:
    """Trains one head per seed, all at once.

    Args:
      features: D, float32 `[N, D']`, shared by all heads, or `[K, N, D']`, one variant
        of D per head.
      labels: int `[N]`, real 0 and fake 1.
      config: `head` and `train` of `item_jax.config`.
      seeds: K seeds; a head depends on its own seed alone, not on its neighbours.
      checkpoints: a folder for Orbax checkpoints; a run found there with the same
        data, settings and seeds goes on, any other is deleted.
      on_epoch: called with the epoch (from 1) and the mean losses `[K]` of its steps.

    Returns:
      K parameter trees of NumPy arrays.
    """
    features = jnp.asarray(features, jnp.float32)
    labels = jnp.asarray(labels, jnp.int32)
    c = config.train
    module = heads.make(config.head.name, hidden_dim=config.head.hidden_dim)
    # PyTorch's AdamW, which the papers use, decays every parameter: no mask here.
    optimizer = optax.adamw(c.learning_rate, weight_decay=c.weight_decay)
    keys = jnp.stack([jax.random.key(s) for s in seeds])
    per_head = 0 if features.ndim == 3 else None

    def init(key, x):
        params = module.init(jax.random.fold_in(key, 0), x[:1])["params"]
        return params, optimizer.init(params)

    state = jax.jit(jax.vmap(init, in_axes=(0, per_head)))(keys, features)
    one_head = functools.partial(_epoch, module, optimizer, c.batch_size)
    run_epoch = jax.jit(_side_by_side(one_head, len(seeds), per_head), donate_argnums=0)
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
                    f"the loss of epoch {epoch} is {losses.tolist()}: the features "
                    "or the learning rate are out of range"
                )
            on_epoch(epoch, losses)
            if epoch % c.checkpoint_every == 0 and epoch < c.epochs:
                saved.save(epoch, state)
    params = jax.device_get(state[0])
    return [jax.tree.map(lambda p, k=k: p[k], params) for k in range(len(seeds))]


def _side_by_side(one_head, count: int, per_head: int | None):
    """Runs an epoch of every head; with a single one, without `vmap`.

    A batched matrix product over one head costs a quarter more than a plain one on a
    CPU (0.65 against 0.50 s an epoch of 80,000 x 768).
    """
    if count > 1:
        return jax.vmap(one_head, in_axes=(0, 0, None, per_head, None))

    def alone(state, keys, epoch, features, labels):
        state = jax.tree.map(lambda x: x[0], state)
        features = features if per_head is None else features[0]
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
    data = hashlib.sha256(np.asarray(features).tobytes())
    data.update(np.asarray(labels).tobytes())
    settings = {"head": to_json(config.head), "train": to_json(config.train)}
    return settings | {"data_sha256": data.hexdigest(), "seeds": list(seeds)}


class _Checkpoints:
    """Orbax checkpoints of one run, the newest only; nothing without a folder."""

    def __init__(self, folder: str | Path | None, run_id: dict[str, Any] | None):
        self.folder = None if folder is None else Path(folder).absolute()
        self.run_id = json.loads(json.dumps(run_id))

    def __enter__(self):
        if self.folder is None:
            return self
        mark = self.folder / "run.json"
        if leads():
            if mark.is_file() and json.loads(mark.read_text()) != self.run_id:
                shutil.rmtree(self.folder)
            write_json(mark, self.run_id)
        barrier("checkpoints")
        options = ocp.CheckpointManagerOptions(max_to_keep=1)
        self.manager = ocp.CheckpointManager(self.folder / "steps", options=options)
        return self

    def __exit__(self, kind, value, traceback):
        if self.folder is not None:
            self.manager.close()

    def restore(self, state):
        """Returns `(epochs done, state)`, `(0, state)` when there is none."""
        step = None if self.folder is None else self.manager.latest_step()
        if step is None:
            return 0, state
        target = ocp.args.StandardRestore(jax.device_get(state))
        return step, self.manager.restore(step, args=target)

    def save(self, epoch: int, state) -> None:
        """Saves; complete or absent, whatever happens."""
        if self.folder is not None:
            state = jax.device_get(state)  # alike in every process; Orbax writes one
            self.manager.save(epoch, args=ocp.args.StandardSave(state))


def train_heads(
    cache: EmbeddingCache,
    config: ConfigDict,
    *,
    workdir: str | Path | None = None,
    on_epoch: Callable[[int, np.ndarray], None] = lambda epoch, losses: None,
) -> list[heads.Head]:
    """Trains `config.train.seeds` heads on a cache.

    Args:
      cache: finished; the records of `config.train.split` and
        `config.train.generators` that have a label are used.
      config: see `item_jax.config`.
      workdir: when given, checkpoints go to `checkpoints/`, losses to
        `metrics.jsonl`, the first head to `head/` and the others to `head/seed-N/`.
      on_epoch: as for `fit`.

    Raises:
      ValueError: when no record is left, or only real or only fake ones.
    """
    parts = [
        embeddings.where(lambda row: row["label"] is not None)
        for embeddings in cache.select(
            split=config.train.split, generators=config.train.generators
        )
    ]
    parts = [p for p in parts if len(p)]
    found = {row["generator"] for part in parts for row in part.rows}
    for name in config.train.generators if parts else ():
        if name not in found:
            raise ValueError(
                f"train.generators: no image of {name!r}; {nearest(name, found)}"
            )
    labels = np.concatenate([p.labels for p in parts]) if parts else np.zeros(0, int)
    real, fake = int((labels == 0).sum()), int((labels == 1).sum())
    if not real or not fake:
        rows = (row for part, _ in cache.shards() for row in part.rows)
        known = sorted({(row["split"], row["generator"]) for row in rows})
        raise ValueError(
            f"training needs real and fake images, found {real} real and {fake} fake "
            f"of split {config.train.split!r}, generators "
            f"{list(config.train.generators) or 'all'}; the cache has (split, "
            f"generator): {known}. --config.train.split= and "
            "--config.train.generators= choose among them; empty takes all"
        )
    features = np.concatenate([p.misalignment(config) for p in parts])
    seeds = [config.seed + k for k in range(config.train.seeds)]
    workdir = None if workdir is None else Path(workdir)

    def log(epoch, losses):
        if workdir is not None and leads():
            row = {"epoch": epoch, "loss": [round(float(x), 6) for x in losses]}
            # The first epoch begins the file; a resumed run adds to it.
            with open(workdir / "metrics.jsonl", "w" if epoch == 1 else "a") as f:
                f.write(json.dumps({"stage": "train"} | row) + "\n")
        on_epoch(epoch, losses)

    trained = fit(
        features,
        labels,
        config,
        seeds=seeds,
        checkpoints=None if workdir is None else workdir / "checkpoints",
        on_epoch=log,
    )
    generators = sorted(
        {r["generator"] for p in parts for r in p.rows if r["label"] == "fake"}
    )
    fingerprint = cache.manifest["fingerprint"]
    shard_fields = ("records_sha256", "shard_size", "storage")
    made = []
    for seed, params in zip(seeds, trained):
        info = {
            "schema": "item-head/1",
            "head": to_json(config.head) | {"input_dim": features.shape[1]},
            "misalignment": to_json(config.misalignment),
            "towers": {
                "name": cache.manifest["towers"],
                "embed_dim": cache.manifest["embed_dim"],
            },
            "embedding": {
                k: v for k, v in fingerprint.items() if k not in shard_fields
            },
            "threshold": config.evaluate.threshold,
            "training": {
                "real": real,
                "fake": fake,
                "split": config.train.split,
                "generators": generators,
                "seed": seed,
                "settings": to_json(config.train),
                "records_sha256": fingerprint["records_sha256"],
            },
        }
        made.append(heads.Head(info, params))
    if workdir is not None and leads():
        # All heads of a training together, in place of those of an earlier one.
        partial = workdir / f"head.{uuid.uuid4().hex}.partial"
        for k, head in enumerate(made):
            head.save(partial / (f"seed-{seeds[k]}" if k else ""))
        shutil.rmtree(workdir / "head", ignore_errors=True)
        partial.rename(workdir / "head")
        shutil.rmtree(workdir / "checkpoints")
    return made
