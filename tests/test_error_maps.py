"""DIRE: error maps that a sidecar makes, and the classifier that reads them."""

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from item_jax import config as config_lib
from item_jax import files, settings
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import RecordList
from item_jax.embed import embed_records
from item_jax.embeddings import Embeddings
from item_jax.error_maps import ErrorMaps
from item_jax.methods import dire
from item_jax.pixels import Pictures
from item_jax.train import fit_method
from item_jax.training_data import training_set
from item_sidecars import reconstruct, run
from item_sidecars.ranks import Ranks

SETTINGS = {
    **{"id": "m", "revision": "1", "steps": 4, "size": 16, "dtype": "float32"},
    "geometry": reconstruct.GEOMETRY,
}


def made(steps=4, size=16):
    """A model whose noise is known: it depends on pixel and timestep."""
    timesteps = np.arange(steps) * (1000 // steps)
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[timesteps]

    def predict(x, timestep):
        return torch.sin(3 * x + timestep / 100)

    return reconstruct.Reconstructor(predict, alphas, timesteps, size, SETTINGS)


def test_the_way_to_noise_and_back_is_that_of_the_paper():
    """DIRE, Eqs. 4 and 5, in NumPy, with its code's cut to [-1, 1] and its ends."""
    model = made()
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, 3, 16, 16))
    found = model.reconstruct(torch.tensor(x)).numpy()
    a = model.alphas
    path = [(i, a[i + 1] if i < 3 else 0) for i in range(4)]
    path += [(i, a[i - 1] if i else 1) for i in (3, 2, 1, 0)]
    for i, then in path:
        noise = np.sin(3 * x + model.timesteps[i] / 100)
        clean = np.clip(x / np.sqrt(a[i]) - np.sqrt(1 / a[i] - 1) * noise, -1, 1)
        noise = (x / np.sqrt(a[i]) - clean) / np.sqrt(1 / a[i] - 1)
        x = np.sqrt(then) * clean + np.sqrt(1 - then) * noise
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-6)


def center_crop_arr(picture, size):
    """What guided-diffusion's loader does to a picture, told anew from its source
    (DIRE, `guided_diffusion/image_datasets.py`), on a PIL image."""
    width, height = picture.size
    while width >= 2 * size and height >= 2 * size:
        width, height = width // 2, height // 2
        picture = picture.resize((width, height), Image.Resampling.BOX)
    scale = size / (width if width < height else height)
    width, height = int(np.rint(width * scale)), int(np.rint(height * scale))
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize("size", [16, 24, 64, 256])
def test_pictures_become_squares_as_in_dires_loader(size):
    """Smaller and larger ones, squares, halved up to five times, odd rests."""
    china = Image.fromarray(load_sample_image("china.jpg"))
    for width, height in (
        *((20, 31), (31, 20), (20, 20), (16, 16), (24, 25), (10, 40), (7, 5)),
        *((64, 65), (127, 191), (256, 256), (257, 300), (640, 427), (500, 375)),
        *((1024, 768), (511, 512), (512, 513), (90, 700)),
    ):
        picture = china.resize((width, height), Image.Resampling.LANCZOS)
        found = reconstruct.squared(np.asarray(picture), size)
        expected = center_crop_arr(picture, size).astype(np.float32) / 127.5 - 1
        assert found.dtype == torch.float32 and found.shape == (3, size, size)
        np.testing.assert_array_equal(found.permute(1, 2, 0), expected)


def test_an_oblong_picture_is_not_blown_up(monkeypatch):
    sizes, resize = [], Image.Image.resize

    def spy(self, size, *args):
        sizes.append(size)
        return resize(self, size, *args)

    monkeypatch.setattr(Image.Image, "resize", spy)
    edge = np.zeros((1, 400_000, 3), np.uint8)
    edge[:, 200_000:] = 200
    row = (reconstruct.squared(edge, 256)[0, 100].numpy() + 1) * 127.5
    assert row[0] < 20 and row[-1] > 180 and 90 < row[127] <= row[128] < 110
    assert max(w * h for w, h in sizes) <= 2**27


def arguments(root, out, *more):
    words = ["--images", str(root), "--out", str(out), "--model", "m", "--workers", "2"]
    words += ["--batch-size", "4", "--shard-size", "8", *more]
    return reconstruct.parser().parse_args(words)


def make(root, out, *more):
    """The program's run, of a model that needs no diffusers."""
    options = arguments(root, out, *more)
    model = made()
    step = reconstruct.ReconstructStep(model, out / "maps")
    place = Ranks(0, 1, 0, "a single process")
    facts = {"reconstructor": model.settings}
    return run.run(step, run.list_images(root), options, place, facts)


