"""Image files without their metadata, for files whose metadata are damaged.

Image generators write prompts and whole workflows into PNGs, and programs that copy
files leave half of an EXIF block or a wrong checksum behind. The pixels are whole then,
but Pillow refuses the file. These functions keep what a decoder needs for the pixels,
byte for byte; they decode, inflate and repair nothing.

Standard library only.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Literal


def versions(name: str, data: bytes) -> Iterator[bytes]:
    """Yields the file as it is, then with less metadata, then with none.

    The second one keeps what may say how the picture is turned (EXIF, XMP, the
    orientation of a TIFF), where it is whole. A TIFF with a tag beyond its end begins
    there: Pillow skips the tags behind such a one, and may misread the pixels.

    Args:
      name: the format, one of `item_jax.images.FORMATS`.
      data: the file.

    Yields:
      Files with the same pixels, all different. Only the first where there is nothing
      to leave out, or the file is not laid out as its format demands.
    """
    seen = [data]
    if name != "TIFF" or not _has_far_tag(data):
        yield data
    if name not in _READERS:
        return
    for turned in (True, False):
        found = _READERS[name](data, turned)
        if found is not None and found not in seen:
            seen.append(found)
            yield found


# ------------------------------------------------------------------------------- PNG

_TURNING_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_SMALL = 2**16  # bytes of compressed text, at most 64 MiB when inflated


def png_damage(data: bytes) -> str:
    """Says what is wrong with the chunks of a PNG without pixels, "" for nothing."""
    for kind, chunk, is_whole in _png_chunks(data):
        name = kind.decode("ascii", "backslashreplace")
        if kind == b"IEND":
            break
        if kind[0] & _ANCILLARY and not is_whole:
            return f"chunk {name} is cut off"
        if kind[0] & _ANCILLARY and not _is_sound(chunk):
            return f"chunk {name} has a wrong checksum"
    return ""


_ANCILLARY = 0x20  # a small first letter (ISO 15948, 5.4)


def _png(data: bytes, turned: bool) -> bytes | None:
    """Keeps the critical chunks."""
    kept, pixels = [data[:8]], False
    for kind, chunk, is_whole in _png_chunks(data):
        if not kind[0] & _ANCILLARY:
            kept.append(chunk)
            pixels |= kind == b"IDAT"
            if kind == b"IEND":
                break
        elif not is_whole:
            break  # or its length is wrong
        elif turned and _png_turns(kind, chunk[8:-4]) and _is_sound(chunk):
            kept.append(chunk)
    return b"".join(kept) if pixels else None


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yields the kind of each chunk, the chunk, and whether it is there to its end."""
    position = 8
    while position + 8 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], data[position:end], end <= len(data)
        position = end


def _is_sound(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]


def _png_turns(kind: bytes, body: bytes) -> bool:
    text = kind in (b"tEXt", b"zTXt", b"iTXt") and len(body) <= _SMALL
    return kind == b"eXIf" or (text and body.startswith(_TURNING_TEXTS))


# ------------------------------------------------------------------------------ JPEG

# Shorter ones libjpeg takes for no JFIF and no Adobe header (jdmarker.c:
# APP0_DATA_LEN, APP14_DATA_LEN). Both decide on the colours.
_LEAST = {0xE0: 14, 0xEE: 12}


def _jpeg(data: bytes, turned: bool) -> bytes | None:
    """Drops the APPn and comment segments before the first scan."""
    kept, position = [data[:2]], 2
    while (start := data.find(b"\xff", position)) >= 0:
        while data[start + 1 : start + 2] == b"\xff":  # fill bytes
            start += 1
        marker = data[start + 1] if start + 1 < len(data) else 0xD9
        if marker == 0xDA:
            return b"".join([*kept, data[start:]])
        if marker == 0xD9:
            break
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position = start + 2
            continue
        length = max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
        position = start + 2 + length
        if 0xE0 <= marker <= 0xEF or marker == 0xFE:
            least = _LEAST.get(marker, 0 if marker == 0xE1 and turned else 2**16)
            if length - 2 < least:
                continue
        kept.append(data[start:position])
    return None


# ------------------------------------------------------------------------------ WebP

_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_WEBP_TURNING = {b"EXIF": 0x08, b"XMP ": 0x04}  # with their bits in VP8X
_WEBP_METADATA = 0x20 | 0x08 | 0x04  # colour profile, EXIF, XMP


