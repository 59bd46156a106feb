"""Pictures in, pixels out: real files of every kind, hostile files, exact geometry."""

from __future__ import annotations

import io
import os
import re
import struct
import threading
import unicodedata
import warnings
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image
from sklearn.datasets import load_sample_image

from item_jax import images
from item_jax.images import (
    ImageError,
    box_pixels,
    center_crop,
    decode,
    global_view,
    object_view,
    read_image,
    resize_center_crop,
)

CHINA = load_sample_image("china.jpg")  # a photograph, uint8 [427, 640, 3]
FLOWER = load_sample_image("flower.jpg")
PHOTO = np.ascontiguousarray(CHINA[100:161, 200:283])  # 61 x 83, no symmetry
SAVED_AS = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
}


def encode(picture, format="PNG", **options) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes which says that it is `width` x `height`."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(10)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def refusal(data: bytes, **options) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return str(caught.value)


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
    assert "0x00000000" in refusal(bytes(100))


def eps() -> bytes:
    return encode(Image.fromarray(PHOTO), "EPS")


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


# ------------------------------------------------------------------------ read_image


@pytest.fixture
def root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(encode(PHOTO))
    return tmp_path


def unreadable(root, key) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(root, key)
    assert str(caught.value).startswith(repr(key))
    return str(caught.value)


def test_read_image(root):
    np.testing.assert_array_equal(read_image(root, "real/a.png"), PHOTO)
    np.testing.assert_array_equal(read_image(str(root), "real/a.png"), PHOTO)
    with pytest.raises(ImageError, match="at most 100 allowed"):
        read_image(root, "real/a.png", max_pixels=100)


def test_odd_names_and_links(root):
    for name in ("with space: and-colon_.png", "line\nbreak.png", "\udcff\udcfe.png"):
        (root / name).write_bytes(encode(PHOTO))
        np.testing.assert_array_equal(read_image(root, name), PHOTO)
    (root / "link.png").symlink_to(root / "real" / "a.png")
    np.testing.assert_array_equal(read_image(root, "link.png"), PHOTO)


def test_a_decomposed_name_is_found_by_its_composed_key(root):
    key = unicodedata.normalize("NFC", "Zürich/é.png")
    path = root / unicodedata.normalize("NFD", key)
    path.parent.mkdir()
    path.write_bytes(encode(PHOTO))
    np.testing.assert_array_equal(read_image(root, key), PHOTO)


@pytest.mark.parametrize(
    "key", ["/etc/passwd", "../a.png", "real/../../a.png", "real/..", ".."]
)
def test_a_key_does_not_leave_the_root(root, key):
    assert "without '..'" in unreadable(root, key)


def test_not_a_regular_file(root):
    (root / "folder.jpg").mkdir()
    assert "a folder, not a regular file" in unreadable(root, "folder.jpg")
    assert "a folder" in unreadable(root, "")
    (root / "null.jpg").symlink_to("/dev/null")
    assert "a device" in unreadable(root, "null.jpg")


def test_a_fifo_is_not_waited_for(root):
    os.mkfifo(root / "pipe.jpg")
    said = []
    # A reader that opens it would wait for ever: hence the thread.
    thread = threading.Thread(
        target=lambda: said.append(unreadable(root, "pipe.jpg")), daemon=True
    )
    thread.start()
    thread.join(timeout=5)
    assert said and "a FIFO, not a regular file" in said[0]


