"""The camera of the miniature world: photographs, files and views of images."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageFilter

SIDE = 64  # pixels, both of an image and of a view
PASSED_BLUR, PASSED_NOISE = (0.3, 1.4), (0.02, 0.075)  # sigma in pixels, in [0, 1]
CAMERA_QUALITY, FILE_QUALITY = 88, 80  # JPEG: of the camera, of the files shipped


def photograph(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes a picture of a rendering: uint8 [64, 64, 3] in and out.

    Real and generated scenes pass through the same camera, so that neither sensor noise
    nor lens blur nor file format distinguishes them. Lens, sensor and what happens to
    the picture later differ from picture to picture, so that a spectrum says little
    about who drew it.
    """
    image = clean.astype(np.float32) / 255
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    image = image * rng.uniform(0.82, 1.12) * rng.normal(1, 0.02, 3)
    image = image * (1 - rng.uniform(0, 0.18) * (x**2 + y**2)[..., None] / 2)
    image = blur(image, rng.uniform(0.3, 1.0))
    image = image + rng.normal(0, rng.uniform(0.005, 0.035), image.shape)
    return _pass_on(to_jpeg(to_uint8(image), CAMERA_QUALITY), rng)


def _pass_on(file: bytes, rng: np.random.Generator) -> np.ndarray:
    """What a saved picture is after it was scaled or filmed on its way: uint8.

    It keeps what a picture shows and hides much of the spectrum that a generator
    leaves.
    """
    saved = np.asarray(Image.open(io.BytesIO(file)), np.float32) / 255
    blurred = blur(saved, rng.uniform(*PASSED_BLUR))
    noise = rng.normal(0, rng.uniform(*PASSED_NOISE), saved.shape)
    return to_uint8(blurred + noise)


def to_jpeg(image: np.ndarray, quality: int = FILE_QUALITY) -> bytes:
    """Encodes every image of the world: uint8 [64, 64, 3] -> JPEG bytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def to_uint8(image: np.ndarray) -> np.ndarray:
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def object_view(image: np.ndarray, box: tuple[float, ...]) -> np.ndarray:
    """Crops a box (in [0, 1]) as CLIP's preprocessing would: uint8 [64, 64, 3].

    Whole pixels that touch the box; short side to 64, bicubic; centre crop.
    """
    x1, y1, x2, y2 = np.asarray(box) * SIDE
    corners = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)
    crop = Image.fromarray(image).crop(corners)
    scale = SIDE / min(crop.size)
    width, height = (max(SIDE, int(n * scale)) for n in crop.size)
    crop = crop.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    return np.asarray(crop.crop((left, top, left + SIDE, top + SIDE)))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of a float image, [64, 64] or [64, 64, C]."""
    planes = image[..., None] if image.ndim == 2 else image
    blur = ImageFilter.GaussianBlur(sigma)
    # Pillow blurs only 8-bit planes; the noise of the camera covers the rounding.
    low, high = float(planes.min()), float(planes.max()) + 1e-6
    scaled = np.round((planes - low) / (high - low) * 255).astype(np.uint8)
    done = [
        np.asarray(Image.fromarray(scaled[..., i]).filter(blur), np.float32)
        for i in range(planes.shape[-1])
    ]
    return (np.stack(done, -1) / 255 * (high - low) + low).reshape(image.shape)
