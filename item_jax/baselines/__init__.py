"""Rivals and trivial baselines on the same cache, one file each.

A baseline is a module with `fit(parts) -> state`, `score(state, part) -> [n]` and
`LEARNS`, whether it needs real and fake images to fit on. `parts` are the labelled
`item_jax.cache.Embeddings` of the training set, `part` some of the test set, scores
are P(fake) in [0, 1]. A module is found by its file name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from item_jax.cache import Embeddings
from item_jax.config import nearest

Features = Callable[[Embeddings], np.ndarray]


def get(name: str) -> ModuleType:
    """Returns the baseline of that name.

    Raises:
      ValueError: for an unknown name, with the nearest one.
    """
    known = sorted(m.name for m in pkgutil.iter_modules(__path__))
    if name not in known:
        raise ValueError(f"unknown baseline {name!r}; {nearest(name, known)}")
    return importlib.import_module(f"{__name__}.{name}")


def probe(features: Features):
    """Returns `fit` and `score` of a logistic regression on features `[n, F]`.

    scikit-learn's, C = 1, on standardised features.
    """

    def fit(parts: Sequence[Embeddings]):
        x = np.concatenate([features(part) for part in parts])
        y = np.concatenate([part.labels for part in parts])
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        return model.fit(x, y)

    def score(state, part: Embeddings) -> np.ndarray:
        return state.predict_proba(features(part))[:, 1]

    return fit, score


def unit(x: np.ndarray) -> np.ndarray:
    """Divides rows by their L2 norm."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.maximum(norm, np.finfo(np.float32).tiny)