def _webp(data: bytes, turned: bool) -> bytes | None:
    """Keeps the chunks of pixels, and writes the size of the whole anew (RFC 9649)."""
    kept, position, flags = [], 12, 0
    while position + 8 <= len(data):
        kind = data[position : position + 4]
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + length + (length & 1)
        if kind in _WEBP_PIXELS:
            kept.append(data[position:end])
        elif turned and kind in _WEBP_TURNING and end <= len(data):
            flags |= _WEBP_TURNING[kind]
            kept.append(data[position:end])
        position = end
    if kept and kept[0][:4] == b"VP8X" and len(kept[0]) > 8:
        first = bytearray(kept[0])
        first[8] = first[8] & ~_WEBP_METADATA | flags
        kept[0] = bytes(first)
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body if kept else None


# ------------------------------------------------------------------------------- GIF


def _gif(data: bytes, turned: bool) -> bytes | None:
    """Drops the extensions before the first picture (GIF89a, 23 to 26)."""
    if len(data) < 13:
        return None
    start = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    position = start
    while data[position : position + 1] == b"\x21":
        position += 2
        while position < len(data) and data[position]:
            position += 1 + data[position]
        position += 1
    found = data[position : position + 1] == b"\x2c"
    return data[:start] + data[position:] if found else None


# ------------------------------------------------------------------------------ TIFF

_TURN = 274
# Of TIFF 6.0 and its supplements, the tags that a decoder needs: sizes, sample layout,
# compression, colours, strips and tiles, JPEG.
_TIFF_PIXELS = frozenset(
    (*range(256, 260), 262, 266, 273, *range(277, 280), 284, 292, 293, 317, 320)
    + (*range(322, 326), 332, 336, *range(338, 342), 347, *range(512, 522))
    + tuple(range(529, 533))
)


# The bytes of one value by TIFF's type; 16 to 18 are of BigTIFF.
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4}
_TIFF_BYTES |= {12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class _Directory:
    """The first directory of a TIFF.

    Attributes:
      length: of the file.
      order: of its bytes, "little" or "big".
      start: where it begins.
      width: of an offset and of the value in an entry: 4 bytes, 8 of a BigTIFF.
      count: the width of the number of entries.
      entries: the bytes of each.
    """

    def __init__(self, data: bytes):
        self.length = len(data)
        self.order: Literal["little", "big"] = "big" if data[:2] == b"MM" else "little"
        big = self.number(data[2:4]) == 43
        self.width, self.count, size = (8, 8, 20) if big else (4, 2, 12)
        at = 8 if big else 4
        self.start = self.number(data[at : at + self.width])
        first = self.start + self.count
        listed = min(self.number(data[self.start : first]), 4096)
        ends = range(first + size, first + size * listed + 1, size)
        self.entries = [data[end - size : end] for end in ends if end <= len(data)]

    def number(self, field: bytes) -> int:
        return int.from_bytes(field, self.order)

    def tag(self, entry: bytes) -> int:
        return self.number(entry[:2])

    def far(self, entry: bytes) -> bool:
        """Whether its values lie beyond the end of the file."""
        count = self.number(entry[4 : 4 + self.width])
        size = count * _TIFF_BYTES.get(self.number(entry[2:4]), 0)
        where = self.number(entry[-self.width :])
        return size > self.width and where + size > self.length


def _has_far_tag(data: bytes) -> bool:
    found = _Directory(data)
    tags = [found.tag(entry) for entry in found.entries if found.far(entry)]
    return any(t not in _TIFF_PIXELS for t in tags) and _tiff(data, True) is not None


def _tiff(data: bytes, turned: bool) -> bytes | None:
    """Keeps the tags of pixels in the first directory, and that directory alone."""
    found = _Directory(data)
    kept = [
        entry
        for entry in found.entries
        if found.tag(entry) in _TIFF_PIXELS
        or (turned and found.tag(entry) == _TURN and not found.far(entry))
    ]
    if not kept:
        return None
    head = len(kept).to_bytes(found.count, found.order)
    # No longer than what it replaces, since it has no more entries.
    directory = b"".join([head, *kept, bytes(found.width)])
    return data[: found.start] + directory + data[found.start + len(directory) :]


_READERS: dict[str, Callable[[bytes, bool], bytes | None]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WEBP": _webp,
    "GIF": _gif,
    "TIFF": _tiff,
}
