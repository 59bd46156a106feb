"""Perturbations of ITEM's robustness test (Fig. 4): noise, blur and JPEG.

They act on the full upright image, before any crop; see `item_jax.images`. Pillow,
NumPy and SciPy only, so that PyTorch programs perturb exactly the same way.

    name, severity = parse("noise:2")
    image = perturb(image, name, severity, key="real/cat.png")

One from outside is a function `f(image, severity, generator)` of an importable module,
named `package.module:f`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import correlate1d

from item_jax import choices
from item_jax.images import ImageError, check_image, decode

# Y'CbCr -> R'G'B' of ITU-R BT.601 with 16..235 for Y' and 16..240 for Cb and Cr: what
# noise added in the first does to the second (DeeperForensics-1.0, distortions.py).
_YCBCR_TO_RGB = (
    np.array([[1, 0, 1.403], [1, -0.344, -0.714], [1, 1.773, 0]], np.float32)
    * np.array([255 / 219, 255 / 224, 255 / 224], np.float32)
)  # fmt: skip

_STRIP_PIXELS = 2**20  # noise is drawn for so many pixels at a time

_JPEG_LONGEST = 65_500  # pixels a side; JPEG_MAX_DIMENSION of libjpeg


# ------------------------------------------------------------------------------ table


def _noise(
    image: np.ndarray, variance: float, generator: np.random.Generator
) -> np.ndarray:
    return _add_noise(image, math.sqrt(variance), generator)


def _noise_ycbcr(
    image: np.ndarray, variance: float, generator: np.random.Generator
) -> np.ndarray:
    return _add_noise(image, math.sqrt(variance), generator, mix=_YCBCR_TO_RGB.T)


def _blur(
    image: np.ndarray, sigma: float, generator: np.random.Generator
) -> np.ndarray:
    # As `scipy.ndimage.gaussian_filter` with `truncate=4.0`, but for its weights: it
    # takes numpy's exp, whose last bit depends on the CPU and moves 2 in 10,000 values.
    radius = int(4.0 * sigma + 0.5)
    around = range(-radius, radius + 1)
    weights = np.array([math.exp(-0.5 / sigma**2 * i**2) for i in around])
    for axis in (0, 1):
        image = correlate1d(image, weights / weights.sum(), axis)
    return image


def _jpeg(
    image: np.ndarray, quality: float, generator: np.random.Generator
) -> np.ndarray:
    height, width = image.shape[:2]
    data = encode_jpeg(image, int(quality))
    return decode(data, max_pixels=height * width)


def _add_noise(
    image: np.ndarray,
    std: float,
    generator: np.random.Generator,
    mix: np.ndarray | None = None,
) -> np.ndarray:
    """Adds Gaussian noise of a standard deviation in fractions of 255.

    In strips of rows: the draws come in the same order as for the whole image, and
    memory stays a fraction of the 60 bytes a pixel that would take.

    Args:
      image: uint8 [H, W, 3].
      std: of each channel, before `mix`.
      generator: of the draws.
      mix: float32 [3, 3], applied to the noise of each pixel, a row vector.
    """
    height, width = image.shape[:2]
    noisy = np.empty_like(image)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image[top : top + rows]
        noise = generator.standard_normal(strip.shape, np.float32)
        if mix is not None:
            noise = noise @ mix
        values = strip + np.float32(255 * std) * noise
        noisy[top : top + rows] = np.rint(np.clip(values, 0, 255)).astype(np.uint8)
    return noisy


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """A perturbation of the table.

    Attributes:
      values: of severities 1, 2 and 3.
      apply: takes the image, uint8 [H, W, 3], one of `values` and a generator of its
        random numbers; returns a new uint8 [H, W, 3].
    """

    values: tuple[float, float, float]
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


PERTURBATIONS: dict[str, Perturbation] = {
    # Variance of Gaussian noise on RGB in [0, 1]. ITEM calls the value sigma; three of
    # the five levels of DeeperForensics-1.0 have these values, and there, as in MATLAB
    # and scikit-image, they are variances. Standard deviations 0.032, 0.071, 0.1.
    "noise": Perturbation((0.001, 0.005, 0.01), _noise),
    # The same variances in Y'CbCr of ITU-R BT.601, as in DeeperForensics-1.0.
    "noise-ycbcr": Perturbation((0.001, 0.005, 0.01), _noise_ycbcr),
    # The same values as standard deviations, which is ITEM's wording: 0.26 to 2.6
    # grey levels of 255.
    "noise-std": Perturbation((0.001, 0.005, 0.01), _add_noise),
    # Sigma in pixels. ITEM; scipy's filter on uint8 as in CNNDetection and UniFD.
    "blur": Perturbation((1, 2, 3), _blur),
    # Quality of Pillow's encoder, chroma subsampled 4:2:0. ITEM.
    "jpeg": Perturbation((75, 50, 25), _jpeg),
}

SEVERITIES = {name: known.values for name, known in PERTURBATIONS.items()}
"""The values of severities 1, 2 and 3 of every perturbation."""

NAMES = ("none", *PERTURBATIONS)


# -------------------------------------------------------------------------- perturbing


def perturb(
    image: np.ndarray, name: str, severity: int, *, key: str = ""
) -> np.ndarray:
    """Perturbs an image.

    The noise of an image depends on `key`, `name` and `severity` alone: not on the
    order of the images, nor on how many processes share them. Blur and JPEG have no
    randomness. `none` returns `image` itself; it is never changed in place.

    Args:
      image: uint8 [H, W, 3], the full image, upright.
      name: one of `NAMES`, or `package.module:f` of a function
        `f(image, severity, generator)` that returns a uint8 [H, W, 3]; `generator` is
        a `numpy.random.Generator`.
      severity: 1, 2 or 3, the place in `SEVERITIES`; 0 with `none`.
      key: what distinguishes this image from the others: its key in the records.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: if `name` or `severity` does not exist, `image` is not an image, or a
        function from outside fails or returns something else, naming it.
      ImageError: with `jpeg`, if a side is longer than the format allows.
    """
    found = _find(name, severity)
    check_image(image)
    if found is None:
        return image
    generator = _generator(key, name, severity)
    if isinstance(found, Perturbation):
        return found.apply(image, found.values[severity - 1], generator)
    return _apply_outside(found, name, image, severity, generator, key)


def _apply_outside(
    function: Callable,
    name: str,
    image: np.ndarray,
    severity: int,
    generator: np.random.Generator,
    key: str,
) -> np.ndarray:
    """Applies somebody else's function to a copy and checks what it returns."""
    try:
        after = function(image.copy(), int(severity), generator)
    except Exception as e:  # whatever somebody's own function may raise
        raise ValueError(
            f"perturbation {name!r} failed on {key!r}: {type(e).__name__}: {e}"
        ) from e
    shape, dtype = np.shape(after), getattr(after, "dtype", type(after).__name__)
    if dtype != np.uint8 or shape != image.shape:
        raise ValueError(
            f"perturbation {name!r} returned {dtype} {list(shape)} for {key!r}; "
            f"expected uint8 {list(image.shape)}"
        )
    return after


