"""Perturbations of ITEM's robustness test (Fig. 4): noise, blur and JPEG.

They act on the full upright image, before any crop; see `item_jax.images`. Pillow,
NumPy and SciPy only, so that PyTorch programs perturb exactly alike.

    name, severity = parse("noise:2")
    image = perturb(image, name, severity, key="real/cat.png")
"""

from __future__ import annotations

import difflib
import hashlib
import io
import math

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from item_jax.images import ImageError, check_image, decode

SEVERITIES: dict[str, tuple[float, ...]] = {
    # Variance of Gaussian noise on RGB in [0, 1]. ITEM calls the value sigma; three of
    # the five levels of DeeperForensics-1.0 have these values, and there, as in MATLAB
    # and scikit-image, they are variances. Standard deviations 0.032, 0.071, 0.1.
    "noise": (0.001, 0.005, 0.01),
    # The same variances in Y'CbCr of ITU-R BT.601, as in DeeperForensics-1.0.
    "noise-ycbcr": (0.001, 0.005, 0.01),
    # The same values as standard deviations, which is ITEM's wording: 0.26 to 2.6
    # grey levels of 255.
    "noise-std": (0.001, 0.005, 0.01),
    # Sigma in pixels. ITEM; scipy's filter on uint8 as in CNNDetection and UniFD.
    "blur": (1, 2, 3),
    # Quality of Pillow's encoder, chroma subsampled 4:2:0. ITEM.
    "jpeg": (75, 50, 25),
}
"""The values of severities 1, 2 and 3 of every perturbation."""

NAMES = ("none", *SEVERITIES)

# Y'CbCr -> R'G'B' of ITU-R BT.601 with 16..235 for Y' and 16..240 for Cb and Cr: what
# noise added in the first does to the second (DeeperForensics-1.0, distortions.py).
_YCBCR_TO_RGB = (
    np.array([[1, 0, 1.403], [1, -0.344, -0.714], [1, 1.773, 0]], np.float32)
    * np.array([255 / 219, 255 / 224, 255 / 224], np.float32)
)  # fmt: skip

_JPEG_LONGEST = 65_500  # pixels a side; JPEG_MAX_DIMENSION of libjpeg


def perturb(
    image: np.ndarray, name: str, severity: int, *, key: str = "", seed: int = 0
) -> np.ndarray:
    """Perturbs an image.

    The noise of an image depends on `key`, `name`, `severity` and `seed` alone: not on
    the order of the images, nor on how many processes share them. Blur and JPEG have no
    randomness. `none` returns `image` itself; it is never changed in place.

    Args:
      image: uint8 [H, W, 3], the full image, upright.
      name: one of `NAMES`.
      severity: 1, 2 or 3, the place in `SEVERITIES`; 0 with `none`.
      key: what tells this image from the others, its key in the records.
      seed: an integer, for other noise on the same images.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: if `name` or `severity` does not exist, or `image` is no image.
      ImageError: with `jpeg`, if a side is longer than the format allows.
    """
    _check(name, severity)
    height, width = check_image(image)
    if name == "none":
        return image
    value = SEVERITIES[name][severity - 1]
    if name == "blur":
        return gaussian_filter(image, sigma=(value, value, 0), truncate=4.0)
    if name == "jpeg":
        data = encode_jpeg(image, int(value))
        return decode(data, max_pixels=height * width)
    std = value if name == "noise-std" else math.sqrt(value)
    generator = _generator(key, name, severity, seed)
    noise = generator.standard_normal((height, width, 3), np.float32)
    if name == "noise-ycbcr":
        noise = noise @ _YCBCR_TO_RGB.T
    noisy = image + np.float32(255 * std) * noise
    return np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)


def parse(text: str) -> tuple[str, int]:
    """Reads a perturbation as people write it: `noise:2`, or `none`.

    Args:
      text: `none` or `NAME:SEVERITY`.

    Returns:
      (name, severity), which `perturb` takes; severity is 0 with `none`.

    Raises:
      ValueError: if there is no such perturbation.
    """
    name, _, severity = text.partition(":")
    if name in SEVERITIES and not severity:
        raise ValueError(
            f"perturbation {text!r} has no severity; write {name}:1, {name}:2 or "
            f"{name}:3"
        )
    _check(name, int(severity) if severity.isdecimal() else severity or 0)
    return name, int(severity or 0)


def label(name: str, severity: int) -> str:
    """The name of a perturbation in results, which `parse` reads back: `noise:2`.

    Args:
      name: one of `NAMES`.
      severity: 1, 2 or 3; 0 with `none`.

    Returns:
      `none` or `NAME:SEVERITY`.

    Raises:
      ValueError: if there is no such perturbation.
    """
    _check(name, severity)
    return name if name == "none" else f"{name}:{severity}"


def _check(name: str, severity: int) -> None:
    if name not in NAMES:
        near = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown perturbation {name!r}; allowed: {', '.join(NAMES)}{hint}"
        )
    allowed = (0,) if name == "none" else (1, 2, 3)
    if severity not in allowed:
        raise ValueError(
            f"severity {severity!r} of perturbation {name!r}; allowed: "
            f"{', '.join(map(str, allowed))}"
        )


def _generator(key: str, name: str, severity: int, seed: int) -> np.random.Generator:
    # JSON-like quoting by repr keeps the parts apart: no two choices share a text.
    text = repr((str(key), name, int(severity), int(seed)))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Returns an image as a JPEG file: Pillow's encoder, chroma subsampled 4:2:0.

    Args:
      image: uint8 [H, W, 3].
      quality: 1..100, on libjpeg's scale.

    Raises:
      ImageError: if a side is longer than the format allows.
    """
    height, width = image.shape[:2]
    if max(height, width) > _JPEG_LONGEST:
        raise ImageError(
            f"image of {width} x {height} pixels cannot be a JPEG; at most "
            f"{_JPEG_LONGEST:,} a side allowed"
        )
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()
