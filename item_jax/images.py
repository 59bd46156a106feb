"""Images: from the bytes of a file to upright RGB, uint8.

Pillow and NumPy only, so that PyTorch programs see exactly the same pixels.

    image = read_image(root, key)                    # uint8 [H, W, 3], upright

Image files are hostile input. The format must be one of `FORMATS`, the size is checked
from the header before a pixel is decoded, truncated data are refused, and whatever goes
wrong with a picture is an `ImageError`. No picture is ever repaired or substituted.
Where only metadata are damaged (text, profile, EXIF), the pixels are read without them.
Threads that decode share `item_jax.budget.IN_FLIGHT`, so that memory has a bound.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from PIL import Image

from item_jax import containers, signatures

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""The formats that are read; JPEG covers MPO, the two-picture JPEG of some cameras."""

MAX_PIXELS = 1024**3 // 4 // 3
"""Most pixels (width x height) decoded by default: 89,478,485.

It is Pillow's own `Image.MAX_IMAGE_PIXELS`, where it begins to warn of decompression
bombs: a quarter of a GiB of 24-bit pixels. Cameras of up to 89 megapixels pass.
"""

MAX_BYTES = 8 * MAX_PIXELS
"""Largest file read: 8 bytes a pixel, as of 16-bit RGBA, the largest form there is."""

MAX_SCANS = 500
"""Most scans of a JPEG; a progressive one has about ten. Each costs a pass over the
whole picture: a file of 1.6 MB with 10,000 scans takes 49 seconds to decode. libjpeg
has the same number for its own fuzzing (`-maxscans` of djpeg)."""

DAMAGED = "item_jax: damaged metadata"
"""The key in `Image.info` of a picture that was read without its metadata: why."""

T = TypeVar("T")


class ImageError(ValueError):
    """A picture cannot be used; the message says what was found and what is allowed."""


# --------------------------------------------------------------------------- reading


