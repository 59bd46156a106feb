"""The perturbations of ITEM's Fig. 4 on real photographs."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest, norm
from sklearn.datasets import load_sample_image

from item_jax.images import ImageError
from item_jax.perturb import (
    NAMES,
    PERTURBATIONS,
    SEVERITIES,
    Perturbation,
    label,
    parse,
    perturb,
)

CHINA = load_sample_image("china.jpg")  # uint8 [427, 640, 3]
FLOWER = load_sample_image("flower.jpg")
GREY = np.full((400, 400, 3), 128, np.uint8)
ALL = [(name, severity) for name in SEVERITIES for severity in (1, 2, 3)]


def change(image, name, severity, **options):
    """What the perturbation adds, in fractions of 255."""
    after = perturb(image, name, severity, **options)
    return (after.astype(float) - image) / 255


def test_the_papers_table():
    assert SEVERITIES["noise"] == (0.001, 0.005, 0.01)
    assert SEVERITIES["blur"] == (1, 2, 3)
    assert SEVERITIES["jpeg"] == (75, 50, 25)
    assert NAMES == ("none", "noise", "noise-ycbcr", "noise-std", "blur", "jpeg")


@pytest.mark.parametrize(("name", "severity"), ALL)
def test_shape_dtype_and_the_input_untouched(name, severity):
    for image in (CHINA[:61, :83], CHINA[100:101, :1]):
        before = image.copy()
        after = perturb(image, name, severity)
        assert after.dtype == np.uint8 and after.shape == image.shape
        np.testing.assert_array_equal(image, before)


def test_none_is_the_image():
    assert perturb(CHINA, "none", 0) is CHINA


@pytest.mark.parametrize("name", SEVERITIES)
def test_severities_grow(name):
    for image in (CHINA, FLOWER):
        sizes = [np.abs(change(image, name, severity)).mean() for severity in (1, 2, 3)]
        assert 0 < sizes[0] < sizes[1] < sizes[2]


# ----------------------------------------------------------------------------- noise


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_noise_has_the_variance_of_the_table(severity):
    # On mid-grey nothing is clipped; rounding to 256 levels adds 1/12 of a level.
    added = change(GREY, "noise", severity, key="a")
    variance = SEVERITIES["noise"][severity - 1] + 1 / 12 / 255**2
    assert added.var() == pytest.approx(variance, rel=0.008)
    assert abs(added.mean()) < 4 * np.sqrt(variance / added.size)
    correlation = np.corrcoef(added.reshape(-1, 3).T)
    assert np.abs(correlation - np.eye(3)).max() < 0.02  # channels are independent


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_noise_std_takes_the_value_as_standard_deviation(severity):
    added = change(GREY, "noise-std", severity, key="a")
    # Below one level the rounding matters: level k is drawn for k - 0.5 .. k + 0.5.
    levels = np.arange(-20, 21)
    edges = norm.cdf(
        np.append(levels - 0.5, 20.5) / 255, scale=0.001 * (1, 5, 10)[severity - 1]
    )
    variance = (np.diff(edges) * (levels / 255) ** 2).sum()
    assert added.var() == pytest.approx(variance, rel=0.02)


def test_noise_in_ycbcr():
    """Taken back to Y'CbCr, luma and chroma each have the table's variance."""
    added = change(GREY, "noise-ycbcr", 1, key="a").reshape(-1, 3)
    red, green, blue = added.T
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    cb, cr = (blue - luma) / 1.773, (red - luma) / 1.403
    assert luma.std() * 219 / 255 == pytest.approx(0.001**0.5, rel=0.02)
    assert cb.std() * 224 / 255 == pytest.approx(0.001**0.5, rel=0.02)
    assert cr.std() * 224 / 255 == pytest.approx(0.001**0.5, rel=0.02)
    correlation = np.corrcoef([luma, cb, cr])
    assert np.abs(correlation - np.eye(3)).max() < 0.03


def test_noise_is_gaussian():
    added = change(GREY[:100, :100], "noise", 3, key="a").ravel()
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, added.size) / 255
    assert kstest(added + dither, "norm", args=(0, 0.1)).pvalue > 1e-3


def test_noise_is_clipped_and_does_not_wrap():
    for level in (0, 255):
        flat = np.full((100, 100, 3), level, np.uint8)
        after = perturb(flat, "noise", 3)
        assert (after == level).mean() == pytest.approx(0.5, abs=0.05)
        assert np.abs(after.astype(int) - level).max() < 200


def test_noise_is_bound_to_the_key_and_not_to_the_order():
    keys = [f"real/{i}.png" for i in range(4)]
    image = CHINA[:50, :50]
    forward = {key: perturb(image, "noise", 1, key=key) for key in keys}
    backward = {key: perturb(image, "noise", 1, key=key) for key in reversed(keys)}
    for key in keys:
        np.testing.assert_array_equal(forward[key], backward[key])
    assert len({pixels.tobytes() for pixels in forward.values()}) == 4


def test_every_part_of_the_choice_counts():
    image = GREY[:20, :20]
    seen = {
        perturb(image, name, severity, key=key).tobytes()
        for name in ("noise", "noise-ycbcr")
        for severity in (1, 2)
        for key in ("a", "b", "1", "")
    }
    assert len(seen) == 16


def test_no_two_perturbations_share_their_draws():
    draws = [
        change(GREY, name, severity, key="a").ravel()
        for name in ("noise", "noise-std")
        for severity in (2, 3)
    ]
    correlation = np.corrcoef(draws)
    assert np.abs(correlation - np.eye(4)).max() < 0.01


def test_noise_of_one_key_does_not_drift():
    """The same pixels in another process, whatever Python's own hashing."""
    program = (
        "import hashlib, numpy as np; from item_jax.perturb import perturb;"
        "image = np.full((20, 20, 3), 128, np.uint8);"
        "print(hashlib.sha256(perturb(image, 'noise', 2, key='k\\u00e9')).hexdigest())"
    )
    here = hashlib.sha256(perturb(GREY[:20, :20], "noise", 2, key="ké")).hexdigest()
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PYTHONHASHSEED": "7",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == here


