"""Blur and JPEG drawn anew for each picture and epoch, on the device.

CNNDetection blurs with SciPy and compresses with OpenCV or Pillow, which are both
libjpeg with 4:2:0. These are the same operations on arrays, so that they are part of
the compiled epoch. On the same draws they are not the same pixels: blur differs from
SciPy's by at most 2 levels, and JPEG from Pillow's in 7 to 26% of the values, by less
than a level in the mean and by up to 34 where a frequency lies between two steps of the
quantisation (`tests/test_pixel_rivals.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

SIGMA = 3.0
"""Of the strongest blur, in pixels; the weakest is none."""

QUALITY = (30, 100)
"""Of JPEG, both ends included. CNNDetection, `--blur_sig 0.0,3.0 --jpg_qual 30,100`."""

RADIUS = int(4 * SIGMA + 0.5)
"""Of the widest kernel: SciPy cuts at four standard deviations."""

# ITU-T T.81, Annex K, Tables K.1 and K.2.
_LUMINANCE = np.array([
    *(16, 11, 10, 16, 24, 40, 51, 61), *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56), *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77), *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101), *(72, 92, 95, 98, 112, 100, 103, 99),
]).reshape(8, 8)  # fmt: skip
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99],
                        [47, 66, 99, 99]]  # fmt: skip

# ITU-T T.871: Y, Cb, Cr of R, G, B.
_TO_YCC = np.array([
    [0.299, 0.587, 0.114],
    [-0.168735892, -0.331264108, 0.5],
    [0.5, -0.418687589, -0.081312411],
], np.float32)  # fmt: skip
_FROM_YCC = np.linalg.inv(_TO_YCC.astype(np.float64)).astype(np.float32)
_HIGHEST = jax.lax.Precision.HIGHEST


def blur_and_jpeg(probability: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns CNNDetection's augmentation: blurred, then compressed, each or not.

    Args:
      probability: of each of the two, 0.1 or 0.5 in the paper.

    Returns:
      (pictures, key) -> pictures, uint8 `[B, H, W, 3]`.
    """

    def one(picture: jax.Array, key: jax.Array) -> jax.Array:
        blurs, sigma, compresses, quality = jax.random.split(key, 4)
        soft = blur(picture, jax.random.uniform(sigma, maxval=SIGMA))
        picture = jnp.where(jax.random.bernoulli(blurs, probability), soft, picture)
        drawn = jax.random.randint(quality, (), QUALITY[0], QUALITY[1] + 1)
        coarse = jpeg(picture, drawn)
        return jnp.where(jax.random.bernoulli(compresses, probability), coarse, picture)

    def augment(pictures: jax.Array, key: jax.Array) -> jax.Array:
        return jax.vmap(one)(pictures, jax.random.split(key, len(pictures)))

    return augment