def test_missing_and_dangling(root):
    assert "no such file under" in unreadable(root, "missing.jpg")
    (root / "dangling.jpg").symlink_to(root / "gone.jpg")
    assert "a link to nothing" in unreadable(root, "dangling.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    assert "cannot be read" in unreadable(root, "loop.jpg")
    assert "NotADirectoryError" in unreadable(root, "real/a.png/b.png")
    assert "cannot be read: OSError" in unreadable(root, "x" * 400 + ".jpg")
    assert "no file name" in unreadable(root, "a\0b.jpg")


def test_forbidden(root, monkeypatch):
    def read_bytes(path):
        raise PermissionError(13, "Permission denied")

    # By hand, since the administrator may read everything.
    monkeypatch.setattr("pathlib.Path.read_bytes", read_bytes)
    assert "PermissionError: Permission denied" in unreadable(root, "real/a.png")


def test_content_of_files(root):
    half = encode(CHINA, "JPEG")[:5000]
    for name, content, said in (
        ("empty.jpg", b"", "empty (0 bytes)"),
        ("text.jpg", b"to be done", "text, beginning 'to be done'"),
        ("eps.jpg", eps(), "EPS"),
        ("half.jpg", half, "OSError: image file is truncated"),
        ("bomb.png", png_header(30_000, 30_000), "900,000,000 pixels"),
    ):
        (root / name).write_bytes(content)
        assert said in unreadable(root, name)


def test_a_huge_file_is_not_read(root):
    with open(root / "huge.jpg", "wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # sparse
    assert "at most 715,827,880 allowed" in unreadable(root, "huge.jpg")


# ---------------------------------------------------------------------------- geometry


def torchvision_rule(image: np.ndarray, size: int) -> np.ndarray:
    """torchvision's center_crop on a PIL image, told anew: pad first, then crop."""
    picture = Image.fromarray(image)
    width, height = picture.size
    if width < size or height < size:
        before = [max(size - width, 0) // 2, max(size - height, 0) // 2]
        after = [(max(size - n, 0) + 1) // 2 for n in (width, height)]
        canvas = Image.new(
            "RGB",
            (before[0] + width + after[0], before[1] + height + after[1]),
        )
        canvas.paste(picture, tuple(before))
        picture = canvas
        width, height = picture.size
    top = int(round((height - size) / 2.0))
    left = int(round((width - size) / 2.0))
    return np.asarray(picture.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_center_crop_is_torchvisions(size):
    for height in range(1, 20):
        for width in range(1, 20):
            # No zero in the picture, so that padding is told from picture.
            image = np.maximum(CHINA[200 : 200 + height, 300 : 300 + width], 1)
            expected = torchvision_rule(image, size)
            np.testing.assert_array_equal(center_crop(image, size), expected)


def test_center_crop_of_photographs():
    for image in (CHINA, FLOWER, CHINA[:100], CHINA[:, :223], CHINA[:225, :227]):
        view = center_crop(image, 224)
        np.testing.assert_array_equal(view, torchvision_rule(image, 224))
    np.testing.assert_array_equal(center_crop(CHINA, 224), CHINA[102:326, 208:432])
    small = center_crop(np.full((1, 2, 3), 9, np.uint8), 4)  # odd pixel at the far end
    assert small[..., 0].tolist() == [
        [0, 0, 0, 0],
        [0, 9, 9, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


@pytest.fixture(scope="module")
def hugging_face():
    import transformers  # here, since it takes seconds

    # Named ...Pil since transformers has a torchvision one besides; 5.0.0 has it under
    # the plain name.
    processor = getattr(transformers, "CLIPImageProcessorPil", None)
    processor = processor or transformers.CLIPImageProcessor

    def geometry(image: np.ndarray, size: int) -> np.ndarray:
        made = processor(
            do_rescale=False,
            do_normalize=False,
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
        )(
            Image.fromarray(image),
            return_tensors="np",
            input_data_format="channels_last",  # 3 rows are not 3 channels
        )
        return np.moveaxis(np.asarray(made["pixel_values"][0]), 0, -1)

    return geometry


SIZES = [(h, w) for h in (1, 2, 3, 5, 8, 13, 31, 64) for w in (1, 2, 7, 32, 63, 64)]


@pytest.mark.parametrize("size", [1, 14, 15, 32])
def test_resize_center_crop_is_transformers_small(hugging_face, size):
    for height, width in SIZES:
        image = CHINA[150 : 150 + height, 250 : 250 + width]
        view = resize_center_crop(image, size)
        assert view.dtype == np.uint8
        np.testing.assert_array_equal(view, hugging_face(image, size), f"{image.shape}")


def test_resize_center_crop_is_transformers_large(hugging_face):
    for height, width in (
        (224, 224),
        (224, 227),  # resized d % 4 == 3: torchvision's rule is one pixel off here
        (231, 224),
        (224, 225),
        (100, 333),
        (427, 640),
        (426, 223),
        (10, 640),
        (427, 1),
        (3, 3),
    ):
        image = CHINA[:height, :width]
        view = resize_center_crop(image, 224)
        np.testing.assert_array_equal(view, hugging_face(image, 224), f"{image.shape}")
    enlarged = np.asarray(Image.fromarray(FLOWER).resize((2403, 1801)))
    for size in (224, 336):
        view = resize_center_crop(enlarged, size)
        np.testing.assert_array_equal(view, hugging_face(enlarged, size))


def test_the_two_rules_of_cropping_differ():
    image = CHINA[:224, :227]
    assert not np.array_equal(resize_center_crop(image, 224), center_crop(image, 224))
    np.testing.assert_array_equal(resize_center_crop(image, 224), image[:, 1:225])
    np.testing.assert_array_equal(center_crop(image, 224), image[:, 2:226])


def test_oblong_pictures_take_no_more_memory_than_the_limit(monkeypatch):
    edge = np.zeros((1, 60_000, 3), np.uint8)
    edge[:, 30_000:] = 200  # in the very middle
    sizes, resize = [], Image.Image.resize

    def spy(self, size, *args):
        sizes.append(size)
        return resize(self, size, *args)

    monkeypatch.setattr(Image.Image, "resize", spy)
    for image in (edge, edge.swapaxes(0, 1)):
        view = resize_center_crop(image, 224)
        row = (view if image is edge else view.swapaxes(0, 1))[100, :, 0].astype(int)
        # A smooth step, dark half left and bright half right, its middle in the middle.
        assert row[0] < 20 and row[-1] > 180 and 95 < row[111] <= row[112] < 105
    assert max(w * h for w, h in sizes) <= images.MAX_PIXELS


def test_cutting_the_ends_first_gives_the_same_view(monkeypatch):
    for image in (FLOWER[200:203], FLOWER[200:203, :599], FLOWER[:, 300:304]):
        whole = resize_center_crop(image, 32).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(images, "MAX_PIXELS", 32 * 33)
            cut = resize_center_crop(image, 32).astype(int)
        if image.shape[0] > image.shape[1]:
            whole, cut = whole.swapaxes(0, 1), cut.swapaxes(0, 1)
        # The rounding of the long side and of the crop shift it by up to one pixel.
        between = np.stack([whole[:, :-2], whole[:, 1:-1], whole[:, 2:]])
        assert (cut[:, 1:-1] <= between.max(0) + 1).all()
        assert (cut[:, 1:-1] >= between.min(0) - 1).all()


def test_global_view():
    np.testing.assert_array_equal(global_view(CHINA, 64), center_crop(CHINA, 64))
    np.testing.assert_array_equal(
        global_view(CHINA, 64, geometry="clip"), resize_center_crop(CHINA, 64)
    )
    with pytest.raises(ValueError, match="unknown geometry 'clop'.* mean 'clip'"):
        global_view(CHINA, 64, geometry="clop")
    with pytest.raises(ValueError, match="allowed: item, clip$"):
        global_view(CHINA, 64, geometry="zzz")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (CHINA.astype(np.float32), "float32"),
        (CHINA[..., 0], r"\[427, 640\]"),
        (np.moveaxis(CHINA, -1, 0), r"\[3, 427, 640\]"),
        (CHINA[:0], r"\[0, 640, 3\]"),
        (CHINA.tolist()[:2], "list"),
    ],
)
def test_what_is_no_image(image, said):
    for view in (center_crop, resize_center_crop, images.letterbox):
        with pytest.raises(ValueError, match=said):
            view(image, 8)


# -------------------------------------------------------------------------------- boxes


@pytest.mark.parametrize(
    ("box", "width", "height", "pixels"),
    [
        ((0, 0, 1, 1), 640, 427, (0, 0, 640, 427)),
        ((0.1, 0.1, 0.3, 0.7), 10, 10, (1, 1, 3, 7)),  # 0.3 * 10 > 3, 0.7 * 10 < 7
        ((0.25, 0.5, 0.55, 0.99), 10, 10, (2, 5, 6, 10)),
        ((0.29, 0.58, 0.57, 1.0), 100, 50, (29, 29, 57, 50)),
        ((-0.5, -0.1, 1.5, 2.0), 10, 20, (0, 0, 10, 20)),
        ((1.2, 0.0, 1.5, 1.0), 10, 10, (10, 0, 10, 10)),
        ((-0.5, 0.0, -0.2, 1.0), 10, 10, (0, 0, 0, 10)),
        ((0.5, 0.5, 0.5, 0.5), 10, 10, (5, 5, 5, 5)),
    ],
)
def test_box_pixels(box, width, height, pixels):
    found = box_pixels(box, width, height)
    assert found == pixels and all(type(v) is int for v in found)


def test_boxes_of_whole_pixels_come_back_in_float64_and_float32():
    for length in (7, 10, 224, 640, 1000, 4096):
        edges = np.arange(length + 1)
        for dtype in (np.float64, np.float32):
            fractions = (edges / length).astype(dtype)
            for start in range(0, length, max(1, length // 50)):
                for stop in {start + 1, length, (start + length + 1) // 2}:
                    box = (fractions[start], 0, fractions[stop], 1)
                    assert box_pixels(box, length, 9) == (start, 0, stop, 9)


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 1),
        (0, 0, 1, 1, 1),
        (0.5, 0, 0.4, 1),
        (0, 0.5, 1, 0.4),
        (0, 0, float("nan"), 1),
        (0, 0, float("inf"), 1),
    ],
)
def test_what_is_no_box(box):
    with pytest.raises(ValueError, match="four finite numbers"):
        box_pixels(box, 10, 10)


def test_object_view_cuts_the_original():
    box = (100 / 640, 50 / 427, 300 / 640, 150 / 427)
    part = CHINA[50:150, 100:300]
    view = object_view(CHINA, box, 224)
    assert view.shape == (224, 224, 3) and view.dtype == np.uint8
    np.testing.assert_array_equal(view, resize_center_crop(part, 224))
    whole = object_view(CHINA, (0, 0, 1, 1), 224)
    np.testing.assert_array_equal(whole, resize_center_crop(CHINA, 224))


def test_object_view_padded():
    box = (100 / 640, 50 / 427, 300 / 640, 150 / 427)  # 200 x 100
    view = object_view(CHINA, box, 224, crop="pad")
    part = Image.fromarray(CHINA[50:150, 100:300])
    inside = part.resize((224, 112), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(view[56:168], inside)
    assert view[:56].max() == 0 and view[168:].max() == 0
    tall = object_view(CHINA, (0.5, 0, 0.5 + 8 / 640, 1), 224, crop="pad")
    assert tall[:, :110].max() == 0 and tall[:, 110:114].min() > 0
    assert tall[:, 114:].max() == 0


def test_object_view_drops_small_boxes():
    def view(width, height, **options):
        return object_view(CHINA, (0, 0, width / 640, height / 427), 32, **options)

    assert view(8, 8) is not None
    assert view(7, 100) is None and view(100, 7) is None
    assert view(7, 7, min_pixels=7) is not None
    assert object_view(CHINA, (1.5, 0, 2, 1), 32, min_pixels=0) is None
    with pytest.raises(ValueError, match="unknown crop 'padd'.* mean 'pad'"):
        view(100, 100, crop="padd")
