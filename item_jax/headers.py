"""What the header of an image file says about how the file was made."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, JpegImagePlugin

from item_jax import containers, images
from item_jax.perturb import encode_jpeg


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of an image file.

    Attributes:
      format: one of `item_jax.images.FORMATS`.
      mode: Pillow's: RGB, L, P, RGBA, ...
      width, height: pixels, as stored.
      quality: of a JPEG, 1..100 on libjpeg's scale; the nearest when its table is
        another program's; 0 for other formats.
      subsampling: of the chroma of a JPEG: 0 is 4:4:4, 1 4:2:2, 2 4:2:0; else -1.
      progressive: whether the JPEG is.
      exif, icc: whether there is an EXIF block, a colour profile.
      damaged: why metadata could not be read; "" if they could. `exif` and `icc` are
        then of what is left.
      bytes: of the file.
      sha256: of the file.
    """

    format: str
    mode: str
    width: int
    height: int
    quality: int
    subsampling: int
    progressive: bool
    exif: bool
    icc: bool
    damaged: str
    bytes: int
    sha256: str


def header(data: bytes, *, max_pixels: int = images.MAX_PIXELS) -> Header:
    """Reads the header of an image file.

    Raises:
      ImageError: if it is not an image of `item_jax.images.FORMATS`, or too large.
    """
    return images.parse(data, functools.partial(_header, data), max_pixels=max_pixels)


def _header(data: bytes, name: str, image: Image.Image) -> Header:
    tables = getattr(image, "quantization", None) if name == "JPEG" else None
    return Header(
        format=name,
        mode=image.mode,
        width=image.width,
        height=image.height,
        quality=_quality(tables[0]) if tables else 0,
        subsampling=JpegImagePlugin.get_sampling(image) if tables else -1,
        progressive=bool(image.info.get("progressive")),
        exif=bool(image.info.get("exif")) or (name == "PNG" and b"eXIf" in data[:4096]),
        icc=bool(image.info.get("icc_profile")),
        damaged=image.info.get(images.DAMAGED)
        or (containers.png_damage(data) if name == "PNG" else ""),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _quality(table: Sequence[int]) -> int:
    """The quality whose luminance table is nearest, by the sum of differences."""
    return int(np.abs(_tables() - np.array(table)).sum(1).argmin()) + 1


@functools.cache
def _tables() -> np.ndarray:
    """libjpeg's luminance tables of qualities 1 to 100, as Pillow gives them back."""
    grey = np.zeros((8, 8, 3), np.uint8)
    tables = []
    for quality in range(1, 101):
        file = io.BytesIO(encode_jpeg(grey, quality))
        with JpegImagePlugin.JpegImageFile(file) as image:
            tables.append(image.quantization[0])
    return np.array(tables)
