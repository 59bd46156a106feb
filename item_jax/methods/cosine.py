"""Logistic regression on two cosines: image with caption, objects with phrases.

The papers' motivation (ITEM Fig. 1) and nothing else. The sign is learnt, because it
is not the same for all generators.
"""

import numpy as np

from item_jax.embeddings import ARRAYS, Embeddings
from item_jax.methods._probe import probe, unit

NEEDS = ARRAYS


def features(part: Embeddings) -> np.ndarray:
    """Returns `[n, 2]`: the global cosine and the mean local one (or the global)."""
    whole = (unit(part.image_emb) * unit(part.text_emb)).sum(-1)
    each = (unit(part.object_emb) * unit(part.phrase_emb)).sum(-1)
    total = np.concatenate([[0.0], np.cumsum(each)])
    count = np.diff(part.object_offsets)
    sums = total[part.object_offsets[1:]] - total[part.object_offsets[:-1]]
    local = np.where(count > 0, sums / np.maximum(count, 1), whole)
    return np.stack([whole, local], axis=1)


fit, score, check = probe(features)
