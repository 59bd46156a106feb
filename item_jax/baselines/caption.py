"""Logistic regression on the unit caption embedding.

Above chance it is a warning: then captions of real and fake images differ by
themselves, and a detector may have learnt that.
"""

from item_jax.baselines import probe, unit


def features(part):
    """Returns `[n, D]`."""
    return unit(part.text_emb)


LEARNS = True
fit, score = probe(features)
