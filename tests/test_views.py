"""Pixels in, views out: exact geometry, and what a box touches."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from item_jax import views
from item_jax.images import MAX_PIXELS
from item_jax.views import (
    box_pixels,
    center_crop,
    global_view,
    letterbox,
    object_view,
    resize_center_crop,
)

CHINA = load_sample_image("china.jpg")  # a photograph, uint8 [427, 640, 3]
FLOWER = load_sample_image("flower.jpg")


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


@pytest.mark.parametrize("name, filter", [("squash", 3), ("squash_bilinear", 2)])
def test_squash_is_that_of_siglip_in_transformers(name, filter):
    from transformers import SiglipImageProcessorPil

    for height, width, size in ((427, 640, 224), (100, 333, 256), (3, 640, 32)):
        image = CHINA[:height, :width]
        made = SiglipImageProcessorPil(
            do_rescale=False,
            do_normalize=False,
            size={"height": size, "width": size},
            resample=filter,
        )(
            Image.fromarray(image),
            return_tensors="np",
            input_data_format="channels_last",
        )
        expected = np.moveaxis(np.asarray(made["pixel_values"][0]), 0, -1)
        view = global_view(image, size, geometry=name)
        assert view.dtype == np.uint8
        np.testing.assert_array_equal(view, expected)


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
    assert max(w * h for w, h in sizes) <= MAX_PIXELS


def test_cutting_the_ends_first_gives_the_same_view(monkeypatch):
    for image in (FLOWER[200:203], FLOWER[200:203, :599], FLOWER[:, 300:304]):
        whole = resize_center_crop(image, 32).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(views, "MAX_PIXELS", 32 * 33)
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
    with pytest.raises(ValueError, match="item, clip, squash, squash_bilinear[.]$"):
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
    for view in (center_crop, resize_center_crop, letterbox):
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
