"""Strict settings for every test, and the small things many of them need."""

import os
from pathlib import Path

# Before JAX starts: eight emulated devices, and nothing from the network.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# Most of the time went to compiling the same small programs, in every process again.
# With a limit JAX locks the folder, which the processes of a test share.
COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**32))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402
import pytest  # noqa: E402

from item_jax import config as config_lib  # noqa: E402
from item_jax import testing  # noqa: E402
from item_jax.towers.towers import load_towers  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = [
    "sidecar_program",
    "references",
    "browser",
    "evaluations",
    "hub_server",
]


# These start many programs. They come first, so that no test process is left with one
# of them when the other has finished.
LONGEST = (
    *("test_main.py", "test_sidecar_runs.py", "test_experiments.py", "test_outside.py"),
    *("test_open_clip.py", "test_pixel_rivals.py", "test_distributed.py"),
    *("test_towers.py", "test_training_loop.py", "test_tfds.py", "test_pipeline.py"),
)


def pytest_collection_modifyitems(items):
    """Brings the longest files to the front; the order within a file stays."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST)
        )
    )


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A random tiny checkpoint on disk and its torch model."""
    from transformers import CLIPModel

    folder = testing.save_random_clip(tmp_path_factory.mktemp("clip"), "tiny")
    return folder, CLIPModel.from_pretrained(folder).eval()


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
    return c


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of 24 pictures and their records: half real, half fake, two
    generators, two splits, 0 to 3 objects, captions of several lengths."""
    root = tmp_path_factory.mktemp("photos")
    return root, testing.save_random_images(root)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Every tiny checkpoint of the sidecars by name, built when first asked for."""
    import tiny_captioners
    import tiny_grounders

    made = {}

    def get(name):
        if name not in made:
            build = {**tiny_captioners.CAPTIONERS, **tiny_grounders.GROUNDERS}[name]
            made[name] = build(tmp_path_factory.mktemp(name))
        return made[name]

    return get