def test_keys_of_undecodable_file_names():
    perturb(GREY[:8, :8], "noise", 1, key="\udcff\udcfe.jpg")


# ----------------------------------------------------------------------------- blur


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_blur_is_scipys_filter_channel_by_channel(severity):
    # As CNNDetection and UniFD do it: each channel by itself, in place, on uint8.
    expected = CHINA.copy()
    for channel in range(3):
        plane = expected[:, :, channel]
        gaussian_filter(plane, output=plane, sigma=severity)
    found = perturb(CHINA, "blur", severity)
    away = abs(found.astype(int) - expected)
    # The last bit of scipy's weights depends on the CPU, ours does not: the digests
    # below are those of any machine.
    assert away.max() <= 1 and away.mean() < 1e-3


def test_blur_of_a_point_has_the_width_of_the_table():
    for severity in (1, 2, 3):
        point = np.zeros((61, 61, 3), np.uint8)
        point[20:41, 20:41] = 255  # a square, since a point would fall below one level
        spread = perturb(point, "blur", severity)[30, :, 0].astype(float)
        slope = -np.diff(spread[30:])  # the filter itself, at the square's edge
        where = np.arange(len(slope)) - 10
        variance = (slope * where**2).sum() / slope.sum()
        assert variance == pytest.approx(severity**2, rel=0.15)


# ----------------------------------------------------------------------------- jpeg


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_jpeg_is_pillows(severity):
    file = io.BytesIO()
    quality = SEVERITIES["jpeg"][severity - 1]
    Image.fromarray(CHINA).save(file, "JPEG", quality=quality)
    stored = Image.open(file)
    assert stored.layer[0][1:3] == (2, 2)  # luma has twice the samples: 4:2:0
    np.testing.assert_array_equal(perturb(CHINA, "jpeg", severity), stored)


def test_jpeg_too_long_is_an_image_error():
    thread = np.zeros((1, 65_501, 3), np.uint8)
    with pytest.raises(ImageError, match="65501 x 1 pixels.* at most 65,500"):
        perturb(thread, "jpeg", 1)
    assert perturb(thread[:, :-1], "jpeg", 1).shape == (1, 65_500, 3)


# ----------------------------------------------------------------------------- names


@pytest.mark.parametrize(("name", "severity"), [("none", 0), *ALL])
def test_labels_are_read_back(name, severity):
    assert parse(label(name, severity)) == (name, severity)


def test_labels():
    assert label("noise", 2) == "noise:2" and label("none", 0) == "none"
    assert parse("none") == parse("none:0") == ("none", 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nois:2", "unknown perturbation 'nois'.* mean 'noise'"),
        ("jpg:1", "allowed: none, noise, noise-ycbcr, .* mean 'jpeg'"),
        ("", "unknown perturbation ''"),
        ("noise", "has no severity; write noise:1, noise:2 or noise:3"),
        ("noise:", "has no severity"),
        ("noise:0", "severity 0 of perturbation 'noise'; allowed: 1, 2, 3"),
        ("noise:4", "severity 4"),
        ("noise:0.005", "severity '0.005' of perturbation 'noise'; allowed: 1, 2, 3"),
        ("noise:-1", "severity '-1'"),
        ("noise:2:3", "perturbation 'noise:2': tried to import noise"),
        ("my.module:f", "has no severity; write my.module:f:1, my.module:f:2 or"),
        ("my.module", "has no severity; write my.module:1"),
        ("no.such:f:1", "tried to import no.such: ModuleNotFoundError.*allowed: none"),
        ("none:1", "severity 1 of perturbation 'none'; allowed: 0"),
    ],
)
def test_what_is_no_perturbation(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text)


