"""Views: from an upright image to the uint8 squares that go into the image tower.

Pillow and NumPy only, so that PyTorch programs see exactly the same pixels.

    image = read_image(root, key)                    # uint8 [H, W, 3], upright
    view = global_view(image, 224)                   # uint8 [224, 224, 3]
    part = object_view(image, (0.1, 0.2, 0.5, 0.9), 224)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from item_jax.choices import check
from item_jax.images import MAX_PIXELS, check_image


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Cuts out the middle without resizing: the `item` geometry.

    ITEM, section IV-A: "center-cropped into 224x224", the protocol of UniFD. A side
    shorter than `size` is padded with zeros on both ends, the odd pixel at the far end.
    Bit-equal to `torchvision.transforms.functional.center_crop` on a PIL image.

    Args:
      image: uint8 [H, W, 3].
      size: side of the view in pixels.

    Returns:
      uint8 [size, size, 3].
    """
    height, width = check_image(image)
    view = np.zeros((size, size, 3), np.uint8)
    (to_y, from_y), (to_x, from_x) = _middle(height, size), _middle(width, size)
    view[to_y, to_x] = image[from_y, from_x]
    return view


def _middle(length: int, size: int) -> tuple[slice, slice]:
    """Where the middle of an axis of `length` goes in a view, and where it is from."""
    if length < size:
        start = (size - length) // 2
        return slice(start, start + length), slice(0, length)
    start = round((length - size) / 2)  # to the even number at .5, as torchvision
    return slice(0, size), slice(start, start + size)


def resize_short(
    image: np.ndarray, size: int, *, resample: int = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Resizes the short side to `size`, the long side rounded down.

    Pixel for pixel what torchvision's `Resize(size)` and transformers' Pillow image
    processor of CLIP do. Only for a picture so oblong that the resized one would exceed
    `MAX_PIXELS` (about 1800:1 at 224) are the ends cut off before, see `ends_off`; a
    middle square is then right within a pixel.

    Args:
      image: uint8 [H, W, 3].
      size: of the short side in pixels.
      resample: a filter of Pillow.

    Returns:
      uint8 [H', W', 3], the shorter of H' and W' is `size`.
    """
    image = ends_off(image, size)
    height, width = check_image(image)
    short = min(height, width)
    resized = Image.fromarray(image).resize(
        (int(size * width / short), int(size * height / short)), resample
    )
    return np.asarray(resized)


def ends_off(image: np.ndarray, size: int) -> np.ndarray:
    """Cuts off what no middle square shows, if the image is too oblong to be resized.

    Args:
      image: uint8 [H, W, 3].
      size: the short side after resizing.

    Returns:
      The image; or, where it would exceed `MAX_PIXELS`, its middle, about 8:1.
    """
    height, width = check_image(image)
    short, long = min(height, width), max(height, width)
    if size * int(size * long / short) <= MAX_PIXELS or long <= 9 * short:
        return image
    # Of the parity of the long side, so that the middle stays where it is.
    keep = 8 * short + (long - 8 * short) % 2
    start = (long - keep) // 2
    part = slice(start, start + keep)
    return image[part] if height > width else image[:, part]


def resize_center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes the short side to `size`, then cuts out the middle: the `clip` geometry.

    Bicubic in Pillow, see `resize_short`; pixel for pixel what transformers' Pillow
    image processor of CLIP does. (torchvision's `CenterCrop`, which is `center_crop`
    here, rounds an odd rest to the even number, this one down.) Same arguments and
    result as `center_crop`.
    """
    resized = resize_short(image, size)
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size].copy()


