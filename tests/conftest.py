"""Strict settings for every test, and the small things many of them need."""

import os

# Before JAX wakes up: eight emulated devices, and nothing from the network.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

import random_clip  # noqa: E402
from item_jax import config as config_lib  # noqa: E402
from item_jax.records import Object, Record  # noqa: E402
from item_jax.towers.load import load_towers  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A random tiny checkpoint on disk and its torch model."""
    folder = tmp_path_factory.mktemp("clip")
    return folder, random_clip.save_random_clip(folder, "tiny")


@pytest.fixture(scope="session")
def towers(tiny_clip):
    """Our towers of `tiny_clip`, float32, 32-pixel views, 32 dimensions."""
    return load_towers(tiny_clip[0])


@pytest.fixture
def config():
    """The defaults, with small batches and shards."""
    c = config_lib.default()
    c.embed.batch_size = 16
    c.embed.text_batch_size = 16
    c.embed.shard_size = 10
    c.embed.threads = 2
    c.evaluate.bootstrap = 20
    return c


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 24 pictures and their records: half real, half fake, two
    generators, two splits, 0 to 3 objects, captions of several lengths."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    records = []
    for i in range(24):
        label = ("real", "fake")[i % 2]
        split = ("train", "test")[i // 2 % 2]
        generator = ("gan", "vae")[i // 4 % 2]
        key = f"{split}/{generator}/{('0_real', '1_fake')[i % 2]}/{i:03d}.png"
        picture = rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
        if label == "fake":
            picture //= 2
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / key)
        objects = tuple(
            Object(f"thing {j}", (0.1 * j, 0.2, 0.1 * j + 0.5, 0.9), 0.9 - 0.1 * j)
            for j in range(i % 4)
        )
        caption = f"a picture of number {i}" + " and so on" * (i % 3 * 4)
        records.append(Record(key, label, "own", generator, split, caption, objects))
    return root, records
