"""What rivals on pixels share: pictures of one size, their crops and their scale.

The pictures of all training images stay on the device as uint8, 196 KB each at 256 x
256 (80,000 of them are 16 GB), and are cropped and flipped there, so that the loop of
every other method trains these too.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in [0, 1], as torchvision's models take them."""

THREADS = 8

Resize = Callable[[np.ndarray, int], np.ndarray]


def squashed(
    image: np.ndarray, size: int, filter: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """Resizes to a square whatever the ratio, uint8 `[size, size, 3]`."""
    return np.asarray(Image.fromarray(image).resize((size, size), filter))


def middle(
    image: np.ndarray, size: int, filter: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """Resizes the short side and takes the middle square, uint8 `[size, size, 3]`."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    new = (max(size, round(width * scale)), max(size, round(height * scale)))
    resized = np.asarray(Image.fromarray(image).resize(new, filter))
    top, left = (new[1] - size) // 2, (new[0] - size) // 2
    return resized[top : top + size, left : left + size]


def load(read: Callable, count: int, resize: Resize, size: int) -> np.ndarray:
    """Returns images 0 to `count`, uint8 `[count, size, size, 3]`.

    Args:
      read: number -> image, uint8 `[H, W, 3]`; called from several threads.
      count: how many.
      resize: (image, size) -> square.
      size: of the squares.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda i: resize(read(i), size), range(count))
        return np.stack([*found, np.zeros((size, size, 3), np.uint8)])[:-1]


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


def symmetric(pictures: jax.Array) -> jax.Array:
    """uint8 in 0 to 255 -> float32 in [-1, 1], as Xception takes them."""
    return pictures.astype(jnp.float32) / 127.5 - 1
