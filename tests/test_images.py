"""Files in, pixels out: real files of every kind, and hostile ones."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from image_bytes import CHINA, PHOTO, encode, eps, png_header, refusal
from PIL import ExifTags, Image

from item_jax import images
from item_jax.images import ImageError, decode

SAVED_AS = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
}


# ---------------------------------------------------------------------------- decode


def test_a_real_photograph_is_what_pillow_makes_of_it():
    data = encode(CHINA, "JPEG", quality=95)
    pixels = decode(data)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, Image.open(io.BytesIO(data)))
    assert np.abs(pixels.astype(int) - CHINA).mean() < 3


@pytest.mark.parametrize("format", images.FORMATS)
def test_every_format_is_read(format):
    data = encode(PHOTO, format, **SAVED_AS[format])
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)
    if format in ("PNG", "WEBP", "BMP", "TIFF"):  # these lose nothing
        np.testing.assert_array_equal(expected, PHOTO)


def transparent() -> Image.Image:
    picture = Image.fromarray(PHOTO).convert("RGBA")
    alpha = np.tile(np.linspace(0, 255, 83).astype(np.uint8), (61, 1))
    picture.putalpha(Image.fromarray(alpha))
    return picture


PICTURES = {
    "RGB": lambda: Image.fromarray(PHOTO),
    "L": lambda: Image.fromarray(PHOTO).convert("L"),
    "1": lambda: Image.fromarray(PHOTO).convert("1"),
    "P": lambda: Image.fromarray(PHOTO).quantize(32),
    "RGBA": transparent,
    "LA": lambda: transparent().convert("LA"),
}


@pytest.mark.parametrize("mode", PICTURES)
def test_modes_become_rgb_as_convert_makes_them(mode):
    data = encode(PICTURES[mode]())
    stored = Image.open(io.BytesIO(data))
    assert stored.mode == mode
    np.testing.assert_array_equal(decode(data), stored.convert("RGB"))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk(format):
    data = encode(Image.fromarray(PHOTO).convert("CMYK"), format)
    stored = Image.open(io.BytesIO(data))
    assert stored.mode == "CMYK"
    np.testing.assert_array_equal(decode(data), stored.convert("RGB"))
    assert np.abs(decode(data).astype(int) - PHOTO).mean() < 8


def test_alpha_is_dropped_and_not_blended():
    np.testing.assert_array_equal(decode(encode(transparent())), PHOTO)


def test_palette_with_transparency_keeps_its_colours():
    palette = Image.fromarray(PHOTO).quantize(32)
    plain = decode(encode(palette))
    for transparency in (3, bytes(range(32))):
        data = encode(palette, transparency=transparency)
        np.testing.assert_array_equal(decode(data), plain)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for format in ("PNG", "TIFF"):
        data = encode(ramp, format)
        stored = Image.open(io.BytesIO(data))
        assert stored.mode == "I;16"
        assert (np.asarray(stored.convert("RGB"))[2:] == 255).all()  # plain: white
        np.testing.assert_array_equal(decode(data), expected)
    dark = np.full((4, 4), 200, np.uint16)  # 200 of 65535 is black
    assert decode(encode(dark)).max() == 0


def test_sixteen_bit_grey_and_sixteen_bit_colour_agree():
    values = (0, 127, 255, 256, 30000, 65407, 65535)

    def png(colour: int, samples: int) -> bytes:
        row = b"\0" + b"".join(struct.pack(">H", v) * samples for v in values)
        header = struct.pack(">IIBBBBB", len(values), 1, 16, colour, 0, 0, 0)
        out = b"\x89PNG\r\n\x1a\n"
        for kind, body in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(row)),
            (b"IEND", b""),
        ):
            crc = struct.pack(">I", zlib.crc32(kind + body))
            out += struct.pack(">I", len(body)) + kind + body + crc
        return out

    grey, colour = decode(png(0, 1)), decode(png(2, 3))
    assert grey[0, :, 0].tolist() == [0, 0, 0, 1, 117, 255, 255]
    np.testing.assert_array_equal(grey, colour)


def test_thirty_two_bit_grey():
    eight = np.arange(256, dtype=np.int32).reshape(16, 16)
    expected = eight.astype(np.uint8)
    for values in (
        eight,
        eight * 257,
        (eight / 255).astype(np.float32),
        eight.astype(np.float32),
    ):
        pixels = decode(encode(values, "TIFF"))
        np.testing.assert_array_equal(pixels, np.stack([expected] * 3, axis=2))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[-1, 5]], np.int32), r"-1\.\.5 \(mode I\); allowed: 0\.\.65535"),
        (np.array([[0, 70000]], np.int32), r"0\.\.70000 .*allowed: 0\.\.65535"),
        (np.array([[-0.5, 1]], np.float32), r"-0\.5\.\.1 .*allowed: 0\.\.255"),
        (np.array([[0, 256]], np.float32), r"0\.\.256 .*allowed: 0\.\.255"),
        (np.array([[0, np.nan]], np.float32), "nan"),
        (np.array([[0, np.inf]], np.float32), "inf"),
    ],
)
def test_grey_out_of_range_is_refused(values, said):
    assert re.search(said, refusal(encode(values, "TIFF")))


def tiff_of_12_bits(values: list[int]) -> bytes:
    """An uncompressed grey TIFF of one row; an even number of values."""
    packed = b"".join(
        struct.pack(">I", one << 12 | other)[1:]
        for one, other in zip(values[::2], values[1::2])
    )
    tags = [  # TIFF 6.0: width, height, bits, compression, photometric, ...
        *((256, len(values)), (257, 1), (258, 12), (259, 1), (262, 1)),
        *((273, 8), (277, 1), (278, 1), (279, len(packed))),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = 8 + len(packed) + len(packed) % 2
    header = struct.pack("<2sHI", b"II", 42, start)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return header + packed.ljust(start - 8, b"\0") + directory


def test_twelve_bit_grey_is_not_black():
    values = [0, 15, 16, 2048, 4080, 4095]
    data = tiff_of_12_bits(values)
    stored = Image.open(io.BytesIO(data))
    assert stored.mode == "I;16" and np.asarray(stored).tolist() == [values]
    assert decode(data)[0, :, 0].tolist() == [0, 0, 1, 128, 255, 255]


# How a viewer turns the stored picture, in numpy's words: the inverse is stored.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.transpose(a, (1, 0, 2)),
    6: lambda a: np.rot90(a, 1),  # shown turned a quarter clockwise
    7: lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_eight_orientations_are_one_picture(orientation, format):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = np.ascontiguousarray(STORED[orientation](PHOTO))
    data = encode(stored, format, exif=exif, **SAVED_AS[format])
    np.testing.assert_array_equal(decode(data), PHOTO)


@pytest.mark.parametrize("orientation", STORED)
def test_eight_orientations_of_a_jpeg(orientation):
    # Whole 16-pixel blocks, so that JPEG loses the same in every orientation.
    photo = np.ascontiguousarray(CHINA[:64, :96])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = np.ascontiguousarray(STORED[orientation](photo))
    pixels = decode(encode(stored, "JPEG", quality=95, exif=exif))
    assert pixels.shape == photo.shape
    assert np.abs(pixels.astype(int) - photo).mean() < 4


@pytest.mark.parametrize("orientation", [0, 9, 77, 65535])
def test_an_orientation_that_does_not_exist_counts_as_none(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    np.testing.assert_array_equal(decode(encode(PHOTO, exif=exif)), PHOTO)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_corrupt_exif_costs_neither_the_picture_nor_a_warning(format):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.ImageDescription] = "a description of some length"
    intact = exif.tobytes()
    plain = decode(encode(PHOTO, format, **SAVED_AS[format]))
    for block in (
        intact[:25],  # cut off in the first entry
        intact[:6] + b"XX" + intact[8:],  # no TIFF header
        intact[:-20],  # cut off in a value
        intact[:6] + b"\xff" * 40,
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = encode(PHOTO, format, exif=block, **SAVED_AS[format])
            caught.clear()
            pixels = decode(data)
        assert caught == []
        assert pixels.shape in (plain.shape, (83, 61, 3))
        if pixels.shape == plain.shape:
            np.testing.assert_array_equal(pixels, plain)


def test_the_filter_of_warnings_is_narrow_and_set_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = len(warnings.filters)
        for _ in range(3):
            decode(encode(PHOTO))
        assert len(warnings.filters) == before + 1
        warnings.warn("ours", UserWarning, stacklevel=1)
        warnings.warn_explicit("bomb", Image.DecompressionBombWarning, "PIL/x.py", 1)
    assert [str(w.message) for w in caught] == ["ours", "bomb"]


def test_first_picture_of_several():
    first, second = Image.fromarray(PHOTO), Image.fromarray(PHOTO[::-1].copy())
    for format, options in SAVED_AS.items():
        if format in ("BMP", "JPEG"):
            continue
        many = {"save_all": True, "append_images": [second], **options}
        data = encode(first, format, **many)
        assert Image.open(io.BytesIO(data)).n_frames == 2
        alone = decode(encode(first, format, **options))
        np.testing.assert_array_equal(decode(data), alone)
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_array_equal(decode(data), decode(encode(first, "JPEG")))


# --------------------------------------------------------------------- hostile bytes


def test_nothing_and_text():
    assert refusal(b"") == "the file is empty (0 bytes)"
    message = refusal(b"<html><body>404 Not Found</body></html>")
    assert "web page" in message and "allowed: JPEG, PNG" in message
    assert "text, beginning 'hello world" in refusal(b"hello world, no picture")
    lines = "Liebe Gr\u00fc\u00dfe,\n\tdies ist kein Bild.\r\n" + "\u00fc" * 200
    for data in (lines.encode(), b"\xef\xbb\xbf" + lines.encode()):
        assert "text, beginning 'Liebe Gr\u00fc\u00dfe,';" in refusal(data)
    assert "0x00000000" in refusal(bytes(100))
    assert "unknown data, beginning 0x4c69ff" in refusal(b"Li\xff\n" * 20)
    assert "unknown data, beginning 0x4c691c" in refusal(b"Li\x1c\n" * 20)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7\n%...", "PDF"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC (convert it first)"),
        (b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00", "HEIC or AVIF"),
        (b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00", "AVIF (convert it first)"),
        (b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00", "video"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"PK\x03\x04\x14\x00", "ZIP"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
    ],
)
def test_what_it_looks_like_is_named(data, what):
    message = refusal(data)
    assert what in message
    for format in images.FORMATS:
        assert format in message


def test_eps_is_named_and_never_interpreted(monkeypatch):
    def ghostscript(*args, **options):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("subprocess.check_call", ghostscript)
    monkeypatch.setattr("subprocess.Popen", ghostscript)
    assert "EPS" in refusal(eps())


@pytest.mark.parametrize("format", ["PPM", "TGA", "ICO", "PCX", "SGI"])
def test_formats_pillow_knows_but_we_do_not_allow(format):
    assert "allowed: JPEG, PNG, WEBP" in refusal(encode(PHOTO, format))


def test_bomb_is_refused_by_its_header_alone():
    message = refusal(png_header(50_000, 50_000))
    assert message == (
        "PNG picture of 50000 x 50000 = 2,500,000,000 pixels; at most 89,478,485 "
        "allowed"
    )


def test_size_limit_is_exact_and_can_be_moved():
    data = encode(PHOTO)
    np.testing.assert_array_equal(decode(data, max_pixels=61 * 83), PHOTO)
    assert "at most 5,062 allowed" in refusal(data, max_pixels=61 * 83 - 1)
    # Above Pillow's own limit the header no longer stops it, but the missing data do.
    assert "pixels" not in refusal(png_header(20_000, 10_000), max_pixels=10**9)


def test_size_is_checked_before_a_pixel_is_decoded(monkeypatch):
    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert "at most 10 allowed" in refusal(encode(PHOTO), max_pixels=10)


def test_limit_is_pillows():
    assert images.MAX_PIXELS == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("format", images.FORMATS)
def test_half_a_file_is_never_another_picture(format):
    data = encode(PHOTO, format, **SAVED_AS[format])
    whole = decode(data)
    for length in np.linspace(1, len(data) - 1, 60).astype(int):
        try:
            pixels = decode(data[:length])
        except ImageError:
            continue
        np.testing.assert_array_equal(pixels, whole)  # only the trailer was lost
    message = refusal(data[: len(data) // 2])
    assert format in message and f"({len(data) // 2:,} bytes)" in message
    assert re.search(r"\b\w*Error: ", message)  # the class of the cause


def test_half_a_progressive_jpeg_is_refused():
    data = encode(CHINA, "JPEG", progressive=True)
    assert "OSError" in refusal(data[: len(data) // 2])


def test_damage_of_any_kind_is_an_image_error_or_a_picture():
    rng = np.random.default_rng(0)
    outcomes = {"picture": 0, "refused": 0}
    for format in images.FORMATS:
        intact = np.frombuffer(encode(PHOTO[:24, :24], format), np.uint8)
        for trial in range(150):
            data = intact.copy()
            # Headers are short: aim half of the trials at the first 64 bytes.
            reach = 64 if trial % 2 else len(data)
            where = rng.integers(0, reach, rng.integers(1, 8))
            data[where] = rng.integers(0, 256, len(where), dtype=np.uint8)
            try:
                pixels = decode(data.tobytes(), max_pixels=10**6)
            except ImageError:
                outcomes["refused"] += 1
            else:
                assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
                outcomes["picture"] += 1
    assert min(outcomes.values()) > 100, outcomes


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan is there many times over."""
    data = encode(PHOTO, "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (scans - data.count(b"\xff\xda")) + data[last:]


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    assert decode(progressive(500)).shape == PHOTO.shape

    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load)
    said = refusal(progressive(501))
    assert said.startswith("JPEG picture of more than 500 scans")
    assert refusal(progressive(10_000)) == said


