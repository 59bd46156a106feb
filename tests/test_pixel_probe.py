import numpy as np
import pytest
from scipy.fft import dctn

from item_jax.images import decode
from item_jax.perturb import encode_jpeg
from item_jax.pixel_probe import FLOOR, features, probe


def noise(seed, shape=(64, 96)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_features_by_hand():
    image = noise(0, (40, 48))
    grey = image.astype(float) @ [0.299, 0.587, 0.114]
    blocks = [
        np.abs(dctn(grey[y : y + 8, x : x + 8], norm="ortho"))
        for y in range(0, 40, 8)
        for x in range(0, 48, 8)
    ]
    found = features(image)
    assert found.shape == (80,) and found.dtype == np.float32
    expected = np.log(np.mean(blocks, 0).ravel() + FLOOR)
    np.testing.assert_allclose(found[:64], expected, atol=1e-4)
    power = np.abs(np.fft.fft2(grey - grey.mean())) ** 2 / grey.size
    radius = np.hypot(np.fft.fftfreq(40)[:, None], np.fft.fftfreq(48)) * 2
    # White noise has the same power everywhere.
    ring = power[(radius >= 0.5) & (radius < 0.5625)].mean()
    assert found[64 + 8] == pytest.approx(np.log(ring + FLOOR), abs=0.15)
    assert np.ptp(found[64 + 2 :]) < 1


def test_flat_small_and_large_images():
    flat = features(np.full((64, 64, 3), 90, np.uint8))
    assert np.isfinite(flat).all() and flat[1] == pytest.approx(np.log(FLOOR), abs=0.1)
    assert features(noise(0, (31, 200))) is None
    assert features(noise(0, (32, 33))).shape == (80,)
    large = noise(1, (700, 2000))
    # The middle square, its corner on the grid of 8 x 8 blocks.
    np.testing.assert_array_equal(
        features(large), features(large[88 : 88 + 512, 744 : 744 + 512])
    )


def test_the_grid_of_blocks_is_seen_in_large_images_too():
    faint = 100 + noise(2, (720, 720)) // 8
    jpeg = decode(encode_jpeg(faint, 30))
    gone = [(features(x)[:64] < np.log(0.5)).sum() for x in (faint, jpeg, jpeg[4:, 4:])]
    assert gone[0] == 0 and gone[1] > 30, "coefficients that JPEG rounds to zero"
    assert gone[2] < gone[1], "off the grid they are not"


def test_a_probe_finds_processing_and_nothing_else():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 80))
    labels = np.repeat([0, 1], 150)
    found = probe(x, labels)
    low, high = found["interval_95"]
    assert abs(found["auc"] - 0.5) < 0.12 and low <= found["auc"] <= high
    assert (found["n_real"], found["n_fake"]) == (150, 150)
    x[labels == 1, 7] += 2
    found = probe(x, labels)
    assert found["auc"] > 0.8 and found["interval_95"][0] > 0.75
    assert found == probe(x, labels), "repeatable"


def test_too_few_images():
    assert probe(np.zeros((19, 80)), np.repeat([0, 1], [10, 9])) is None
    assert probe(np.zeros((15, 80)), np.zeros(15, int)) is None
    found = probe(np.zeros((20, 80)), np.repeat([0, 1], 10))
    assert found["auc"] == 0.5, "features that are all equal"
