"""Logistic regression on 80 numbers of the pixels: DCT and spectrum, no content.

The audit's pixel probe as a rival (`item_jax/pixel_probe.py`): where it does well, so
may any detector that has learned what cameras, JPEG and generators leave behind.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from item_jax import files, pixel_probe
from item_jax.embeddings import Embeddings
from item_jax.methods._probe import probe

NEEDS = ("pixels",)
THREADS = 8


def features(part: Embeddings) -> np.ndarray:
    """Returns `[n, 80]`.

    Raises:
      ValueError: for an image with a side of less than 32 pixels, naming it.
    """

    def one(i: int) -> np.ndarray:
        found = pixel_probe.features(part.image(i))
        if found is None:
            raise ValueError(
                f"image {files.printable(part.rows[i]['key'])!r} has a side of less "
                f"than {pixel_probe.SMALLEST} pixels"
            )
        return found

    with ThreadPoolExecutor(THREADS) as pool:
        return np.stack(list(pool.map(one, range(len(part)))))


fit, score, check = probe(features)
