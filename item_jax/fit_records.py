"""What came of a fit: does it rank the images it was trained on, after how many epochs.

A method that does not rank its own training images did not learn, and its figures on
others say nothing about it. So every fit has its training AUC in its record.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from item_jax import metrics
from item_jax.embeddings import ARRAYS, Embeddings
from item_jax.fitted import FittedMethod
from item_jax.records import LABELS

JUDGED = 1000
"""Training images of each label that the training AUC is computed on, at most: enough
for two digits, and a network on pixels scores them in seconds. Not in the paper."""


def add(
    made: Sequence[FittedMethod],
    parts: Sequence[Embeddings],
    counts: Sequence[Sequence[int]],
) -> None:
    """Adds `fit` to the record of each seed: train_auc, train_auc_images, epochs.

    Args:
      made: the seeds of a method; their `config` is changed in place.
      parts: that they were fitted on.
      counts: of `training_loop.counted` around the fit.

    Raises:
      ValueError: for a score that is not in [0, 1].
    """
    sample = _sample(parts)
    for k, one in enumerate(made):
        auc = metrics.roc_auc(sample.labels, one.score(sample))
        one.config["fit"] = {
            "train_auc": None if auc is None else round(auc, 6),
            "train_auc_images": len(sample),
            "epochs": _epochs(counts, k, len(made)),
        }


def _sample(parts: Sequence[Embeddings]) -> Embeddings:
    """The training images that a fit is judged on, evenly spaced among each label's."""
    labels = np.concatenate([part.labels for part in parts])
    chosen = np.zeros(len(labels), bool)
    for label in LABELS.values():
        own = np.flatnonzero(labels == label)
        chosen[own[np.linspace(0, len(own) - 1, min(len(own), JUDGED)).astype(int)]] = 1
    masks = np.split(chosen, np.cumsum([len(part) for part in parts])[:-1])
    taken = [part.take(np.flatnonzero(mask)) for part, mask in zip(parts, masks)]
    each = [part.arrays() for part in taken]
    arrays = {
        name: np.concatenate([own[name] for own in each])
        for name in each[0]
        if name != "object_offsets"
    }
    outputs = {name: arrays.pop(name) for name in set(arrays) - set(ARRAYS)}
    counts = np.concatenate([np.diff(part.object_offsets) for part in taken])
    return Embeddings(
        [row for part in taken for row in part.rows],
        **arrays,
        object_offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        images=taken[0].images,
        outputs=outputs,
    )


def _epochs(counts: Sequence[Sequence[int]], k: int, seeds: int) -> int | None:
    """The epochs that seed k trained: of several networks a seed the most."""
    if not counts or len(counts[-1]) % seeds:
        return None
    each = len(counts[-1]) // seeds
    return max(counts[-1][k * each : (k + 1) * each])
