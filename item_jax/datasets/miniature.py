"""The miniature world: a small closed world on which every stage runs for real.

Procedurally drawn scenes, fakes of small generative models of several families, a
small CLIP, and the captions and boxes of a captioner and a detector that look at the
pixels, all made by `scripts/miniature`. It shows that the machine works and what the
method does in a toy world, not what ITEM scores on a benchmark.

Texts come in two modes. "captioned" is ITEM: what a captioner that has seen no fake
says of the pixels. In "prompt" a fake has the sentence and boxes that it was drawn
from, so that misalignment means being untrue to the prompt.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from item_jax import config, files
from item_jax.choices import nearest
from item_jax.datasets.folder import FolderDataset
from item_jax.datasets.local import shared_folder

TEXTS = ("captioned", "prompt")


def dataset() -> FolderDataset:
    """Opens the world's images with what captioner and detector say of them."""
    folder = world()
    return FolderDataset(folder / "images", *text_files(folder))


def prompts() -> FolderDataset:
    """Opens them with the prompts, `item_jax.datasets.miniature:prompts`."""
    folder = world()
    return FolderDataset(folder / "images", *text_files(folder, "prompt"))


def world() -> Path:
    """Returns the unpacked world, shared by all who use it.

    It is unpacked once for each version of the asset, into the temporary folder.
    """
    with resources.as_file(_asset()) as path:
        version = files.sha256(path)[:16]
    return unpack(shared_folder() / f"miniature-{version}")


def text_files(world: str | Path, texts: str = "captioned") -> tuple[Path, Path]:
    """Returns the paths of `captions.jsonl` and `objects.jsonl`.

    Args:
      world: the folder `unpack` returned.
      texts: one of `TEXTS`.

    Raises:
      ValueError: for another mode.
    """
    if texts not in TEXTS:
        raise ValueError(f"unknown texts {texts!r}; {nearest(texts, TEXTS)}")
    folder = Path(world) / ("prompt" if texts == "prompt" else "")
    return folder / "captions.jsonl", folder / "objects.jsonl"


def unpack(folder: str | Path) -> Path:
    """Unpacks the world and returns where it is.

    Args:
      folder: gets `miniature/` with `images/`, `captions.jsonl` and `objects.jsonl`,
        the same in `prompt/`, and `clip/`, `captioner/` (checkpoints in Hugging Face
        format) and `detector/`; one that is there is kept.
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


def claims() -> dict[str, Any]:
    """Returns which claims hold here: what `claims.py` has measured.

    Returns:
      {claim: {"whose" ("papers", or "ours" for what neither paper compares),
      "difference" (of AUC, in percent), "interval_95", "covers" (what is in the
      interval), "p_holm", "verdict" ("holds" or "fails" if "p_holm" is below .05, else
      "undecided"), ...}}, of heads trained on `vae` with captions, averaged over the
      families that they have not seen.
    """
    return measured_claims()["trained_on"]["vae"]["captioned"]["claims"]


def measured_claims() -> dict[str, Any]:
    """Returns all that `scripts/miniature/claims.py` has measured."""
    path = resources.files("item_jax") / "assets" / "miniature_claims.json"
    return json.loads(path.read_text())


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