def squash(
    image: np.ndarray, size: int, *, resample: int = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Resizes both sides to `size`, whatever the shape: the `squash` geometry.

    What SigLIP, DFN and CLIPA were trained on; pixel for pixel what transformers'
    Pillow image processor of SigLIP does. `squash_bilinear` is the same with another
    filter, which SigLIP 2 and CLIPA have.

    Args:
      image: uint8 [H, W, 3].
      size: side of the view in pixels.
      resample: a filter of Pillow.

    Returns:
      uint8 [size, size, 3].
    """
    check_image(image)
    return np.array(Image.fromarray(image).resize((size, size), resample))


def letterbox(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes the long side to `size` (bicubic) and centres the whole on black.

    Same arguments and result as `center_crop`. The black is added after resizing
    so that it does not bleed into the object, nor a sliver grow into a huge square.
    """
    height, width = check_image(image)
    long = max(height, width)
    scaled = (max(1, round(size * width / long)), max(1, round(size * height / long)))
    resized = Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC)
    return center_crop(np.asarray(resized), size)


GEOMETRIES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "item": center_crop,
    "clip": resize_center_crop,
    "squash": squash,
    "squash_bilinear": functools.partial(squash, resample=Image.Resampling.BILINEAR),
}
"""How the whole image becomes a view; `item` is the paper's."""

CROPS = {"cover": resize_center_crop, "pad": letterbox}
"""How the crop of an object becomes a view; the paper does not say."""


def global_view(image: np.ndarray, size: int, *, geometry: str = "item") -> np.ndarray:
    """The view of the whole image.

    Args:
      image: uint8 [H, W, 3].
      size: side of the view in pixels, the tower's `image_size`.
      geometry: a name of `GEOMETRIES`.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: if `geometry` is not a name of `GEOMETRIES`.
    """
    return GEOMETRIES[check("geometry", geometry, GEOMETRIES)](image, size)


def object_view(
    image: np.ndarray,
    box: Sequence[float],
    size: int,
    *,
    crop: str = "cover",
    min_pixels: int = 8,
) -> np.ndarray | None:
    """The view of one object, cut from the original image.

    Args:
      image: uint8 [H, W, 3], the whole image, before any crop.
      box: `(x1, y1, x2, y2)` as fractions of width and height, origin top left.
      size: side of the view in pixels.
      crop: a name of `CROPS`: `cover` (short side to `size`, middle) or `pad` (all of
        the box, on black).
      min_pixels: least width and height of the box in pixels of `image`. Not in the
        paper: below 8 pixels there is nothing to see but the enlargement.

    Returns:
      uint8 [size, size, 3], or None if the box is narrower or lower than `min_pixels`.

    Raises:
      ValueError: if `crop` is not a name of `CROPS` or `box` is not four finite
        numbers in order.
    """
    height, width = check_image(image)
    into_view = CROPS[check("crop", crop, CROPS)]
    left, top, right, bottom = box_pixels(box, width, height)
    if min(right - left, bottom - top) < max(min_pixels, 1):
        return None
    return into_view(image[top:bottom, left:right], size)


def box_pixels(
    box: Sequence[float], width: int, height: int
) -> tuple[int, int, int, int]:
    """The pixels that a box touches, clipped to the image.

    A pixel touched by less than a thousandth of its width does not count: boxes come
    as float32, whose rounding error reaches that at some ten thousand pixels, and 0.3 x
    10 is 3.0000000000000004 even in float64.

    Args:
      box: `(x1, y1, x2, y2)` as fractions of width and height, x1 <= x2 and y1 <= y2.
      width: of the image in pixels.
      height: of the image in pixels.

    Returns:
      (left, top, right, bottom), the right column and the bottom row excluded;
      left == right if the box is beside the image, and top == bottom likewise.

    Raises:
      ValueError: if `box` is not four finite numbers in that order.
    """
    values = np.asarray(box, np.float64)
    ordered = values.shape == (4,) and (values[:2] <= values[2:]).all()
    if not (ordered and np.isfinite(values).all()):
        raise ValueError(
            f"box {box!r} is not four finite numbers (x1, y1, x2, y2) with x1 <= x2 "
            "and y1 <= y2"
        )
    size = np.array([width, height])
    low = np.clip(np.floor(values[:2] * size + 1e-3), 0, size)
    high = np.clip(np.ceil(values[2:] * size - 1e-3), low, size)
    left, top, right, bottom = (int(v) for v in (*low, *high))
    return left, top, right, bottom
