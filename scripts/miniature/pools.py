"""Scenes in numbers: drawn once, kept in the working folder as arrays."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

import scenes
from camera import object_view

SEED = 20
# Scenes are seeded by [SEED, number of the split, number of the scene]; no number is
# used twice. TRAIN trains every model but the judge, which has scenes of its own.
TRAIN, HELD_OUT, JUDGE = 0, 1, 2
# The prompts of family i are scenes of PROMPT_TRAIN + i and PROMPT_TEST + i.
REAL_TRAIN, REAL_TEST, PROMPT_TRAIN, PROMPT_TEST, CAMERA = 10, 11, 20, 30, 40
COUNTS = {TRAIN: 20_000, HELD_OUT: 1_000, JUDGE: 4_000}


@dataclasses.dataclass
class Pool:
    """Scenes of one split.

    Attributes:
        images, clean: uint8 [N, 64, 64, 3], photographed and as rendered.
        layouts: int16 [N, 4, 7], see `scenes.Scene`.
        captions, others, descriptions: N sentences, see `scenes.Scene`.
        phrases, objects: per scene, see `scenes.Scene`.
    """

    images: np.ndarray
    clean: np.ndarray
    layouts: np.ndarray
    captions: list[str]
    others: list[str]
    descriptions: list[str]
    phrases: list
    objects: list

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, rows: list[int]) -> Pool:
        """Returns the scenes of some rows."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        texts = {name: [getattr(self, name)[i] for i in rows] for name in TEXTS}
        return Pool(**arrays, **texts)

    def things(self) -> list[list[tuple]]:
        """Returns phrase and box of the things of each scene."""
        return [[(p, box) for p, _, box in own] for own in self.objects]

    def crops(self) -> tuple[np.ndarray, list[str]]:
        """Returns the objects' views, uint8 [M, 64, 64, 3], and their phrases."""
        found = [
            (object_view(image, box), phrase)
            for image, objects in zip(self.images, self.objects, strict=True)
            for phrase, _, box in objects
        ]
        return np.stack([view for view, _ in found]), [phrase for _, phrase in found]


ARRAYS = ("images", "clean", "layouts")
TEXTS = ("captions", "others", "descriptions", "phrases", "objects")


def draw_pool(split: int, count: int) -> Pool:
    """Draws `count` scenes of a split; the same ones each time."""
    drawn = [
        scenes.draw_scene(np.random.default_rng([SEED, split, i])) for i in range(count)
    ]
    return Pool(
        images=np.stack([s.image for s in drawn]),
        clean=np.stack([s.clean for s in drawn]),
        layouts=np.stack([s.layout for s in drawn]),
        captions=[s.caption for s in drawn],
        others=[s.other_caption for s in drawn],
        descriptions=[s.description for s in drawn],
        phrases=[s.phrases for s in drawn],
        objects=[s.objects for s in drawn],
    )


def open_pool(workdir: Path, split: int, count: int = 0) -> Pool:
    """Returns the pool of a split, drawn and saved when it is asked for first.

    Args:
        workdir: the working folder; gets `pools/SPLIT-COUNT/`.
        split: one of the numbers above.
        count: scenes; by default those of `COUNTS`.
    """
    count = count or COUNTS[split]
    folder = workdir / "pools" / f"{split}-{count}"
    if not (folder / "texts.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        pool = draw_pool(split, count)
        for name in ARRAYS:
            np.save(folder / f"{name}.npy", getattr(pool, name))
        texts = {name: getattr(pool, name) for name in TEXTS}
        (folder / "texts.json").write_text(json.dumps(texts))
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return Pool(**arrays, **json.loads((folder / "texts.json").read_text()))
