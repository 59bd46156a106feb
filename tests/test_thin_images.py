"""Images 1, 3 or 4 pixels high or wide: rows of pixels are not taken for channels."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tiny_captioners
import tiny_grounders
import torch

from item_sidecars import caption, ground

# Of transformers itself, in the processor of PaliGemma.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")

COLOUR = (200, 30, 90)
SIZES = [(h, w) for h in (1, 3, 4, 50) for w in (1, 3, 4, 50)]
GROUNDERS = ("mm-grounding-dino", "grounding-dino", "owlv2")


@functools.cache
def captioner(name, folder):
    model = tiny_captioners.CAPTIONERS[name](folder / name)
    words = ["--images", ".", "--out", "out", "--model", str(model)]
    return caption.load_captioner(caption.parser().parse_args(words))


@functools.cache
def grounder(name, folder):
    model = tiny_grounders.GROUNDERS[name](folder / name)
    known = ground.grounders()[name]
    return known.Grounder(str(model), name=name, dtype="auto", local_rank=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def pixels(adapter, image):
    """What the image tower gets, [N, 3, h, w], and the processor that made it."""
    prepared = adapter.prepare(image)
    processor = adapter._processor
    if hasattr(adapter, "_inputs"):
        found = adapter._inputs([prepared], adapter._prompt)["pixel_values"]
        processor = processor.image_processor
    else:
        found = prepared[0] if isinstance(prepared, tuple) else prepared
    return torch.as_tensor(found).float().reshape(-1, *found.shape[-3:]), processor


@pytest.mark.parametrize(
    "make, name",
    [(captioner, name) for name in tiny_captioners.CAPTIONERS]
    + [(grounder, name) for name in GROUNDERS if name != "owlv2"],
)
def test_one_colour_stays_one_colour(make, name, folder):
    """Each channel has its value everywhere, or that of a border."""
    adapter = make(name, folder)
    for size in SIZES:
        found, processor = pixels(adapter, np.full((*size, 3), COLOUR, np.uint8))
        assert found.shape[1] == 3
        for c in range(3):
            mean, std = processor.image_mean[c], processor.image_std[c]
            inside, border = (COLOUR[c] / 255 - mean) / std, (0 - mean) / std
            is_inside = (found[:, c] - inside).abs() < 0.02
            is_border = (found[:, c] - border).abs() < 0.02
            assert is_inside.any() and (is_inside | is_border).all(), size


def test_owlv2_sees_a_picture_and_its_mirror_alike(folder):
    """Its square is padded and smoothed, so that no pixel keeps its colour."""
    adapter = grounder("owlv2", folder)
    rng = np.random.default_rng(0)
    for size in SIZES:
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        found, _ = pixels(adapter, image)
        turned, _ = pixels(adapter, image.transpose(1, 0, 2))
        np.testing.assert_allclose(found, turned.transpose(-1, -2), atol=0.02)


@pytest.mark.parametrize("name", ["blip2", "blip", "llava", "florence2"])
def test_thin_images_are_captioned(name, folder):
    adapter = captioner(name, folder)
    images = [np.full((*size, 3), COLOUR, np.uint8) for size in SIZES]
    said = adapter.caption([adapter.prepare(image) for image in images])
    assert len(said) == len(images) and all(isinstance(text, str) for text in said)
    assert len(set(said)) == 1  # all are the same picture


@pytest.mark.parametrize("name", GROUNDERS)
def test_thin_images_are_grounded(name, folder):
    adapter = grounder(name, folder)
    phrases = [{"phrase": "a dog", "span": [0, 5]}]
    for size in SIZES:
        image = np.full((*size, 3), COLOUR, np.uint8)
        [(boxes, scores)] = adapter.ground(
            [adapter.prepare(image)], ["a dog"], [phrases]
        )
        assert boxes.shape == (len(scores), 4) and scores.shape[1] == 1
        assert np.isfinite(boxes).all() and np.isfinite(scores).all()


@pytest.mark.parametrize("name", ["blip", "blip2"])
def test_ordinary_images_are_what_they_were(name, folder):
    """Compared with the processor as its documentation calls it."""
    adapter = captioner(name, folder)
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    theirs = adapter._processor(image, return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(pixels(adapter, image)[0], theirs)
