"""What each rival on pixels sees of a file: bit for bit what its authors' loader shows.

The files are real pictures (two photographs and a portrait that come with scikit-learn
and matplotlib, one of their graphics) in the sizes, modes, formats and orientations
that people have.
"""

import dataclasses
import math
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import torchvision_rules as torchvision
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from item_jax import images, methods
from item_jax.embeddings import Embeddings
from item_jax.methods import _pictures, cnndet, npr, patchforensics
from item_jax.methods._classifier import BATCHES, Classifier

ROOT = Path(__file__).parent.parent

SAMPLES = Path(matplotlib.get_data_path()) / "sample_data"


def sources():
    """The pictures that the files are made of, RGBA."""
    names = ("grace_hopper.jpg", "Minduka_Present_Blue_Pack.png")
    found = [
        Image.fromarray(load_sample_image(f"{n}.jpg")) for n in ("china", "flower")
    ]
    found += [Image.open(SAMPLES / name) for name in names]
    return [picture.convert("RGBA") for picture in found]


FILES = [
    # width, height, mode, suffix, EXIF orientation
    *((w, h, "RGB", "jpg", 1) for w, h in (
        (500, 375), (375, 500), (640, 480), (1024, 768), (768, 1024), (640, 427),
        (427, 640), (333, 500), (341, 256), (257, 343), (299, 450), (901, 603),
    )),
    *((w, h, "RGB", "png", 1) for w, h in (
        (150, 117), (117, 150), (223, 300), (300, 223), (224, 224), (225, 301),
        (256, 256), (299, 299), (512, 512), (97, 600), (600, 97), (31, 33), (8, 700),
    )),
    *((500, 375, "RGB", "jpg", turn) for turn in (2, 3, 5, 6, 7, 8)),
    (480, 361, "L", "jpg", 1), (301, 225, "L", "png", 1), (150, 117, "LA", "png", 1),
    (400, 301, "LA", "png", 1), (333, 500, "P", "png", 1), (120, 90, "P", "gif", 1),
    (500, 333, "RGBA", "png", 1), (200, 233, "RGBA", "webp", 1),
    (450, 301, "CMYK", "jpg", 1), (200, 150, "CMYK", "tiff", 1),
    (400, 299, "I;16", "png", 1), (130, 171, "I;16", "tiff", 1),
    (640, 479, "RGB", "bmp", 1), (371, 500, "RGB", "webp", 1),
]  # fmt: skip