def read_image(
    root: str | os.PathLike, key: str, *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Reads and decodes the image file `root/key`.

    Symbolic links are followed, since data sets are often trees of links. A name that
    the file system stores decomposed (NFD, as macOS does) is found by its NFC key.

    Args:
      root: the folder of the images.
      key: POSIX path of the file relative to `root`.
      max_pixels: most pixels (width x height) allowed.

    Returns:
      uint8 [H, W, 3], RGB, upright; see `decode`.

    Raises:
      ImageError: if `key` leaves `root`, is not a readable regular file, or its
        content is not a usable picture. The message begins with the key.
    """
    try:
        return decode(read_bytes(root, key), max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"{key!r}: {error}") from error


def read_bytes(root: str | os.PathLike, key: str) -> bytes:
    """Reads the file `root/key` as `read_image` does, without decoding it.

    Raises:
      ImageError: if `key` leaves `root`, is not a readable regular file, is larger than
        `MAX_BYTES`, or changes its size while it is read.
    """
    if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
        raise ImageError("the key must be a path relative to the root, without '..'")
    path = file_of(root, key)
    try:
        # Asked twice: opening a device can do something, so it is not opened; and what
        # was opened may no longer be what was asked about.
        if not _check_regular(path.stat()):
            return b""
        with open(path, "rb", opener=_open_at_once) as file:
            size = _check_regular(os.fstat(file.fileno()))
            data = file.read(size + 1) or b"" if size else b""
        if len(data) != size:
            change = "grew" if len(data) > size else "shrank"
            raise ImageError(
                f"the file {change} while it was read ({size:,} bytes at first)"
            )
        return data
    except FileNotFoundError as error:
        what = "a link to nothing" if path.is_symlink() else "no such file"
        raise ImageError(f"{what} under {os.fspath(root)!r}") from error
    except OSError as error:
        raise ImageError(
            f"the file cannot be read: {type(error).__name__}: {error.strerror}"
        ) from error
    except ImageError:
        raise
    except ValueError as error:  # a NUL or a lone surrogate in the key
        raise ImageError(f"the key is not a file name: {error}") from error


def file_of(root: str | os.PathLike, key: str) -> Path:
    """Returns the file of a key, whose name may be in decomposed Unicode."""
    path = Path(root, key)
    if not os.path.lexists(path):
        decomposed = Path(root, unicodedata.normalize("NFD", key))
        path = decomposed if os.path.lexists(decomposed) else path
    return path


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting, as for the writer of a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(status: os.stat_result) -> int:
    """Returns the size of a file that can be read as an image.

    Files that the kernel generates, such as /proc/kmsg, have size 0 too. They must not
    be read: that may never return.
    """
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device or socket")
        raise ImageError(f"{kind}, not a regular file")
    if status.st_size > MAX_BYTES:
        raise ImageError(
            f"the file has {status.st_size:,} bytes; at most {MAX_BYTES:,} allowed"
        )
    return status.st_size


# -------------------------------------------------------------------------- decoding


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes the bytes of an image file.

    Of a file with several pictures (animation, MPO, multi-page TIFF) the first is
    taken. EXIF orientation is applied; an EXIF block that cannot be read, or holds a
    value outside 1..8, counts as none. Other metadata that Pillow refuses are left out:
    a PNG's text of more than 1 MiB, a wrong checksum of a chunk without pixels, half an
    EXIF chunk of a WebP, a tag beyond the end of a TIFF. What a decoder needs for the
    pixels must be whole. Colours become RGB as `Image.convert("RGB")` makes them, which
    is what CLIP's and UniFD's loaders do: alpha and transparency are dropped (not
    blended with white, as newer releases of transformers do), palettes looked up, CMYK
    and YCbCr converted, and an embedded colour profile is not applied. Grey of more
    than 8 bits, which that call clips to white, is scaled instead:

    * 16 bits (mode `I;16`): the high byte, as Pillow reads 16-bit colour; of a TIFF of
      12 bits the upper eight;
    * 32-bit integers (`I`): values up to 255 as they are, up to 65535 the high byte;
    * floats (`F`): values up to 1 times 255, up to 255 as they are, both rounded.

    Pillow's notices about damaged metadata (`UserWarning` raised in `PIL`, and its
    loggers, unless somebody has set their level) are silenced from the first call on:
    filters and loggers belong to the whole process, and changing them around each call
    would not be safe with several decoding threads.

    Args:
      data: the content of the file.
      max_pixels: most pixels (width x height) allowed, checked before decoding.

    Returns:
      uint8 [H, W, 3], RGB, top row first, writable.

    Raises:
      ImageError: if the data are empty, of another format, too large, damaged or
        truncated, have more than `MAX_SCANS` scans, or hold grey values outside the
        ranges above.
    """
    return parse(data, _pixels, max_pixels=max_pixels)


def count_pixels(data: bytes, *, max_pixels: int = MAX_PIXELS) -> int:
    """Returns width x height of an image file by its header.

    Raises:
      ImageError: as `decode`, as far as the header tells.
    """
    if size := signatures.webp_size(data):
        _check_size("WEBP", size, max_pixels)
        return size[0] * size[1]
    return parse(
        data, lambda name, image: image.width * image.height, max_pixels=max_pixels
    )


def _pixels(name: str, image: Image.Image) -> np.ndarray:
    image.load()
    # Read after loading: the TIFF reader turns the picture itself, and a PNG may carry
    # its EXIF behind the pixels.
    turn = _UPRIGHT.get(_orientation(image), lambda a: a)
    return np.ascontiguousarray(turn(_rgb(image)))


def parse(
    data: bytes,
    use: Callable[[str, Image.Image], T],
    *,
    max_pixels: int = MAX_PIXELS,
) -> T:
    """Opens the bytes of an image file and hands the unloaded picture to a function.

    Args:
      data: the content of the file.
      use: takes the format, one of `FORMATS`, and the picture with its header read.
        It is called again, on the file without its metadata, when Pillow fails; then
        `info[DAMAGED]` of the picture says how.
      max_pixels: most pixels (width x height) allowed, by the header.

    Returns:
      What `use` returns.

    Raises:
      ImageError: as `decode`; whatever Pillow raises, in `use` too, becomes one.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    _set_up_pillow()
    name, opener = _format(data)
    errors: list[Exception] = []
    for version in containers.versions(name, data):
        if name == "JPEG" and signatures.has_more_scans(version, MAX_SCANS):
            raise ImageError(
                f"JPEG picture of more than {MAX_SCANS} scans, which would take "
                "minutes to decode"
            )
        if size := signatures.webp_size(version):
            _check_size(name, size, max_pixels)
        # The one place where Pillow's exceptions are caught. On hostile files it raises
        # at least nine classes, OSError, SyntaxError, struct.error and MemoryError
        # among them, so every Exception counts.
        try:
            # Called directly and not through Image.open, which drops the reason of a
            # SyntaxError and checks the size against a limit of its own.
            image = opener(io.BytesIO(version), "")
            _check_size(name, image.size, max_pixels)
            if errors:
                image.info[DAMAGED] = _reason(errors[0])
            elif version is not data:
                image.info[DAMAGED] = "a tag lies beyond the end of the file"
            return use(name, image)
        except ImageError:
            raise
        except Exception as error:
            errors.append(error)
    # The last one is of the pixels, or what they need.
    raise ImageError(
        f"damaged or unsupported {name} picture ({len(data):,} bytes): "
        f"{_reason(errors[-1])}"
    ) from errors[-1]


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


_PILLOW_NOTICES = ("ignore", None, UserWarning, re.compile(r"PIL\."), 0)


_BLOCK = 64 * 2**20  # bytes


def _set_up_pillow() -> None:
    """Sets what Pillow and Python keep per process; cheap when done before."""
    Image.init()
    # Pillow allocates pixels in blocks of 16 MB, which glibc keeps in the heap of each
    # thread: eight threads would hold 3 GB of large pictures that are long gone. Blocks
    # above 32 MB go back to the system at once. A smaller picture takes what it needs.
    if Image.core.get_block_size() < _BLOCK:
        Image.core.set_block_size(_BLOCK)
    if warnings.filters[:1] != [_PILLOW_NOTICES]:
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    logger = logging.getLogger("PIL")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{name} picture of {width} x {height} = {width * height:,} pixels; at "
            f"most {max_pixels:,} allowed"
        )


def _format(data: bytes) -> tuple[str, Callable[..., Image.Image]]:
    for name in FORMATS:
        opener, accepts = Image.OPEN[name]
        accepted = accepts is not None and accepts(data[:16])
        if isinstance(accepted, str):
            raise ImageError(f"{name} picture: {accepted}")
        if accepted:
            return name, opener
    raise ImageError(
        f"looks like {signatures.looks_like(data)}; allowed: {', '.join(FORMATS)}"
    )


_ORIENTATION = 0x0112  # the tag's number in EXIF 2.32 and TIFF 6.0

# EXIF orientation -> what makes the array [H, W, 3] upright.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block is not a broken picture
        return 1


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _eight_bits(np.asarray(image), image.mode, _sixteen_or_twelve(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    # convert() would copy what is RGB already.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


_BITS_PER_SAMPLE = 258  # the tag's number in TIFF 6.0


def _sixteen_or_twelve(image: Image.Image) -> int:
    """Bits of a grey value in mode I;16: TIFF has 12 too, which Pillow leaves as is."""
    tags = getattr(image, "tag_v2", None) or {}
    return 12 if tags.get(_BITS_PER_SAMPLE) == (12,) else 16


def _eight_bits(grey: np.ndarray, mode: str, bits: int) -> np.ndarray:
    low, high, most = grey.min(), grey.max(), 255 if mode == "F" else 65535
    if not (low >= 0 and high <= most):  # NaN fails too
        raise ImageError(
            f"grey values {low:g}..{high:g} (mode {mode}); allowed: 0..{most}"
        )
    if mode == "F":
        return np.rint(grey * 255 if high <= 1 else grey).astype(np.uint8)
    if mode == "I" and high <= 255:
        return grey.astype(np.uint8)
    return (grey >> (bits - 8)).astype(np.uint8)


def check_image(image: np.ndarray) -> tuple[int, int]:
    """Height and width of an image.

    Raises:
      ValueError: if `image` is not a uint8 array [H, W, 3] with H, W >= 1.
    """
    shape, dtype = np.shape(image), getattr(image, "dtype", type(image).__name__)
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(
            f"an image is a uint8 array [H, W, 3], not {dtype} {list(shape)}"
        )
    return shape[0], shape[1]