def test_what_follows_a_jpeg_is_not_counted_as_scans():
    """Phones put a video there."""
    data = encode(PHOTO, "JPEG")
    tail = np.random.default_rng(0).bytes(10**6) + b"\xff\xda" * 1000
    np.testing.assert_array_equal(decode(data + tail), decode(data))
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "\xff\xda" * 600
    inside = data[:2] + b"\xff\xe2" + struct.pack(">H", 1802) + b"\xff\xda\0" * 600
    np.testing.assert_array_equal(decode(inside + data[2:]), decode(data))


def webp_header(width: int, height: int) -> bytes:
    """A WebP of the extended form that says it is `width` x `height`, and no more."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM"}])
def test_the_size_of_a_webp_is_read_without_opening_it(options, monkeypatch):
    """Opening it would fill two canvases of that size."""
    data = encode(PHOTO, "WEBP", **options)
    assert images.signatures.webp_size(data) == (83, 61)
    assert images.signatures.webp_size(encode(PHOTO)) is None

    def opened(*arguments):
        raise AssertionError("opened")

    monkeypatch.setattr("PIL.WebPImagePlugin.WebPImageFile._open", opened)
    assert images.count_pixels(data) == 83 * 61
    assert "at most 100 allowed" in refusal(data, max_pixels=100)
    assert "268,435,456 pixels" in refusal(webp_header(16384, 16384))


def test_pixels_are_counted_by_the_header():
    for format, options in SAVED_AS.items():
        assert images.count_pixels(encode(PHOTO, format, **options)) == 61 * 83
    with pytest.raises(ImageError, match="at most 10 allowed"):
        images.count_pixels(encode(PHOTO), max_pixels=10)


def test_pillows_loggers_are_quiet_unless_somebody_wants_them():
    program = """
import io, logging, sys
from item_jax import images
from item_jax.budget import PixelBudget
tiff = b"II*\\0\\x08\\0\\0\\0" + b"\\xff" * 100
logging.basicConfig()
try:
    images.decode(tiff)
except images.ImageError as e:
    logging.getLogger("PIL.TiffImagePlugin").warning("noise")
    assert logging.getLogger("PIL").level == logging.CRITICAL
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    program = program.replace(
        "basicConfig()", "basicConfig(); logging.getLogger('PIL').setLevel('WARNING')"
    ).replace("assert", "assert not")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "noise" in done.stderr


def test_threads_decode_alike():
    data = encode(CHINA, "JPEG")
    expected, results = decode(data), [None] * 8

    def work(index):
        results[index] = decode(data)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pixels in results:
        np.testing.assert_array_equal(pixels, expected)
