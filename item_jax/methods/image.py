"""Logistic regression on the unit image embedding: what the picture alone tells."""

import numpy as np

from item_jax.embeddings import Embeddings
from item_jax.methods._probe import probe, unit

NEEDS = ("image_emb",)


def features(part: Embeddings) -> np.ndarray:
    """Returns `[n, D]`."""
    return unit(part.image_emb)


fit, score, check = probe(features)