TOWERS = types.SimpleNamespace(
    name="m", checkpoint_sha256="0", embed_dim=1, image_size=32, dtype="float32"
)
EMBEDDING = settings.embedding(TOWERS, config_lib.default(), {})


@pytest.fixture(scope="module")
def maps(photos, tmp_path_factory):
    """The maps of 24 pictures."""
    folder = tmp_path_factory.mktemp("maps")
    assert make(photos[0], folder) == 0
    return folder


def test_maps_are_pngs_under_the_keys_of_their_images(maps, tmp_path, photos):
    rows = [row for _, row in files.read_json_lines(maps / "reconstructions.jsonl")]
    assert [row["key"] for row in rows] == sorted(r.key for r in photos[1])
    model = made()
    for row in rows[:3]:
        path = maps / "maps" / row["key"]
        assert files.sha256(path) == row["map"] and row["status"] == "done"
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            found = np.asarray(picture)
        x = reconstruct.squared(np.asarray(Image.open(photos[0] / row["key"])), 16)
        away = abs(x - model.reconstruct(x[None])[0]).permute(1, 2, 0).numpy()
        assert abs(found - np.clip(127.5 * away, 0, 255)).max() <= 1
        read = ErrorMaps(maps, EMBEDDING)
        np.testing.assert_array_equal(read(row["key"]), found)
    # Continued from a shard: the same bytes.
    half = tmp_path / "half"
    assert make(photos[0], half) == 0
    (half / "reconstructions.jsonl").unlink()
    for path in (half / "parts").glob("part-00001*"):
        path.unlink()
    removed = half / "maps" / rows[8]["key"]
    removed.unlink()
    assert make(photos[0], half) == 0
    name = "reconstructions.jsonl"
    assert (half / name).read_bytes() == (maps / name).read_bytes()
    assert files.sha256(removed) == rows[8]["map"]


def test_maps_inside_the_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is inside --images"):
        reconstruct.reconstruct(arguments(tmp_path, tmp_path / "maps"))


def test_maps_of_other_images_are_refused(maps, tmp_path, photos):
    embedding = EMBEDDING
    with pytest.raises(ValueError, match="run.json does not exist: .* has no maps"):
        ErrorMaps(tmp_path, embedding)
    noisy = embedding | {"perturb": {"name": "noise", "severity": 2}}
    with pytest.raises(
        ValueError, match="by 'none', the cache by 'noise:2'; .*noise:2"
    ):
        ErrorMaps(maps, noisy)
    neutral = embedding | {"neutralise": {"quality": 96, "size": 0}}
    with pytest.raises(ValueError, match="were neutralised"):
        ErrorMaps(maps, neutral)
    other = json.loads((maps / "run.json").read_text())
    other["settings"]["stage"] = "caption"
    (tmp_path / "run.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="of a run of 'caption', not of error maps"):
        ErrorMaps(tmp_path, embedding)
    with pytest.raises(ValueError, match="error map 'gone.png'"):
        ErrorMaps(maps, embedding)("gone.png")
    none = np.zeros((0, 1))
    key = {"key": photos[1][0].key}
    part = Embeddings([key], none, none, none, none, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="reads error maps needs them"):
        part.error_map(0)
    pictures = Pictures(RecordList(photos[1], photos[0]), embedding)
    part = dataclasses.replace(part, images=pictures)
    with pytest.raises(ValueError, match="--config.data.error_maps=FOLDER names them"):
        part.error_map(0)


@pytest.mark.slow
def test_dire_is_trained_on_maps_and_scores_maps(maps, photos, towers, tmp_path):
    config = config_lib.default()
    config.embed.shard_size, config.embed.threads = 10, 2
    root, records = photos
    embed_records(records, towers, config, images=root, folder=tmp_path)
    cache, data = EmbeddingCache(tmp_path), RecordList(records, root)
    cache.images = Pictures(data, cache.embedding, ErrorMaps(maps, cache.embedding))
    config.train.epochs, config.train.batch_size = 2, 4
    training = training_set(cache, config)
    (fitted,) = fit_method("item_jax.methods.dire:small", training, config)
    part = next(iter(cache.select(split="test")))
    p = fitted.score(part)
    assert len(set(p)) == len(part)
    assert fitted.state["reconstruction"] == {
        name: SETTINGS[name] for name in dire.RECONSTRUCTION
    }
    cache.images.error_maps.settings = SETTINGS | {"steps": 20}
    with pytest.raises(ValueError, match="made with steps 20, those trained on with 4"):
        fitted.score(part)


@pytest.mark.slow
def test_maps_are_those_of_the_schedulers_of_diffusers(references, tmp_path):
    program = Path(__file__).parent / "diffusers_reference.py"
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)],
        env=references,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["rows"] == 6 and found["largest"] > 20
    assert found["away"] < 1.01  # levels of 255, which the file cuts to whole ones