def test_wrong_arguments():
    for call in (lambda n, s: perturb(CHINA, n, s), label):
        with pytest.raises(ValueError, match="unknown perturbation 'blurr'.* 'blur'"):
            call("blurr", 1)
        with pytest.raises(ValueError, match="severity 0 of perturbation 'blur'"):
            call("blur", 0)
        with pytest.raises(ValueError, match="severity 1 of perturbation 'none'"):
            call("none", 1)
    for image in (CHINA / 255, CHINA[..., 0], CHINA[:0]):
        with pytest.raises(ValueError, match=r"uint8 array \[H, W, 3\]"):
            perturb(image, "blur", 1)


# ---------------------------------------------------------------- strips and the table


DIGESTS = {  # of version 0.1, which drew the noise of an image at once
    "noise:2": "bcd445e5e0b58c1612c3c346e8bfce0703f6cca2d0ed40e53f39425fea713325",
    "noise-ycbcr:1": "c78459c4cc5ecb955a6007654f51ed82e4a49b0c95ba6f475197243a7cf5fad7",
    "noise-std:3": "2ef17a643b62fde9a58b042958ad8d3397791db3068f2bb20c43314657370ba2",
    "blur:2": "0001f9b7a6210c17fb36e4bb8576d8f6fa742bf6a494bf220f58d2248e0277f6",
    "jpeg:1": "6a60c1bb4c13721af381ee1fc219deed95c57265955290c7e0bc577944f12c51",
}


@pytest.mark.parametrize("text", DIGESTS)
def test_values_are_those_of_version_0_1(text):
    """2.5 megapixels: three strips of rows."""
    large = np.tile(CHINA, (3, 3, 1))
    after = perturb(large, *parse(text), key="b")
    assert hashlib.sha256(after).hexdigest() == DIGESTS[text]


def test_noise_takes_the_memory_of_a_strip():
    image = np.zeros((4000, 3000, 3), np.uint8)
    tracemalloc.start()
    perturb(image, "noise-ycbcr", 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < image.nbytes + 100e6, "at once it would be 500 MB"


def test_a_new_entry_of_the_table_is_applied(monkeypatch):
    """An unknown one once fell through to noise."""
    flip = Perturbation((1, 2, 3), lambda image, value, generator: image[::-1])
    monkeypatch.setitem(PERTURBATIONS, "flip", flip)
    np.testing.assert_array_equal(perturb(CHINA, "flip", 1), CHINA[::-1])
    assert parse("flip:3") == ("flip", 3) and label("flip", 3) == "flip:3"


# ------------------------------------------------------------------------ from outside


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "their_pixels.py").write_text(
        """
import numpy as np

def darker(image, severity, generator):
    image //= 2 ** severity  # in place: it has a copy of its own
    image[0, 0] = generator.integers(0, 256, 3)
    return image

perturb = darker

def floats(image, severity, generator):
    return image / 255

def smaller(image, severity, generator):
    return image[1:]

def broken(image, severity, generator):
    raise KeyError("x")

number = 3
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("their_pixels", None)


def test_a_function_from_outside(outside):
    name, severity = parse("their_pixels:darker:2")
    assert (name, severity) == ("their_pixels:darker", 2)
    assert label(name, severity) == "their_pixels:darker:2"
    before = CHINA.copy()
    one, again = (perturb(CHINA, name, 2, key="a") for _ in range(2))
    other = perturb(CHINA, name, 2, key="b")
    np.testing.assert_array_equal(CHINA, before)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one[1:], CHINA[1:] // 4)
    assert (one[0, 0] != other[0, 0]).any()  # randomness is bound to the key


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("floats", r"returned float64 \[427, 640, 3\] for 'k'; expected uint8"),
        ("smaller", r"returned uint8 \[426, 640, 3\].*expected uint8 \[427, 640, 3\]"),
        ("broken", "failed on 'k': KeyError: 'x'"),
        ("number", "is not a function but 3"),
        ("darkr", "has no 'darkr'.*Did you mean 'darker'"),
    ],
)
def test_what_a_function_from_outside_gives_is_checked(outside, function, said):
    with pytest.raises(ValueError, match=said):
        perturb(CHINA, f"their_pixels:{function}", 1, key="k")


def test_names_are_text_and_severities_exist_outside_too(outside):
    with pytest.raises(ValueError, match="severity 4 of perturbation 'their_pixels:d"):
        parse("their_pixels:darker:4")
    with pytest.raises(ValueError, match="given by its name, not 3; allowed: none"):
        label(3, 1)
