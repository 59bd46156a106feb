"""Pictures for the rivals on pixels: squares of one size, their crops and their scale.

The pictures of all training images stay on the device as uint8, 196 KB each at 256 x
256 (80,000 of them are 16 GB), and are cropped and flipped there, so that the loop of
every other method trains these too.

Resizing and cropping are torchvision's on a PIL image, bit for bit: `views.squash` is
`Resize((size, size))`, `views.center_crop` is `CenterCrop(size)` with its padding, and
`middle` is `Resize(size)` followed by `CenterCrop(size)`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from item_jax import views
from item_jax.images import check_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pixels in [0, 1], as torchvision's models take them."""

THREADS = 8

Resize = Callable[[np.ndarray, int], np.ndarray]
View = Callable[[np.ndarray], np.ndarray]


def middle(
    image: np.ndarray, size: int, filter: Image.Resampling = Image.Resampling.BILINEAR
) -> np.ndarray:
    """Resizes the short side and takes the middle square, uint8 `[size, size, 3]`."""
    return views.center_crop(views.resize_short(image, size, resample=filter), size)


def tiled(image: np.ndarray, size: int) -> np.ndarray:
    """Takes the middle square of an image that is repeated where it is too small.

    NPR's protocol for GenImage: a side below `size` is repeated as often as it takes to
    reach it, then `CenterCrop(size)`. Nothing is resized.

    Returns:
      uint8 `[size, size, 3]`.
    """

    def chosen(length: int) -> np.ndarray:
        whole = length * -(-size // length)
        return (round((whole - size) / 2) + np.arange(size)) % length

    height, width = check_image(image)
    return image[chosen(height)[:, None], chosen(width)]


def even(image: np.ndarray) -> np.ndarray:
    """Drops the last row and column where their number is odd.

    Raises:
      ValueError: if nothing is left.
    """
    height, width = check_image(image)
    if min(height, width) < 2:
        raise ValueError(
            f"a picture of {width} x {height} pixels; at least 2 x 2 are needed"
        )
    return image[: height - height % 2, : width - width % 2]


def load(read: Callable[[int], np.ndarray], count: int, view: View) -> list[np.ndarray]:
    """Returns views of images 0 to `count`, each uint8 `[h, w, 3]`.

    Args:
      read: number -> image, uint8 `[H, W, 3]`; called from several threads.
      count: number of images.
      view: image -> view.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda i: view(read(i)), range(count)))


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


def centred(pictures: Any, size: int) -> Any:
    """The middle square of each square picture, `[B, size, size, 3]`."""
    start = (pictures.shape[1] - size) // 2
    return pictures[:, start : start + size, start : start + size]


def standard(pictures: jax.Array) -> jax.Array:
    """uint8 in 0 to 255 -> float32 with ImageNet's mean 0 and deviation 1."""
    mean, std = (jnp.array(v).reshape(1, 1, 1, 3) for v in (MEAN, STD))
    return (pictures.astype(jnp.float32) / 255 - mean) / std


def symmetric(pictures: jax.Array) -> jax.Array:
    """uint8 in 0 to 255 -> float32 in [-1, 1], as Xception takes them."""
    return pictures.astype(jnp.float32) / 127.5 - 1
