"""What the bytes of a file show before an image decoder sees them.

Standard library only.
"""

from __future__ import annotations

import codecs
import fnmatch
import functools
import os
import re

# Bytes at the beginning (? for any) and what they mean; the first that fits counts.
_SIGNATURES = (
    (b"%PDF", "a PDF document"),
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"????ftypavi", "AVIF (convert it first)"),
    (b"????ftyphe", "HEIC (convert it first)"),
    (b"????ftypm[is]f1", "HEIC or AVIF (convert it first)"),
    (b"????ftyp", "an MP4 or QuickTime video"),
    (b"????JXL ", "JPEG XL (convert it first)"),
    (b"\xff\x0a", "JPEG XL (convert it first)"),
    (b"????jP  ", "JPEG 2000 (convert it first)"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file itself)"),
    (b"<", "SVG, XML or a web page"),
)


def looks_like(data: bytes) -> str:
    """Says what a file that is not an image we read seems to be."""
    head = bytes(data[:64]).lstrip()
    for magic, what in _SIGNATURES:
        if fnmatch.fnmatchcase(head, magic + b"*"):
            return what
    text = _text(bytes(data[:256])).strip()
    if text:
        return f"text, beginning {text.splitlines()[0][:24]!r}"
    return f"unknown data, beginning 0x{bytes(data[:16]).hex()}"


AGAIN = "download it again, with `hf download` or `git lfs pull`"


def download_fault(path: str | os.PathLike) -> str:
    """Says what stands in the place of a checkpoint's file after a failed download.

    Args:
      path: of a file: weights (safetensors), JSON or text.

    Returns:
      What it is and what to do; "" if nothing is wrong with it at first sight.
    """
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as f:
            head = f.read(512)
    except OSError:
        return ""
    weights = os.fspath(path).endswith(".safetensors")
    if not size:
        return f"is empty (0 bytes); {AGAIN}"
    if weights and head[8:9] == b"{":
        return _cut_off(path, int.from_bytes(head[:8], "little"), size)
    if head.startswith(b"version https://git-lfs"):
        return f"is a Git LFS pointer, not the file itself; {AGAIN}"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return f"is a web page, perhaps an error message, not the file; {AGAIN}"
    if weights and head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        return (
            "is a pickled file of PyTorch under another name; save its tensors with "
            "safetensors.torch.save_file"
        )
    if weights and (text := _text(head).strip()):
        return f"is text, beginning {text.splitlines()[0][:60]!r}; {AGAIN}"
    return ""


_LONGEST_HEADER = 100_000_000  # bytes, as in safetensors itself


def _cut_off(path: str | os.PathLike, length: int, size: int) -> str:
    """Says whether a safetensors file ends before its last tensor does."""
    if length > _LONGEST_HEADER:
        return ""
    with open(path, "rb") as f:
        f.seek(8)
        header = f.read(length)
    ends = re.findall(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d{1,15})', header)
    needed = 8 + length + max(map(int, ends), default=0)
    return f"is cut off: {size:,} of {needed:,} bytes; {AGAIN}" if size < needed else ""


def _text(data: bytes) -> str:
    """The beginning of a UTF-8 text; "" for what is none."""
    try:  # a character that is cut off at the end is no error
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data)
    except UnicodeDecodeError:
        return ""
    return text if text.translate(dict.fromkeys(b"\t\n\r")).isprintable() else ""


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP, or None for another file or one that is damaged.

    Pillow's reader fills two canvases of that size with zeros, 8 bytes a pixel, before
    it reports the size (libwebp's WebPAnimDecoderNew). The layout is that of RFC 9649.
    """
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    little = functools.partial(int.from_bytes, byteorder="little")
    chunk = data[12:16]
    if chunk == b"VP8 ":
        return little(data[26:28]) & 0x3FFF, little(data[28:30]) & 0x3FFF
    if chunk == b"VP8L":
        bits = little(data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8X":
        return little(data[24:27]) + 1, little(data[27:30]) + 1
    return None


# The next marker after entropy-coded data, in which FF is followed by 00 or by the
# restart markers D0 to D7 (ITU-T T.81, B.1.1).
_MARKER = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def has_more_scans(data: bytes, most: int) -> bool:
    """Whether a JPEG has more than `most` scans, each a pass over the picture."""
    # Few files have that many bytes FF DA at all; the others (a video may follow the
    # picture) are walked through marker by marker.
    if data.count(b"\xff\xda") <= most:
        return False
    scans, position = 0, 2
    while marker := _MARKER.search(data, position):
        kind, position = data[marker.end() - 1], marker.end()
        if kind == 0xD9:  # the end of the picture
            return False
        scans += kind == 0xDA
        if scans > most:
            return True
        position += int.from_bytes(data[position : position + 2], "big")
    return False