def written(place, source, width, height, mode, suffix, turn):
    picture = source.resize((width, height), Image.Resampling.LANCZOS)
    if mode == "I;16":
        high = np.asarray(picture.convert("L")).astype(np.uint16)
        noise = np.random.default_rng(width).integers(0, 256, high.shape)
        picture = Image.fromarray((high * 256 + noise).astype(np.uint16))
    elif mode == "P":
        picture = picture.convert("RGB").quantize(64)
    else:
        picture = picture.convert("RGB" if mode == "CMYK" else mode).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {} if turn == 1 else {"exif": exif}
    picture.save(place, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder and the keys."""
    folder, found, keys = tmp_path_factory.mktemp("files"), sources(), []
    for i, (width, height, mode, suffix, turn) in enumerate(FILES):
        keys.append(f"{i}-{width}x{height}-{mode.replace(';', '')}-{turn}.{suffix}")
        place = folder / keys[-1]
        written(place, found[i % len(found)], width, height, mode, suffix, turn)
    return folder, keys


def loaded(place):
    """A file as ImageFolder's loader gives it, `Image.open(f).convert("RGB")`, and two
    things that methods/README.md says: upright, and of 16 bits the high ones."""
    with Image.open(place) as picture:
        if picture.mode.startswith("I"):
            grey = (np.asarray(picture).astype(np.int64) // 256).astype(np.uint8)
            return Image.fromarray(grey).convert("RGB")
        return ImageOps.exif_transpose(picture).convert("RGB")


def of(folder, keys):
    none = np.zeros((len(keys), 1), np.float32)
    return Embeddings(
        [{"key": key} for key in keys],
        *(none, none, none[:0], none[:0]),
        np.zeros(len(keys) + 1, np.int64),
        images=lambda key: images.read_image(folder, key),
    )


def duplicated(picture, size):
    """NPR's `translate_duplicate`, as its README describes it."""
    width, height = picture.size
    if min(width, height) >= size:
        return picture
    across, down = math.ceil(size / width), math.ceil(size / height)
    made = Image.new("RGB", (width * across, height * down))
    for i in range(across):
        for j in range(down):
            made.paste(picture, (i * width, j * height))
    return made


def resized_then_cropped(picture, size=256, crop=224, **options):
    return torchvision.center_crop(torchvision.resize(picture, size, **options), crop)


def lanczos(picture):
    options = {"resample": Image.Resampling.LANCZOS}
    return resized_then_cropped(picture, 299, 299, **options)


def without_odd_ends(picture):
    width, height = picture.size
    return picture.crop((0, 0, width - width % 2, height - height % 2))


THEIRS = {
    # CNNDetection: eval.py (no_resize), eval.py --no_crop, train.py (validation)
    "cnndet": lambda picture: torchvision.center_crop(picture, 224),
    "item_jax.methods.cnndet:whole": lambda picture: picture,
    "item_jax.methods.cnndet:resized": resized_then_cropped,
    # NPR-DeepfakeDetection: test.py, README (AIGCDetectBenchmark), README (GenImage)
    "npr": lambda picture: torchvision.resize(picture, (256, 256)),
    "item_jax.methods.npr:whole": without_odd_ends,
    "item_jax.methods.npr:genimage": lambda picture: torchvision.center_crop(
        duplicated(picture, 224), 224
    ),
    # patch-forensics: data/transforms.py (for_val), loadSize 299
    "patchforensics": lanczos,
    # yyk-wew/F3Net: utils.py, Pillow's default filter
    "f3net": lambda picture: picture.resize((299, 299)),
    # DIRE: utils/datasets.py (aug_resize, aug_crop); on maps, which are pictures too
    "dire": resized_then_cropped,
    "resnet50": resized_then_cropped,
    "swin_t": resized_then_cropped,
}


@pytest.mark.parametrize("name", THEIRS)
def test_what_is_scored_is_what_the_authors_loader_shows(name, files):
    folder, keys = files
    method, part = methods.get(name), of(folder, keys)
    if name == "dire":
        part = dataclasses.replace(part, images=Maps(part.images))
    found = method.views(part)
    assert len(found) == len(keys) >= 40
    for key, view in zip(keys, found):
        expected = np.asarray(THEIRS[name](loaded(folder / key)))
        np.testing.assert_array_equal(view, expected, err_msg=key)


def test_every_protocol_of_the_page_is_there_and_compared():
    """The table of methods/README.md, and the names in the methods' docstrings."""
    page = (ROOT / "item_jax/methods/README.md").read_text()
    table = page.partition("### Methods on pixels")[2].partition("They train")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    pooled = {f"item_jax.methods.patchforensics:{how}" for how in ("logits", "voted")}
    assert named == set(THEIRS) | pooled
    for module in (cnndet, npr, patchforensics):
        inside = re.findall(r"^    (item_jax\S+)", module.__doc__, re.MULTILINE)
        assert len(inside) == 2 and set(inside) <= named
    for name in named:
        ours = methods.get(name)
        assert ours.name.replace("-", ":") == name.removeprefix("item_jax.methods.")


class Maps:
    """Error maps for which the images themselves do."""

    def __init__(self, read):
        self.error_maps = read


def test_what_is_trained_on_is_torchvisions_square(files):
    """Of the middle: the one place where training pictures differ, see the methods."""
    folder, keys = files
    part = of(folder, keys)
    for name, expected in (
        ("cnndet", lambda p: resized_then_cropped(p, 256, 256)),
        ("npr", THEIRS["npr"]),
        ("patchforensics", THEIRS["patchforensics"]),
        (
            "item_jax.methods.npr:genimage",
            lambda p: torchvision.center_crop(duplicated(p, 256), 256),
        ),
    ):
        squares = methods.get(name).load(part)
        for key, square in zip(keys, squares):
            wanted = np.asarray(expected(loaded(folder / key)))
            np.testing.assert_array_equal(square, wanted, err_msg=f"{name} {key}")


def test_judging_by_the_middle_of_the_square_is_cropping_once():
    """The held-out images of CNNDetection: Resize(256), CenterCrop(224)."""
    picture = sources()[0].convert("RGB")
    for width in range(256, 420):
        own = picture.resize((width, 256))
        square = _pictures.middle(np.asarray(own), 256)[None]
        np.testing.assert_array_equal(
            _pictures.centred(square, 224)[0], torchvision.center_crop(own, 224)
        )


def test_pictures_of_one_pixel():
    with pytest.raises(ValueError, match="1 x 5 pixels; at least 2 x 2 are needed"):
        _pictures.even(np.zeros((5, 1, 3), np.uint8))
    with pytest.raises(ValueError, match="image '1': a picture of 1 x 5 pixels"):
        npr.whole.views(pictures_of([(4, 4), (5, 1)]))
    one = np.full((1, 1, 3), 7, np.uint8)
    assert (_pictures.tiled(one, 224) == 7).all()
    assert _pictures.middle(one, 256).shape == (256, 256, 3)
    with pytest.raises(ValueError, match="an image is a uint8 array"):
        _pictures.tiled(np.zeros((5, 5), np.uint8), 4)


def test_oblong_pictures_take_no_more_memory_than_the_limit(monkeypatch):
    sizes, resize = [], Image.Image.resize

    def spy(self, size, *args):
        sizes.append(size)
        return resize(self, size, *args)

    monkeypatch.setattr(Image.Image, "resize", spy)
    edge = np.zeros((1, 400_000, 3), np.uint8)
    edge[:, 200_000:] = 200
    for image in (edge, edge.swapaxes(0, 1)):
        view = _pictures.middle(image, 256)
        row = (view if image is edge else view.swapaxes(0, 1))[100, :, 0].astype(int)
        assert row[0] < 20 and row[-1] > 180 and 95 < row[127] <= row[128] < 105
        assert _pictures.tiled(image, 224).shape == (224, 224, 3)
    assert max(w * h for w, h in sizes) <= images.MAX_PIXELS


# ------------------------------------------------------------------- what a score costs


class Tiny(nn.Module):
    """Two layers, so that compiling takes no time."""

    @nn.compact
    def __call__(self, x, train=False, valid=None):
        return nn.Dense(1)(nn.relu(nn.Conv(4, (3, 3), 2)(x)).mean((1, 2)))[:, 0]


def counted(method):
    """The method with a tiny network, its state, and a list of the shapes that the
    network is run on."""
    method, shapes = dataclasses.replace(method, network=Tiny()), []
    scores = method._scores

    def spy(variables, pictures):
        shapes.append(pictures.shape)
        return scores(variables, pictures)

    method.__dict__["_scores"] = spy
    return method, method.init(jax.random.key(0)), shapes


def pictures_of(sides):
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sides]
    part = of(None, [str(i) for i in range(len(made))])
    return dataclasses.replace(part, images=lambda key: made[int(key)])


