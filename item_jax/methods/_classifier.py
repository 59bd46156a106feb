"""A network on pixels as a method: pictures in, trained by cross-entropy, P(fake) out.

The network is a Linen module, `__call__(x, train, valid)`: pictures `[B, H, W, 3]` to
logits of "fake", `[B]`, or `[B, h, w]` of patches. `valid`, bool `[B]`, is false for
padding, which BatchNorm must not count. What it is and how it is trained stands in each
method's file; a method's `small` is the same at a size for the miniature.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from item_jax.early_stopping import EarlyStopping
from item_jax.embeddings import Embeddings
from item_jax.methods import _network, _pictures

BATCHES = (64, 8, 1)
"""Sizes of the batches that pictures are scored in, the largest first that fit; speed
only. Nothing is padded: one picture costs one picture, and three programs are compiled
at most."""

COLLECTIONS = ("params", "batch_stats")
"""What a network may have; the second are the running means of BatchNorm."""

Optimizer = Callable[[ConfigDict, int], optax.GradientTransformation]


def adam(c: ConfigDict, steps: int) -> optax.GradientTransformation:
    """Adam at a constant learning rate."""
    return optax.adam(c.learning_rate)


def stops(c: ConfigDict) -> dict[str, Any]:
    """Early stopping as CNNDetection's."""
    return {"learning_rate": c.learning_rate}


