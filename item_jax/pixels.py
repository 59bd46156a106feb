"""The images behind embeddings, for methods that read pixels.

    cache.images = Pictures(open_dataset("run/records.jsonl"), cache.embedding)

An image is what the towers saw before any crop: decoded, upright, neutralised and
perturbed as the embeddings were.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from item_jax import config as config_lib
from item_jax import files, images, settings
from item_jax.budget import IN_FLIGHT
from item_jax.cache import EmbeddingCache
from item_jax.datasets import dataset
from item_jax.datasets.dataset import Dataset
from item_jax.error_maps import ErrorMaps
from item_jax.pipeline import altered


class Pictures:
    """Images by key, read and decoded when asked for.

    Args:
      data: where the images are.
      embedding: of the embeddings, see `item_jax.settings`.
      error_maps: of the images, for methods that read those, or None.
    """

    def __init__(
        self,
        data: Dataset,
        embedding: settings.Embedding,
        error_maps: ErrorMaps | None = None,
    ):
        self.data, self.error_maps = data, error_maps
        self.config = config_lib.default()
        settings.restore(embedding, self.config)
        self.config.perturb.update(embedding["perturb"])
        self.config.data.max_pixels = embedding["data"]["max_pixels"]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {self.data.record(i).key: i for i in range(len(self.data))}

    def __call__(self, key: str) -> np.ndarray:
        """Returns an image, uint8 `[H, W, 3]`; from several threads too.

        Raises:
          ValueError: naming the key, if it is not there or cannot be read.
        """
        most = self.config.data.max_pixels
        try:
            data = self.data.read(self._numbers[key])
            with IN_FLIGHT.hold(images.count_pixels(data, max_pixels=most)):
                return altered(images.decode(data, max_pixels=most), key, self.config)
        except KeyError as e:
            raise ValueError(f"no image {files.printable(key)!r} in the data") from e
        except images.ImageError as e:
            raise ValueError(f"image {files.printable(key)!r}: {e}") from e

    def check(self, cache: EmbeddingCache) -> None:
        """Makes sure that a cache was made of these records.

        Raises:
          ValueError: if it was made of others.
        """
        found: Any = dataset.digest(self.data)
        if found != cache.manifest["records_sha256"]:
            raise ValueError(
                f"the records at hand are not those that {cache.folder} was made of; "
                "name them with --config.data.records="
            )
