"""Error maps of images: what a diffusion model could not reconstruct, for DIRE.

`scripts/reconstruct.py` makes them: a folder with `maps/KEY`, a picture for each image,
and `run.json`, how they were made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from item_jax import files, images, perturb, settings

MAKE = "scripts/reconstruct.py makes them"


class ErrorMaps:
    """Maps by key, read and decoded when asked for.

    Attributes:
      settings: of the reconstruction: model, revision, steps, size, ...
    """

    def __init__(self, folder: str | Path, embedding: settings.Embedding):
        """Opens a folder.

        Args:
          folder: that `scripts/reconstruct.py` wrote.
          embedding: of the embeddings of the same images, see `item_jax.settings`.

        Raises:
          ValueError: if it is not such a folder, or of images that were perturbed or
            neutralised in another way.
        """
        self.folder = Path(folder)
        path = self.folder / "run.json"
        if not path.is_file():
            raise ValueError(f"{path} does not exist: {folder} has no maps; {MAKE}")
        run = files.read_json(path)
        stage = files.field(run, "settings.stage", str, path)
        if stage != "reconstruct":
            raise ValueError(f"{path} is of a run of {stage!r}, not of error maps")
        self.settings: dict[str, Any] = files.field(
            run, "settings.reconstructor", dict, path
        )
        made_of = files.field(run, "settings.perturbation", str, path)
        wanted = perturb.label(**embedding["perturb"])
        if made_of != wanted:
            raise ValueError(
                f"{folder} has maps of images perturbed by {made_of!r}, the cache by "
                f"{wanted!r}; {MAKE} with --perturb {wanted}"
            )
        if any(embedding["neutralise"].values()):
            raise ValueError(
                f"{folder} has maps of images as they are, and those of the cache were "
                f"neutralised: {embedding['neutralise']}"
            )

    def __call__(self, key: str) -> np.ndarray:
        """Returns a map, uint8 `[S, S, 3]`; from several threads too.

        Raises:
          ValueError: naming the key, if it is not there or cannot be read.
        """
        try:
            return images.read_image(self.folder / "maps", key)
        except images.ImageError as e:
            raise ValueError(f"error map {e}; {MAKE}") from e
