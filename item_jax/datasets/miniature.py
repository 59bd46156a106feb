"""The miniature world: a small closed world on which every stage runs for real.

Procedurally drawn scenes with a sentence and boxes, fakes of three small generative
models, and a small CLIP trained on such scenes, all made by `scripts/miniature`. It
shows that the machine works and what the method does in a toy world, not what ITEM
scores on a benchmark.
"""

from __future__ import annotations

import shutil
import zipfile
from importlib import resources
from pathlib import Path

from ml_collections import ConfigDict

from item_jax import config, files
from item_jax.datasets.folder import FolderDataset
from item_jax.datasets.local import shared_folder


def dataset() -> FolderDataset:
    """Opens the world's images with their captions and objects."""
    folder = world()
    return FolderDataset(
        folder / "images", folder / "captions.jsonl", folder / "objects.jsonl"
    )


def world() -> Path:
    """Returns the unpacked world, shared by all who use it.

    It is unpacked once for each version of the asset, into the temporary folder.
    """
    with resources.as_file(_asset()) as path:
        version = files.sha256(path)[:16]
    return unpack(shared_folder() / f"miniature-{version}")


def unpack(folder: str | Path) -> Path:
    """Unpacks the world and returns where it is.

    Args:
      folder: gets `miniature/` with `clip/` (a checkpoint in Hugging Face format),
        `images/`, `captions.jsonl` and `objects.jsonl`; one that is there is kept.
    """
    target = Path(folder) / "miniature"
    if target.is_dir():
        return target
    partial = files.partial_name(target)
    with resources.as_file(_asset()) as path, zipfile.ZipFile(path) as world:
        world.extractall(partial)
    try:
        partial.rename(target)
    except OSError:
        shutil.rmtree(partial)
        if not target.is_dir():
            raise
    return target  # perhaps that of another process, which was faster


def _asset():
    return resources.files("item_jax") / "assets" / "miniature.zip"


def get_config(world: str | Path) -> ConfigDict:
    """Returns the paper's configuration on the miniature world.

    Args:
      world: the folder `unpack` returned.
    """
    world = Path(world)
    c = config.default()
    c.tower = str(world / "clip")
    c.data.images = str(world / "images")
    c.train.generators = ("vae",)  # one family to train on, all to test on
    c.train.seeds = 5
    return c
