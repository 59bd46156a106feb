"""Makes the headers of all images equal: one size, one JPEG quality.

In most benchmarks the real images are JPEGs of many sizes and the fakes PNGs of one;
`item-jax audit` shows how well a detector would do with that alone. Re-encoding all of
them the same way removes the difference from the files, though not every trace of it
from the pixels: a picture that was a JPEG before is then compressed twice.
"""

from __future__ import annotations

import numpy as np

from item_jax.images import decode
from item_jax.perturb import encode_jpeg
from item_jax.views import resize_center_crop

Box = tuple[float, float, float, float]


def check(*, quality: int, size: int) -> None:
    """Makes sure that `config.neutralise` can be done.

    Raises:
      ValueError: when it cannot, with what is allowed.
    """
    if not 0 <= quality <= 100:
        raise ValueError(
            f"neutralise.quality is {quality}; allowed: 1 to 100, or 0 for none"
        )
    if not 0 <= size <= 8192:
        raise ValueError(
            f"neutralise.size is {size} pixels; allowed: 1 to 8192, or 0 for none"
        )


def neutralise(image: np.ndarray, *, quality: int = 0, size: int = 0) -> np.ndarray:
    """Brings an image to the common size, then through JPEG.

    Args:
      image: uint8 [H, W, 3], upright.
      quality: of the JPEG (4:2:0), 1..100; 0 for none. DDA (arXiv 2505.14359) takes 96.
      size: side in pixels of the square: the short side is resized (bicubic) and the
        middle cut out; 0 keeps the image as it is. Its shape is not squeezed, since
        only some images would be, and that would tell them apart again.

    Returns:
      uint8 [H', W', 3].
    """
    if size:
        image = resize_center_crop(image, size)
    if quality:
        data = encode_jpeg(image, quality)
        image = decode(data, max_pixels=image.shape[0] * image.shape[1])
    return image


def middle_box(box: Box, height: int, width: int) -> Box | None:
    """Where a box of an image is in the image's middle square.

    Args:
      box: `(x1, y1, x2, y2)` as fractions of width and height.
      height: of the image, pixels.
      width: of the image, pixels.

    Returns:
      The box in fractions of the square, what is outside cut off; None when nothing is
      left.
    """
    side = min(height, width)
    scale = np.array([width, height, width, height]) / side
    shift = (scale - 1) / 2
    x1, y1, x2, y2 = np.clip(np.array(box) * scale - shift, 0, 1).tolist()
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
