"""The miniature's detector behind the grounder seam, for `scripts/ground.py`:

    PYTHONPATH=scripts/miniature python scripts/ground.py --grounder grounder \\
        --model WORLD/detector --images ... --captions ... --phrases ... --out ...
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from camera import SIDE
from detector import Detector
from item_jax.files import folder_digest
from scenes import names_in, names_thing

MODELS = {"grounder": "detector"}
DECIMALS = 3  # 0.06 pixels; what processors compute differently is rounded away


class Grounder:
    """See `item_sidecars.grounders`.

    The score of a box for a phrase is the root of its heat times the mean of the
    probabilities of the phrase's size, colour and shape there. A phrase that names
    no thing of the world, such as the ground's, has no box.
    """

    reader_threshold = 0.3

    def __init__(self, model: str, *, name: str, dtype: str, local_rank: int):
        folder = Path(model)
        if not (folder / "model.safetensors").is_file():
            raise ValueError(f"--model {model}: no detector of the miniature there")
        self._detector = Detector.load(folder)
        self.settings = {
            "id": "miniature detector",
            "revision": folder_digest(folder),
            "dtype": "float32",
        }

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [64, 64, 3]."""
        if image.shape[:2] == (SIDE, SIDE):
            return image
        return np.asarray(Image.fromarray(image).resize((SIDE, SIDE)))

    def ground(self, prepared: list, captions: list, phrases: list) -> list:
        """Per image: boxes [Q, 4] and scores [Q, number of its phrases]."""
        return [
            (
                np.round(found["box"], DECIMALS),
                np.round(_scores(found, [p["phrase"] for p in own]), DECIMALS),
            )
            for found, own in zip(
                self._detector.find(np.stack(prepared)), phrases, strict=True
            )
        ]


def _scores(found: dict[str, np.ndarray], phrases: list[str]) -> np.ndarray:
    scores = np.zeros((len(found["heat"]), len(phrases)))
    for i, phrase in enumerate(phrases):
        if names_thing(phrase):
            shape, colour, size = names_in(phrase)
            p = found["shape"][:, shape] + found["colour"][:, colour]
            p = (p + found["size"][:, size]) / 3
            scores[:, i] = np.sqrt(found["heat"]) * p
    return scores
