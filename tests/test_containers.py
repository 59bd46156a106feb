"""Files whose metadata are damaged: the pixels are read, and what is lost is said."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from image_bytes import CHINA, PHOTO, encode, png_header, refusal
from PIL import Image

from item_jax import containers, images
from item_jax.audit import audit
from item_jax.headers import header
from item_jax.images import decode
from item_jax.records import Record

BIG = b"A workflow. " * 2**18  # 3 MiB, a few kB when compressed
WRONG = bytes(4)  # a checksum


def chunk(kind: bytes, body: bytes, crc: bytes | None = None) -> bytes:
    crc = crc or zlib.crc32(kind + body).to_bytes(4, "big")
    return struct.pack(">I", len(body)) + kind + body + crc


PNG = encode(PHOTO)


def png(before: bytes = b"", after: bytes = b"", file: bytes = PNG) -> bytes:
    """A PNG with more chunks between header and pixels, and behind the pixels."""
    end = file.rindex(b"IEND") - 4
    return file[:33] + before + file[33:end] + after + file[end:]


ZTXT = b"prompt\0\0" + zlib.compress(BIG)
ITXT = b"workflow\0\1\0\0\0" + zlib.compress(BIG)
PNGS = {
    "zTXt of 3 MiB": png(chunk(b"zTXt", ZTXT)),
    "zTXt of 3 MiB behind the pixels": png(after=chunk(b"zTXt", ZTXT)),
    "iTXt of 3 MiB": png(chunk(b"iTXt", ITXT)),
    "iTXt of 3 MiB behind the pixels": png(after=chunk(b"iTXt", ITXT)),
    "iTXt of 65 MiB": png(chunk(b"iTXt", b"a\0\0\0\0\0" + bytes(65 * 2**20))),
    "profile of 3 MiB": png(chunk(b"iCCP", b"icc\0\0" + zlib.compress(BIG))),
    "profile of unknown compression": png(chunk(b"iCCP", b"icc\0\7xx")),
    "empty profile": png(chunk(b"iCCP", b"")),
    "text of unknown compression": png(chunk(b"zTXt", b"a\0\7xx")),
    "wrong checksum of text": png(chunk(b"tEXt", b"a\0b", WRONG)),
    "wrong checksum of EXIF": png(chunk(b"eXIf", b"MM\0*", WRONG)),
    "wrong checksum of a private chunk": png(chunk(b"prVt", b"x", WRONG)),
    "wrong checksum of transparency": png(chunk(b"tRNS", bytes(6), WRONG)),
    "short transparency": png(chunk(b"tRNS", b"\0")),
    "short gamma": png(chunk(b"gAMA", b"\0")),
    "short density": png(chunk(b"pHYs", b"\0")),
    "animation out of sequence": png(
        chunk(b"acTL", bytes((0, 0, 0, 1, 0, 0, 0, 0)))
        + chunk(b"fcTL", bytes((0, 0, 0, 9)) + bytes(22))
    ),
    "text cut off behind the pixels": png(
        after=chunk(b"tEXt", b"a\0" + b"b" * 99)[:40]
    )[:-12],
    "length that is wrong behind the pixels": png(
        after=struct.pack(">I", 10**6) + b"tEXta\0b" + WRONG
    ),
    "name that is no name": png(chunk(b"a\xe9-t", b"x")),
}


@pytest.mark.parametrize("data", PNGS.values(), ids=PNGS)
def test_damaged_metadata_of_a_png_cost_no_pixel(data):
    np.testing.assert_array_equal(decode(data), PHOTO)
    assert images.count_pixels(data) == 61 * 83


def test_how_a_png_is_turned_survives_another_chunk():
    exif = Image.Exif()
    exif[274] = 6
    turned = encode(PHOTO, exif=exif)
    assert b"eXIf" in turned
    data = png(chunk(b"zTXt", ZTXT), file=turned)
    np.testing.assert_array_equal(decode(data), decode(turned))
    assert decode(data).shape == (83, 61, 3)
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="6"/>'
    data = png(chunk(b"iTXt", xmp) + chunk(b"zTXt", ZTXT))
    np.testing.assert_array_equal(decode(data), decode(turned))


def test_what_holds_pixels_must_be_whole():
    header_chunk, pixels = PNG[8:33], PNG[33 : PNG.rindex(b"IEND") - 4]
    wrong = PNG[:29] + WRONG + PNG[33:]
    assert "IHDR" in refusal(wrong)
    assert "IHDR" in refusal(PNG[:29] + WRONG + chunk(b"zTXt", ZTXT) + PNG[33:])
    for data in (
        PNG[:8] + pixels + header_chunk,  # pixels before the header
        PNG[:8] + header_chunk + chunk(b"zTXt", ZTXT),  # none
        png(chunk(b"zTXt", ZTXT))[:-3000],  # cut off
        PNG[:33] + chunk(b"zTXt", ZTXT)[:-9] + PNG[33:],  # all else is out of step
    ):
        assert "PNG picture" in refusal(data)
    palette = encode(Image.fromarray(PHOTO).quantize(32))
    at = palette.index(b"PLTE")
    broken = palette[: at + 4] + b"\xff\0\xff" + palette[at + 7 :]
    assert "PLTE" in refusal(broken)
    stored = bytearray(encode(PHOTO, compress_level=0))
    stored[len(stored) // 2] ^= 16
    assert "broken data stream" in refusal(
        png(chunk(b"zTXt", ZTXT), file=bytes(stored))
    )


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


JPEG = encode(PHOTO, "JPEG", quality=90)
PHOTOSHOP = b"Photoshop 3.0\0"
SEGMENTS = {
    "short Adobe": segment(0xEE, b"Adobe"),
    "short JFIF": segment(0xE0, b"JFIF"),
    "half a Photoshop block": segment(0xED, PHOTOSHOP + b"8BIM\3\xed"),
    "half a resolution": segment(0xED, PHOTOSHOP + b"8BIM\3\xed\0\0\0\0\0\2ab"),
    "profile without a number": segment(0xE2, b"ICC_PROFILE\0"),
    "half a number of a profile": segment(0xE2, b"ICC_PROFILE\0\1"),
    "profile in pieces that are not there": segment(0xE2, b"ICC_PROFILE\0\3\7xx"),
    "empty MPF": segment(0xE2, b"MPF\0"),
    "MPF that leads nowhere": segment(
        0xE2, b"MPF\0II*\0\x08\0\0\0\1\0\1\xb0\4\0\1\0\0\0\5\0\0\0\0\0\0\0"
    ),
    "EXIF of noise": segment(0xE1, b"Exif\0\0" + bytes(range(99))),
    "EXIF beyond its end": segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "unknown": segment(0xE9, bytes(range(256))),
    "noise between the segments": b"\1\2\3",
    "bytes of fill": b"\xff\xff\xff",
}


@pytest.mark.parametrize("extra", SEGMENTS.values(), ids=SEGMENTS)
def test_damaged_segments_of_a_jpeg_cost_no_pixel(extra):
    for at in (20, 2) if extra[:1] == b"\xff" else (20,):  # behind JFIF, before it
        data = JPEG[:at] + extra + JPEG[at:]
        np.testing.assert_array_equal(decode(data), decode(JPEG))


def test_how_a_jpeg_is_turned_survives_another_segment():
    exif = Image.Exif()
    exif[274] = 6
    turned = encode(PHOTO, "JPEG", quality=90, exif=exif)
    data = turned[:20] + SEGMENTS["short Adobe"] + turned[20:]
    np.testing.assert_array_equal(decode(data), decode(turned))
    assert decode(data).shape == (83, 61, 3)


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_the_colours_of_a_jpeg_survive(mode):
    data = encode(Image.fromarray(PHOTO).convert(mode), "JPEG", quality=90)
    broken = data[:2] + SEGMENTS["half a Photoshop block"] + data[2:]
    np.testing.assert_array_equal(decode(broken), decode(data))


def test_a_jpeg_that_is_cut_off_stays_refused():
    data = JPEG[:20] + SEGMENTS["short Adobe"] + JPEG[20 : len(JPEG) // 2]
    assert "JPEG picture" in refusal(data)
    lost = JPEG.index(b"\xff\xdb")  # the tables of its quantisation
    assert "JPEG picture" in refusal(JPEG[:lost] + JPEG[lost + 69 :])


def webp(*chunks: tuple[bytes, bytes], flags: int = 0, longer: int = 0) -> bytes:
    """A WebP with a VP8X chunk; the length of the last chunk is `longer` than it is."""
    size = (
        bytes((flags, 0, 0, 0)) + struct.pack("<I", 82)[:3] + struct.pack("<I", 60)[:3]
    )
    body = b"WEBP"
    for kind, data in [(b"VP8X", size), *chunks]:
        last = longer if (kind, data) == chunks[-1] else 0
        body += kind + struct.pack("<I", len(data) + last) + data
        body += b"\0" * (len(data) & 1)
    return b"RIFF" + struct.pack("<I", len(body)) + body


WEBP = encode(PHOTO, "WEBP", lossless=True)
PIXELS = (b"VP8L", WEBP[20 : 20 + struct.unpack("<I", WEBP[16:20])[0]])
WEBPS = {
    "half an EXIF chunk": webp(PIXELS, (b"EXIF", b"MM\0*"), flags=8, longer=900),
    "half an XMP chunk": webp(PIXELS, (b"XMP ", b"<x>"), flags=4, longer=900),
    "half an unknown chunk": webp(PIXELS, (b"ABCD", b"xx"), longer=900),
    "EXIF of noise": webp(PIXELS, (b"EXIF", b"noise"), flags=8),
    "profile of noise": webp((b"ICCP", b"noise"), PIXELS, flags=0x20),
    "EXIF that is not there": webp(PIXELS, flags=8),
    "a size that is too large": WEBP[:4] + struct.pack("<I", 10**6) + WEBP[8:],
    "a size that is too small": WEBP[:4] + struct.pack("<I", 100) + WEBP[8:],
}


@pytest.mark.parametrize("data", WEBPS.values(), ids=WEBPS)
def test_damaged_chunks_of_a_webp_cost_no_pixel(data):
    np.testing.assert_array_equal(decode(data), PHOTO)


def test_how_a_webp_is_turned_survives_another_chunk():
    exif = Image.Exif()
    exif[274] = 6
    turned = encode(PHOTO, "WEBP", lossless=True, exif=exif)
    data = turned + b"XMP \xff\xff\0\0half"
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    np.testing.assert_array_equal(decode(data), decode(turned))
    assert decode(data).shape == (83, 61, 3)


GIF = encode(PHOTO, "GIF")
EXTENSIONS = {
    "application without a name": b"\x21\xff\0",
    "application without data": b"\x21\xff\x0bNETSCAPE2.0\0",
    "half a control block": b"\x21\xf9\1\1\0",
    "comment": b"\x21\xfe\3abc\0",
}


@pytest.mark.parametrize("extra", EXTENSIONS.values(), ids=EXTENSIONS)
def test_damaged_extensions_of_a_gif_cost_no_pixel(extra):
    start = 13 + 3 * 2 ** ((GIF[10] & 7) + 1)
    data = GIF[:start] + extra + GIF[start:]
    np.testing.assert_array_equal(decode(data), decode(GIF))


def tiff(picture, tag: int, kind: int, count: int, value: int, **options) -> bytes:
    """A TIFF with one more tag, its value or the offset of it given."""
    file = encode(picture, "TIFF", **options)
    order = "<" if file[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", file[4:8])
    (n,) = struct.unpack(order + "H", file[start : start + 2])
    ends = range(start + 14, start + 15 + 12 * (n - 1), 12)
    entries = {
        struct.unpack(order + "H", file[e - 12 : e - 10])[0]: file[e - 12 : e]
        for e in ends
    }
    entries[tag] = struct.pack(order + "HHII", tag, kind, count, value)
    directory = struct.pack(order + "H", len(entries))
    directory += b"".join(entries[t] for t in sorted(entries)) + bytes(4)
    file += b"\0" * (len(file) & 1)
    at = struct.pack(order + "I", len(file))
    return file[:4] + at + file[8:] + directory


TAGS = (254, 269, 270, 282, 296, 305, 306, 315, 333, 700, 33432, 34665, 34675, 65000)
TIFFS = {
    "RGB": PHOTO,
    "palette": Image.fromarray(PHOTO).quantize(32),
    "transparent": Image.fromarray(PHOTO).convert("RGBA"),
    "float": np.float32(PHOTO[:, :, 0]),  # read as integers without its tag 339
    "16 bits": PHOTO[:, :, 0].astype(np.uint16) * 257,
}


@pytest.mark.parametrize("picture", TIFFS.values(), ids=TIFFS)
def test_a_tag_beyond_the_end_of_a_tiff_costs_no_pixel(picture):
    expected = decode(encode(picture, "TIFF"))
    for tag in TAGS:
        data = tiff(picture, tag, 2, 100, 10**8)
        np.testing.assert_array_equal(decode(data), expected, err_msg=str(tag))
        assert header(data).damaged == "a tag lies beyond the end of the file"


@pytest.mark.parametrize("kind", [2, 3, 5, 7, 12, 99])
def test_a_tag_of_another_type_costs_no_pixel(kind):
    for tag in TAGS:
        np.testing.assert_array_equal(decode(tiff(PHOTO, tag, kind, 3, 8)), PHOTO)


def test_tiff_compression_and_turn_survive_a_bad_tag():
    for options in ({"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}):
        data = tiff(PHOTO, 270, 2, 100, 10**8, **options)
        np.testing.assert_array_equal(decode(data), PHOTO)
    data = tiff(PHOTO, 270, 2, 100, 10**8, tiffinfo={274: 6})
    np.testing.assert_array_equal(decode(data), PHOTO.swapaxes(0, 1)[:, ::-1])
    # Where the turn itself cannot be read, the picture stands as it is stored.
    data = tiff(np.float32(PHOTO[:, :, 0]), 274, 3, 100, 10**8)
    np.testing.assert_array_equal(decode(data)[..., 0], PHOTO[:, :, 0])


def test_what_a_tiff_needs_for_its_pixels_is_not_guessed():
    for tag in (262, 277):
        assert "TIFF picture" in refusal(tiff(PHOTO, tag, 2, 3, 8))


def test_a_bigtiff_loses_its_bad_tag(monkeypatch):
    file = encode(PHOTO, "TIFF", big_tiff=True)
    assert file[:4] == b"II+\0"
    (start,) = struct.unpack("<Q", file[8:16])
    (n,) = struct.unpack("<Q", file[start : start + 8])
    entries = file[start + 8 : start + 8 + 20 * n]
    bad = struct.pack("<HHQQ", 254, 2, 100, 10**8)
    directory = struct.pack("<Q", n + 1) + bad + entries + bytes(8)
    data = file[:8] + struct.pack("<Q", len(file)) + file[16:] + directory
    np.testing.assert_array_equal(decode(data), PHOTO)


# ------------------------------------------------------------------- bounds, and what


def test_healthy_files_are_opened_once_and_as_they_are(monkeypatch):
    def refuse(*args):
        raise AssertionError("taken apart")

    for name in ("PNG", "JPEG", "WEBP", "GIF"):
        monkeypatch.setitem(containers._READERS, name, refuse)
    for data in (PNG, JPEG, WEBP, GIF, encode(PHOTO, "TIFF"), encode(PHOTO, "BMP")):
        assert decode(data).shape == PHOTO.shape
        assert header(data).damaged == ""


def test_a_bomb_stays_refused_without_its_metadata():
    bomb = png_header(30_000, 30_000)
    bomb = bomb[:33] + chunk(b"zTXt", ZTXT) + bomb[33:]
    assert "900,000,000 pixels; at most" in refusal(bomb)


def test_text_is_not_inflated(monkeypatch):
    inflated = []
    monkeypatch.setattr(containers.zlib, "decompress", inflated.append)
    assert b"zTXt" not in list(containers.versions("PNG", png(chunk(b"zTXt", ZTXT))))[1]
    assert not inflated


def test_every_damage_ends_in_a_picture_or_an_image_error():
    rng = np.random.default_rng(0)
    files = [*PNGS.values(), *WEBPS.values(), tiff(PHOTO, 270, 2, 100, 10**8)]
    files += [JPEG[:2] + s + JPEG[2:] for s in SEGMENTS.values()]
    for data in files:
        for _ in range(4):
            data = bytearray(data[:200_000])
            for at in rng.integers(2, min(len(data), 600), 3):
                data[at] = rng.integers(256)
            try:
                assert decode(bytes(data)).ndim == 3
            except images.ImageError:
                pass


def test_the_header_and_the_audit_say_what_is_lost(tmp_path):
    assert "too large" in header(PNGS["zTXt of 3 MiB"]).damaged
    assert header(PNG).damaged == ""
    # Behind the pixels, where a look at the header does not come by.
    wrong = header(png(after=chunk(b"tEXt", b"a\0b", WRONG))).damaged
    assert wrong == "chunk tEXt has a wrong checksum"
    cut = header(PNGS["text cut off behind the pixels"]).damaged
    assert cut == "chunk tEXt is cut off"
    records = []
    for i, data in enumerate((encode(CHINA), png(chunk(b"iTXt", ITXT)), JPEG)):
        (tmp_path / f"{i}.png").write_bytes(data)
        label = "real" if i else "fake"
        records.append(Record(key=f"{i}.png", label=label, generator="gan"))
    result = audit(records, tmp_path, pixels=False)
    assert result["failures"] == []
    assert [row["key"] for row in result["damaged_metadata"]] == ["1.png"]
    [said] = [w for w in result["warnings"] if "damaged metadata" in w]
    assert said.startswith("1 files have") and "1.png: ValueError" in said
    assert Image.open(io.BytesIO(PNG)).size == (
        83,
        61,
    )  # Pillow's settings are as before
