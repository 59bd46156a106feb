"""A linear probe: logistic regression on standardised features, scikit-learn's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings

Features = Callable[[Embeddings], np.ndarray]
State = dict[str, np.ndarray]


def probe(features: Features) -> tuple[Callable, Callable, Callable]:
    """Returns `fit`, `score` and `check` of a probe.

    C = 1, intercept included. scikit-learn fits; scoring is plain arithmetic on the
    state `{"mean", "scale", "weight" [F], "bias" [1]}`, so that a verdict need not
    import it.

    Args:
      features: a part -> `[n, F]`.
    """

    def fit(parts: Sequence[Embeddings], config: ConfigDict) -> State:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        x = np.concatenate([features(part) for part in parts])
        y = np.concatenate([part.labels for part in parts])
        scaler = StandardScaler().fit(x)
        model = LogisticRegression(max_iter=1000).fit(scaler.transform(x), y)
        return {
            "mean": scaler.mean_,
            "scale": scaler.scale_,
            "weight": model.coef_[0],
            "bias": model.intercept_,
        }

    def score(state: State, part: Embeddings) -> np.ndarray:
        x = (features(part) - state["mean"]) / state["scale"]
        logits = x @ state["weight"] + state["bias"]
        return np.exp(-np.logaddexp(0, -logits))  # the sigmoid, without overflow

    return fit, score, check


def check(state: dict[str, Any]) -> None:
    """Makes sure that a state read from a file can be scored.

    Raises:
      ValueError: naming what is missing or misshapen.
    """
    for name in ("mean", "scale", "weight", "bias"):
        if not isinstance(state.get(name), np.ndarray):
            raise ValueError(f"tensor {name!r} is missing")
    shapes = {name: value.shape for name, value in state.items()}
    width = state["weight"].shape
    if shapes != {"mean": width, "scale": width, "weight": width, "bias": (1,)}:
        raise ValueError(f"its tensors have shapes {shapes}, which do not fit")


def unit(x: np.ndarray) -> np.ndarray:
    """Divides rows by their L2 norm."""
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / np.maximum(norm, np.finfo(np.float32).tiny)