def mean_probability(logits: jax.Array) -> jax.Array:
    """Logits `[B]`, or `[B, h, w]` of patches, to the mean of their P(fake), `[B]`."""
    return jax.nn.sigmoid(logits).reshape(len(logits), -1).mean(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier:
    """A method, with the attributes and functions that a method's module has.

    Attributes:
      name: of the method, for checkpoints.
      network: see above.
      resize: (image, size) -> square, for training and for the held-out images.
      size: of the squares that are kept for training.
      crop: side of the random crops trained on; each is flipped or not.
      test: side of the middle square that held-out images are judged by, and that is
        scored where there is no `view`.
      DEFAULTS: fields of the configuration, as published.
      SETTINGS: fields that the training depends on.
      view: image -> what is scored, uint8 `[h, w, 3]`, where that is not the middle
        `test` square of the resized image.
      batches: see `BATCHES`; `(1,)` for views that differ in size, each of which is
        compiled once.
      pool: logits `[B, ...]` -> P(fake) `[B]`.
      scale: uint8 pictures to what the network takes.
      augment: (pictures, key) -> pictures, uint8 both, before the crop.
      optimizer: (config.train, steps an epoch) -> the optimizer.
      stopping: config.train -> the arguments of `EarlyStopping`; None: the last epoch
        is kept.
      START: the weights that the authors started from, in words; "": random ones.
      started: (variables, tensors) -> variables, with those weights in them.
      from_weights: tensors -> state, of a detector that its authors, or their code,
        saved; None: weights are not read.
    """

    name: str
    network: nn.Module
    resize: _pictures.Resize
    size: int
    crop: int
    test: int
    DEFAULTS: Mapping[str, Any]
    SETTINGS: tuple[str, ...] = (
        *("train.epochs", "train.batch_size", "train.learning_rate", "train.seeds"),
    )
    view: _pictures.View | None = None
    batches: tuple[int, ...] = BATCHES
    pool: Callable[[jax.Array], jax.Array] = mean_probability
    scale: Callable[[jax.Array], jax.Array] = _pictures.standard
    augment: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    optimizer: Optimizer = adam
    stopping: Callable[[ConfigDict], dict[str, Any]] | None = stops
    START: str = ""
    started: Callable[[Any, Mapping[str, np.ndarray]], Any] | None = None
    from_weights: Callable[[Mapping[str, np.ndarray]], _network.State] | None = None
    NEEDS: tuple[str, ...] = ("pixels",)

    @property
    def VALIDATES(self) -> bool:
        return self.stopping is not None

    def fit(self, parts: Sequence[Embeddings], config: ConfigDict) -> _network.State:
        """Trains with `config.seed`."""
        return self.fit_seeds(parts, config, [config.seed])[0]

    def fit_seeds(
        self,
        parts: Sequence[Embeddings],
        config: ConfigDict,
        seeds: Sequence[int],
        *,
        checkpoints: str | Path | None = None,
        on_epoch: Any = _network.quiet,
        start: Any = None,
        validation: Sequence[Embeddings] = (),
    ) -> list[_network.State]:
        """Trains a network per seed, side by side.

        Args:
          parts, config, seeds, checkpoints, on_epoch, validation: as for every method.
          start: weights to start from, `item_jax.published.Weights`, or None.

        Raises:
          ValueError: if those weights do not fit the network, naming what.
        """
        data = self._data(parts)
        held_out: dict[str, Any] = {}
        stopping = None
        if self.stopping is not None:
            judges = self._pictures(validation) if validation else None
            data, held_out = _network.held_out(data, judges)
            stopping = EarlyStopping(self._accuracy, **self.stopping(config.train))
        steps = -(-len(data["labels"]) // config.train.batch_size)
        recipe = _network.recipe(
            self.name,
            self.network,
            config,
            self.optimizer(config.train, steps),
            loss=self.loss,
            init=functools.partial(self.init, start=start),
            stopping=stopping,
        )
        if start is not None:
            started = {**recipe.facts, "start_sha256": start.sha256}
            recipe = dataclasses.replace(recipe, facts=started)
        return _network.train(
            recipe, data, config, seeds, checkpoints, on_epoch, held_out=held_out
        )

    def _data(self, parts: Sequence[Embeddings]) -> dict[str, Any]:
        return {
            "pictures": np.concatenate([self.load(part) for part in parts]),
            "labels": np.concatenate([part.labels for part in parts]),
        }

    def source(self, part: Embeddings) -> Callable[[int], np.ndarray]:
        """Returns what reads image i, uint8 `[H, W, 3]`."""
        return part.image

    def load(self, part: Embeddings) -> np.ndarray:
        """Returns the pictures to train on, uint8 `[n, size, size, 3]`."""
        found = self._seen(part, lambda image: self.resize(image, self.size))
        return np.array(found, np.uint8).reshape(-1, self.size, self.size, 3)

    def views(self, part: Embeddings) -> list[np.ndarray]:
        """Returns the pictures to score, n times uint8 `[h, w, 3]`."""

        def middle(image: np.ndarray) -> np.ndarray:
            return _pictures.centred(self.resize(image, self.size)[None], self.test)[0]

        return self._seen(part, self.view or middle)

    def _seen(self, part: Embeddings, view: _pictures.View) -> list[np.ndarray]:
        keys = [row["key"] for row in part.rows]
        return _pictures.load(self.source(part), keys, view)

    def init(self, key: jax.Array, data: Any = None, *, start: Any = None) -> Any:
        """Returns variables to train from."""
        variables = self.network.init(key, jnp.zeros((1, self.crop, self.crop, 3)))
        if start is None:
            return variables
        assert self.started is not None
        try:
            return self.started(variables, start.tensors)
        except ValueError as e:
            raise ValueError(f"{start.file}: {e}") from e

    def loss(self, variables: Any, batch: Any, weights: jax.Array, key: jax.Array):
        """Cross-entropy on augmented random crops, and the running means."""
        augment, crop, dropout = jax.random.split(key, 3)
        pictures = batch["pictures"]
        if self.augment is not None:
            pictures = self.augment(pictures, augment)
        x = self.scale(_pictures.cropped(pictures, self.crop, crop))
        logits, changed = self.network.apply(
            _own(variables),
            x,
            train=True,
            valid=weights > 0,
            mutable=["batch_stats"],
            rngs={"dropout": dropout},
        )
        labels = _to_shape(batch["labels"], logits)
        each = optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32))
        each = each.reshape(len(each), -1).mean(1)
        return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1), dict(changed)

    def logits(self, variables: Any, pictures: jax.Array) -> jax.Array:
        """Returns logits of pictures, uint8 `[B, h, w, 3]`."""
        logits: Any = self.network.apply(_own(variables), self.scale(pictures))
        return logits

    def _accuracy(self, variables: Any, rows: Any) -> jax.Array:
        """The share of pictures, or patches, on the right side; a batch at a time."""
        count = len(rows["labels"])
        size = -(-count // -(-count // BATCHES[0]))  # equal batches, less than one more
        pictures = _pictures.centred(rows["pictures"], self.test)
        pictures = jnp.pad(pictures, [(0, -count % size), (0, 0), (0, 0), (0, 0)])
        batches = pictures.reshape(-1, size, *pictures.shape[1:])
        logits = jax.lax.map(functools.partial(self.logits, variables), batches)
        logits = logits.reshape(-1, *logits.shape[2:])[:count]
        return _network.accuracy(logits, _to_shape(rows["labels"], logits))

    @functools.cached_property
    def _scores(self) -> Callable:
        @jax.jit
        def scores(variables, pictures):
            return self.pool(self.logits(variables, pictures))

        return scores

    def score(self, state: _network.State, part: Embeddings) -> np.ndarray:
        """Returns P(fake), float32 `[n]`."""
        own, found = _own(state), [np.zeros(0, np.float32)]
        for begin in range(0, len(part), self.batches[0]):
            end = min(begin + self.batches[0], len(part))
            pictures = self.views(part.take(np.arange(begin, end)))
            for size in self.batches:
                while len(pictures) >= size:
                    batch, pictures = np.stack(pictures[:size]), pictures[size:]
                    found.append(np.asarray(self._scores(own, batch)))
        return np.concatenate(found)

    def check(self, state: _network.State) -> None:
        """Makes sure that a state read from a file can be scored.

        Raises:
          ValueError: naming what does not fit.
        """
        x = jax.ShapeDtypeStruct((1, self.test, self.test, 3), jnp.float32)
        wanted = jax.eval_shape(self.network.init, jax.random.key(0), x)
        for name in COLLECTIONS:
            expected = _network.shapes(wanted.get(name, {}))
            found = _network.shapes(state.get(name, {}))
            different = [
                key
                for key in sorted({*expected, *found})
                if expected.get(key) != found.get(key)
            ]
            if different:
                first = different[0]
                raise ValueError(
                    f"its {name} differ from those of the network: {first} is "
                    f"{found.get(first)}, not {expected.get(first)}"
                )


def _own(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: variables[name] for name in COLLECTIONS if name in variables}


def _to_shape(labels: jax.Array, logits: jax.Array) -> jax.Array:
    """Labels `[B]` as `[B, 1, ...]`, of as many axes as logits, broadcast to them."""
    wide = labels.reshape(-1, *[1] * (logits.ndim - 1))
    return jnp.broadcast_to(wide, logits.shape)
