"""Embeddings of some images, in memory: what a method is fitted on and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from item_jax import files, misalignment
from item_jax.fields import OUTPUTS
from item_jax.records import LABELS

__all__ = ["ARRAYS", "OUTPUTS", "Embeddings", "Row", "check_finite"]

ARRAYS = ("image_emb", "text_emb", "object_emb", "phrase_emb", "object_offsets")

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of n images with m objects, and the row of each image.

    Attributes:
      rows: n dictionaries `{key, label, benchmark, generator, split, caption, objects,
        ...}`.
      image_emb, text_emb: `[n, D]`.
      object_emb, phrase_emb: `[m, D]`.
      object_offsets: int64 `[n + 1]`; image i owns objects
        `object_offsets[i]:object_offsets[i + 1]`.
      images: key -> the image, uint8 `[H, W, 3]`, or None; for methods that
        read pixels.
      outputs: further outputs of the image tower for the whole image, of `OUTPUTS`,
        float16 `[n, *shape]`: "pooled" `[n, width]`, "class_tokens"
        `[n, layers, width]`, "block_tokens" `[n, layers, D]`; those that
        `config.embed.outputs` named, see `item_jax/towers/outputs.py`.
    """

    rows: list[Row]
    image_emb: np.ndarray
    text_emb: np.ndarray
    object_emb: np.ndarray
    phrase_emb: np.ndarray
    object_offsets: np.ndarray
    images: Any = None
    outputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """int32 `[n]`: real 0, fake 1, unknown -1."""
        known = [LABELS.get(row["label"], -1) for row in self.rows]
        return np.array(known, np.int32)

    def image(self, i: int) -> np.ndarray:
        """Returns image i as the towers saw it before any crop, uint8 `[H, W, 3]`.

        Raises:
          ValueError: if the images were not given along, or it cannot be read.
        """
        if self.images is None:
            raise ValueError(
                "a method that reads pixels was given embeddings alone: set the "
                "cache's `images` to item_jax.pixels.Pictures(data, cache.embedding)"
            )
        return self.images(self.rows[i]["key"])

    @property
    def error_maps(self) -> Any:
        """The error maps of the images by key, an `item_jax.error_maps.ErrorMaps`.

        Raises:
          ValueError: if they were not given along.
        """
        maps = getattr(self.images, "error_maps", None)
        if maps is None:
            raise ValueError(
                "a method that reads error maps needs them: scripts/reconstruct.py "
                "makes them, and --config.data.error_maps=FOLDER names them, of train, "
                "evaluate and paper; in Python set the cache's `images` to "
                "item_jax.pixels.Pictures(data, cache.embedding, maps)"
            )
        return maps

    def error_map(self, i: int) -> np.ndarray:
        """Returns the error map of image i, uint8 `[S, S, 3]`.

        Raises:
          ValueError: if maps were not given along, or it cannot be read.
        """
        return self.error_maps(self.rows[i]["key"])

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, as a shard stores them, outputs last."""
        return {name: getattr(self, name) for name in ARRAYS} | self.outputs

    def where(self, keep: Callable[[Row], bool]) -> Embeddings:
        """Returns the images whose row `keep` accepts, with their objects."""
        mask = np.array([keep(row) for row in self.rows], bool)
        return self if mask.all() else self.take(np.flatnonzero(mask))

    def take(self, index: np.ndarray) -> Embeddings:
        """Returns some images by number, in that order, each with its objects."""
        return self.variants(index, [np.arange(*self._span(i)) for i in index])

    def variants(
        self, index: Sequence[int] | np.ndarray, objects: Sequence[np.ndarray]
    ) -> Embeddings:
        """Returns images by number, each with the objects that are named for it.

        Args:
          index: numbers of images, `[k]`; one may come several times.
          objects: for each of them the numbers of its objects, rows of `object_emb`.
        """
        index = np.asarray(index, np.int64)
        counts = [len(own) for own in objects]
        rows = np.concatenate([np.zeros(0, np.int64), *objects]).astype(np.int64)
        return Embeddings(
            [self.rows[i] for i in index],
            self.image_emb[index],
            self.text_emb[index],
            self.object_emb[rows],
            self.phrase_emb[rows],
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            self.images,
            {name: value[index] for name, value in self.outputs.items()},
        )

    def _span(self, i: int) -> tuple[int, int]:
        return int(self.object_offsets[i]), int(self.object_offsets[i + 1])

    def misalignment(self, config: Any) -> np.ndarray:
        """Returns D (ITEM Eq. 8), float32 `[n, D']`.

        Args:
          config: a whole configuration, or its `misalignment` section alone.
        """
        c = config["misalignment"] if "misalignment" in config else config
        n, m = len(self), len(self.object_emb)
        # Rows are padded to powers of two, so that shards share compiled programs.
        # Objects behind the last offset belong to no image and are not counted.
        offsets = np.pad(self.object_offsets, (0, _padding(n)), mode="edge")
        d = _compute(
            misalignment.get(c["name"]),
            _padded(self.image_emb, n),
            _padded(self.text_emb, n),
            _padded(self.object_emb, m),
            _padded(self.phrase_emb, m),
            offsets.astype(np.int32),
            c["w1"],
            c["w2"],
            no_objects=c["no_objects"],
            levels=c["levels"],
        )
        return np.asarray(d)[:n]


_compute = jax.jit(
    misalignment.compute, static_argnums=0, static_argnames=("no_objects", "levels")
)


def _padding(count: int) -> int:
    return max(8, 1 << (count - 1).bit_length()) - count if count else 8


def _padded(x: np.ndarray, count: int) -> np.ndarray:
    return np.pad(x, ((0, _padding(count)), (0, 0)))


def check_finite(embeddings: Embeddings, where: str) -> None:
    """Refuses NaN and infinity.

    Raises:
      ValueError: naming `where`, the array, and the key of the first image.
    """
    for name, values in embeddings.arrays().items():
        if np.isfinite(values).all():
            continue
        row = int(
            np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))[0]
        )
        if name in ("object_emb", "phrase_emb"):
            row = int(np.searchsorted(embeddings.object_offsets, row, side="right")) - 1
        key = files.printable(embeddings.rows[row]["key"])
        raise ValueError(f"{where}: {name} of {key!r} is not finite")
