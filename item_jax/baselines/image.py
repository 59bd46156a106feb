"""Logistic regression on the unit image embedding: what the picture alone tells."""

from item_jax.baselines import probe, unit


def features(part):
    """Returns `[n, D]`."""
    return unit(part.image_emb)


LEARNS = True
fit, score = probe(features)
