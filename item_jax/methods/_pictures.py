"""What rivals on pixels share: pictures of one size, a network with BatchNorm.

The pictures of all training images stay on the device as uint8, 196 KB each at 256 x
256 (80,000 of them are 16 GB), and are cropped and flipped there, so that the loop of
every other method trains these too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from item_jax.embeddings import Embeddings
from item_jax.methods import _network

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in [0, 1], as torchvision's models take them."""

THREADS = 8
BATCH = 64
"""Pictures scored at a time; speed only."""

Resize = Callable[[np.ndarray, int], np.ndarray]


def squashed(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes to a square whatever the ratio, bilinear, uint8 `[size, size, 3]`."""
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def middle(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes the short side and takes the middle square, uint8 `[size, size, 3]`."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    new = (max(size, round(width * scale)), max(size, round(height * scale)))
    resized = np.asarray(Image.fromarray(image).resize(new, Image.Resampling.BILINEAR))
    top, left = (new[1] - size) // 2, (new[0] - size) // 2
    return resized[top : top + size, left : left + size]


def load(part: Embeddings, resize: Resize, size: int) -> np.ndarray:
    """Returns the images of a part, uint8 `[n, size, size, 3]`."""
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda i: resize(part.image(i), size), range(len(part)))
        return np.stack([*read, np.zeros((size, size, 3), np.uint8)])[:-1]


def joined(parts: Sequence[Embeddings], resize: Resize, size: int) -> dict[str, Any]:
    """Returns `pictures` and `labels` of all parts, as the loop takes them."""
    return {
        "pictures": np.concatenate([load(part, resize, size) for part in parts]),
        "labels": np.concatenate([part.labels for part in parts]),
    }


def cropped(pictures: jax.Array, size: int, key: jax.Array) -> jax.Array:
    """A random crop of each picture, flipped or not, uint8 `[B, size, size, 3]`."""
    count, side = pictures.shape[:2]
    place, flip = jax.random.split(key)
    corners = jax.random.randint(place, (count, 2), 0, side - size + 1)
    flipped = jax.random.bernoulli(flip, 0.5, (count,))

    def one(picture, corner, flip):
        at = (corner[0], corner[1], 0)
        crop = jax.lax.dynamic_slice(picture, at, (size, size, 3))
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(one)(pictures, corners, flipped)


def centred(pictures: jax.Array, size: int) -> jax.Array:
    """The middle square of each picture, `[B, size, size, 3]`."""
    start = (pictures.shape[1] - size) // 2
    return pictures[:, start : start + size, start : start + size]


def standard(pictures: jax.Array) -> jax.Array:
    """uint8 in 0 to 255 -> float32 with ImageNet's mean 0 and deviation 1."""
    mean, std = (jnp.array(v).reshape(1, 1, 1, 3) for v in (MEAN, STD))
    return (pictures.astype(jnp.float32) / 255 - mean) / std


def loss_of(module: nn.Module, crop: int) -> Callable:
    """Binary cross-entropy on random crops; running means of BatchNorm come along."""

    def loss(variables, batch, weights, key):
        own = {name: variables[name] for name in ("params", "batch_stats")}
        x = standard(cropped(batch["pictures"], crop, key))
        logits, changed = module.apply(
            own, x, train=True, valid=weights > 0, mutable=["batch_stats"]
        )
        return _network.bce(logits, batch["labels"], weights), changed

    return loss


def init_of(module: nn.Module, crop: int) -> Callable:
    """The start of a network that takes pictures of a size."""

    def init(key, data):
        return module.init(key, jnp.zeros((1, crop, crop, 3)))

    return init


def accuracy(
    module: nn.Module, variables: dict[str, Any], rows: dict[str, Any], size: int
) -> jax.Array:
    """The share of pictures on the right side of a logit of 0, a batch at a time."""
    count = len(rows["labels"])
    padding = -count % BATCH
    pictures = jnp.pad(rows["pictures"], [(0, padding), (0, 0), (0, 0), (0, 0)])
    batches = pictures.reshape(-1, BATCH, *pictures.shape[1:])
    logits = jax.lax.map(
        lambda x: module.apply(variables, standard(centred(x, size))), batches
    )
    return _network.accuracy(logits.reshape(-1)[:count], rows["labels"])


def scorer(
    module: nn.Module, resize: Resize, size: int, test: int
) -> tuple[Callable, Callable]:
    """Returns `score` and `check` of a network on the middle `test` pixels."""

    @jax.jit
    def logits(variables, pictures):
        return module.apply(variables, standard(centred(pictures, test)))

    def score(state: dict[str, Any], part: Embeddings) -> np.ndarray:
        """Returns P(fake), float32 `[n]`."""
        variables = {name: state[name] for name in ("params", "batch_stats")}
        found = [np.zeros(0, np.float32)]
        for start in range(0, len(part), BATCH):
            rows = part.take(np.arange(start, min(start + BATCH, len(part))))
            pictures = load(rows, resize, size)
            padding = [(0, BATCH - len(rows)), (0, 0), (0, 0), (0, 0)]
            out = logits(variables, np.pad(pictures, padding))
            found.append(np.asarray(jax.nn.sigmoid(out))[: len(rows)])
        return np.concatenate(found)

    def check(state: dict[str, Any]) -> None:
        """Makes sure that a state read from a file can be scored.

        Raises:
          ValueError: naming what does not fit.
        """
        x = jax.ShapeDtypeStruct((1, test, test, 3), jnp.float32)
        wanted = jax.eval_shape(module.init, jax.random.key(0), x)
        for name in ("params", "batch_stats"):
            expected = _network.shapes(wanted[name])
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

    return score, check