def _generator(key: str, name: str, severity: int) -> np.random.Generator:
    # JSON-like quoting by repr keeps the parts apart: no two choices share a text. The
    # 0 was once a seed; without it every noise would be another.
    text = repr((str(key), name, int(severity), 0))
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


# ------------------------------------------------------------------------------ names


def parse(text: str) -> tuple[str, int]:
    """Reads a perturbation as people write it: `noise:2`, or `none`.

    Args:
      text: `none` or `NAME:SEVERITY`; the severity is what follows the last colon.

    Returns:
      (name, severity), which `perturb` takes; severity is 0 with `none`.

    Raises:
      ValueError: if there is no such perturbation.
    """
    name, colon, severity = text.rpartition(":")
    if not colon:
        name, severity = text, ""
    elif not severity.isdecimal() and ":" not in name and "." in name:
        name, severity = text, ""  # package.module:f
    if not severity and (name in PERTURBATIONS or "." in name):
        raise ValueError(
            f"perturbation {text!r} has no severity; write {name}:1, {name}:2 or "
            f"{name}:3"
        )
    number = int(severity) if severity.isdecimal() else severity or 0
    _find(name, number)
    return name, int(number)


def label(name: str, severity: int) -> str:
    """The name of a perturbation in results, which `parse` reads back: `noise:2`.

    Args:
      name: one of `NAMES`, or `package.module:f`.
      severity: 1, 2 or 3; 0 with `none`.

    Returns:
      `none` or `NAME:SEVERITY`.

    Raises:
      ValueError: if there is no such perturbation.
    """
    return name if _find(name, severity) is None else f"{name}:{severity}"


def _find(name: str, severity: int | str) -> Perturbation | Callable | None:
    """Returns what `name` refers to; None for `none`.

    Raises:
      ValueError: for an unknown name, or a severity that does not exist.
    """
    if not isinstance(name, str):
        raise ValueError(
            f"a perturbation is given by its name, not {name!r}; "
            f"{choices.nearest(name, NAMES)}"
        )
    found = choices.resolve(
        "perturbation", name, {"none": None} | PERTURBATIONS, attribute="perturb"
    )
    if not (found is None or isinstance(found, Perturbation) or callable(found)):
        raise ValueError(f"perturbation {name!r} is not a function but {found!r}")
    allowed = (0,) if name == "none" else (1, 2, 3)
    if severity not in allowed:
        raise ValueError(
            f"severity {severity!r} of perturbation {name!r}; allowed: "
            f"{', '.join(map(str, allowed))}"
        )
    return found


# ------------------------------------------------------------------------------- JPEG


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