def blur(picture: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs as `scipy.ndimage.gaussian_filter` does a channel of uint8 at a time.

    Args:
      picture: uint8 `[H, W, 3]`.
      sigma: in pixels, from 0 to `SIGMA`.
    """
    away = jnp.arange(-RADIUS, RADIUS + 1)
    kernel = jnp.exp(-0.5 * away**2 / (sigma**2 + 1e-12))
    kernel = jnp.where(jnp.abs(away) <= jnp.floor(4 * sigma + 0.5), kernel, 0)
    kernel = kernel / kernel.sum()
    x = picture.astype(jnp.float32)
    for axis in (0, 1):
        size = x.shape[axis]
        wide = [(RADIUS, RADIUS) if a == axis else (0, 0) for a in range(3)]
        padded = jnp.pad(x, wide, mode="symmetric")
        x = sum(
            weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i, weight in enumerate(kernel)
        )
        x = jnp.floor(x + 1e-3)  # uint8 between the axes, cut and not rounded
    return x.astype(jnp.uint8)


def jpeg(picture: jax.Array, quality: jax.Array) -> jax.Array:
    """Compresses and decodes as libjpeg: 4:2:0, its tables, its smooth up-sampling.

    Args:
      picture: uint8 `[H, W, 3]`.
      quality: int, 1 to 100.
    """
    height, width = picture.shape[:2]
    padding = [(0, height % 2), (0, -width % 16), (0, 0)]
    x = jnp.pad(picture, padding, mode="edge").astype(jnp.float32)
    ycc = jnp.round(jnp.einsum("hwc,dc->dhw", x, _TO_YCC, precision=_HIGHEST))
    luma, chroma = ycc[0], ycc[1:]
    rows, columns = chroma.shape[1:]
    halves = chroma.reshape(2, rows // 2, 2, columns // 2, 2).sum((2, 4))
    # libjpeg rounds half up and half down in turn, from column to column.
    bias = 1 + jnp.arange(columns // 2)[None, None] % 2
    halves = jnp.floor((halves + bias) / 4)
    # Columns are filled up before they are halved, rows after it.
    luma = jnp.pad(luma, [(0, -luma.shape[0] % 8), (0, 0)], mode="edge")
    rest = [(0, 0), (0, -halves.shape[1] % 8), (0, 0)]
    halves = jnp.pad(halves, rest, mode="edge")
    luma = _coded(luma - 128, _LUMINANCE, quality)[:height, :width]
    halves = jax.vmap(lambda plane: _coded(plane, _CHROMINANCE, quality))(halves)
    halves = halves[:, : -(-height // 2), : -(-width // 2)]
    chroma = jax.vmap(_doubled)(halves)[:, :height, :width]
    ycc = jnp.concatenate([luma[None] + 128, chroma])
    rgb = jnp.einsum("dhw,cd->hwc", ycc, _FROM_YCC, precision=_HIGHEST)
    return jnp.clip(jnp.round(rgb), 0, 255).astype(jnp.uint8)


def _coded(plane: jax.Array, table: np.ndarray, quality: jax.Array) -> jax.Array:
    """Quantises the 8 x 8 DCT of a plane; its values, cut to -128 .. 127."""
    scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    steps = jnp.clip((table * scale + 50) // 100, 1, 255)
    basis = dct_matrix(8).astype(np.float32)
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8)
    frequencies = jnp.einsum(
        "ui,aibj,vj->aubv", basis, blocks, basis, precision=_HIGHEST
    )
    steps = steps[None, :, None, :]
    kept = jnp.trunc(frequencies / steps + jnp.sign(frequencies) * 0.5) * steps
    back = jnp.einsum("ui,aubv,vj->aibj", basis, kept, basis, precision=_HIGHEST)
    return jnp.clip(jnp.round(back.reshape(height, width)), -128, 127)


def _doubled(plane: jax.Array) -> jax.Array:
    """Doubles both sides with libjpeg's triangle: 3/4 the nearer, 1/4 the farther."""
    padded = jnp.pad(plane, 1, mode="edge")
    rows = _between(padded, 0)  # 4 times the values, [2H, W + 2]
    columns = _between(rows, 1)  # 16 times
    odd = jnp.arange(columns.shape[1])[None] % 2
    return jnp.floor((columns + 8 - odd) / 16)


def _between(x: jax.Array, axis: int) -> jax.Array:
    size = x.shape[axis] - 2
    before, here, after = (
        jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i in (0, 1, 2)
    )
    pair = jnp.stack([3 * here + before, 3 * here + after], axis=axis + 1)
    shape = list(x.shape)
    shape[axis] = 2 * size
    return pair.reshape(shape)


def dct_matrix(size: int) -> np.ndarray:
    """The orthonormal DCT-II, float64 `[size, size]`; row 0 is the mean's."""
    rows, columns = np.mgrid[:size, :size]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (columns + 0.5) * rows / size)
    matrix[0] /= np.sqrt(2)
    return matrix