@pytest.mark.parametrize("name", ["npr", "resnet50", "cnndet", "patchforensics"])
def test_a_picture_costs_a_picture(name):
    method, state, shapes = counted(methods.get(name))
    every = pictures_of([(70, 60 + i % 9) for i in range(83)])
    expected = method.score(state, every)
    # 64 at once, and the rest of 19 in 8, 8 and three single ones: none is padding.
    assert [shape[0] for shape in shapes] == [64, 8, 8, 1, 1, 1]
    for count in (0, 1, 2, 7, 8, 9, 63, 64, 65):
        shapes.clear()
        found = method.score(state, every.take(np.arange(count)))
        assert sum(shape[0] for shape in shapes) == count == len(found)
        assert {shape[0] for shape in shapes} <= set(BATCHES) and len(BATCHES) <= 3
        np.testing.assert_allclose(found, expected[:count], atol=1e-6)


@pytest.mark.parametrize(
    "whole, trim", [(cnndet.whole, lambda n: n), (npr.whole, lambda n: n - n % 2)]
)
def test_whole_pictures_are_scored_one_by_one(whole, trim):
    sides = [(64, 48), (33, 71), (64, 48)]
    part = pictures_of(sides)
    method, state, shapes = counted(whole)
    found = method.score(state, part)
    assert shapes == [(1, trim(h), trim(w), 3) for h, w in sides]
    for i, (h, w) in enumerate(sides):
        image = part.image(i)[: trim(h), : trim(w)]
        logit = method.network.apply(state, method.scale(jnp.asarray(image)[None]))
        np.testing.assert_allclose(found[i], jax.nn.sigmoid(logit)[0], atol=1e-6)


@pytest.mark.parametrize("count, sizes", [(1, [1]), (5, [5]), (64, [64]), (65, [33])])
def test_held_out_pictures_are_judged_in_equal_batches(count, sizes):
    seen = []

    def scale(pictures):
        seen.append(pictures.shape)
        return pictures.astype(jnp.float32)

    class Bright:
        @staticmethod
        def apply(variables, x):
            return x.mean((1, 2, 3)) - 100

    method = Classifier(
        "bright", Bright(), _pictures.middle, 8, 6, 4, DEFAULTS={}, scale=scale
    )
    rng = np.random.default_rng(count)
    pictures = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 2, count)
    rows = {"pictures": jnp.asarray(pictures), "labels": jnp.asarray(labels)}
    found = method._accuracy({}, rows)
    expected = (pictures[:, 2:6, 2:6].mean((1, 2, 3)) > 100) == (labels == 1)
    assert found == pytest.approx(expected.mean())
    assert [shape[0] for shape in seen] == sizes
    assert all(shape[1:] == (4, 4, 3) for shape in seen)
