"""Logistic regression on the unit caption embedding.

Above chance it is a warning: then captions of real and fake images differ by
themselves, and a detector may have learnt that.
"""

import numpy as np

from item_jax.embeddings import Embeddings
from item_jax.methods._probe import probe, unit

NEEDS = ("text_emb",)


def features(part: Embeddings) -> np.ndarray:
    """Returns `[n, D]`."""
    return unit(part.text_emb)


fit, score, check = probe(features)
