"""Methods compared with the first one, and fakes with real images."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from item_jax import statistics
from item_jax.records import LABELS


def compare(
    results: dict[str, dict[str, Any]],
    estimates: statistics.Estimates,
    columns: Mapping[str, Sequence[Hashable]],
) -> None:
    """Adds `difference` to the results of every method but the first.

    `difference` is {"to": the first method, "generators": {generator: figures},
    "macro": figures}, and figures are {figure: {"value" (method - first, means over the
    seeds of each), "interval_95", "p", "p_holm", "seeds" (of both)}}; see
    `item_jax.statistics`. Holm's correction is over methods and generators of one
    figure, or over methods for the macro. What one of the two methods lacks is left
    out.

    Args:
      results: by name of the method; changed in place.
      estimates: of the columns.
      columns: of each method, one per seed.
    """
    first, *others = results
    for name in others:
        results[name]["difference"] = {"to": first, "generators": {}, "macro": {}}
    for figure in statistics.FIGURES:
        for groups in (estimates.groups, (None,)):
            found = {}
            for name in others:
                for group in groups:
                    pair = estimates.difference(
                        columns[name], columns[first], figure, group
                    )
                    if pair is not None:
                        found[name, group] = pair
            adjusted = statistics.holm(
                {key: own.p or 0.0 for key, own in found.items()}
            )
            for (name, group), own in found.items():
                place = results[name]["difference"]
                figures = place["macro"]
                if group is not None:
                    figures = place["generators"].setdefault(group, {})
                figures[figure] = {
                    "value": own.value,
                    "interval_95": own.ends,
                    "p": own.p,
                    "p_holm": adjusted[name, group],
                    "seeds": (own.seeds, own.other_seeds),
                }


def directions(
    cosines: np.ndarray,
    labels: np.ndarray,
    groups: Mapping[str, np.ndarray],
    estimates: statistics.Estimates,
) -> dict[str, dict[str, Any]]:
    """Says whether fakes fit their captions better or worse than real images do.

    Args:
      cosines: of image and caption, float `[N]`.
      labels: int `[N]`.
      groups: row numbers of each generator.
      estimates: with the mean "cosine".

    Returns:
      {generator: {"real", "fake" (means, of the classes that are there), "difference"
      (fake - real), "interval_95", "direction": "higher", "lower" or "undecided"}}.
    """
    out = {}
    for group, index in groups.items():
        means: dict[str, Any] = {
            label: float(cosines[index][labels[index] == number].mean())
            for label, number in LABELS.items()
            if (labels[index] == number).any()
        }
        found = estimates.mean_difference("cosine", group)
        if found is not None:
            sign = "higher" if found.low > 0 else "lower"
            if found.low <= 0 <= found.high:
                sign = "undecided"
            means |= {"difference": found.value, "interval_95": found.ends}
            means["direction"] = sign
        out[group] = means
    return out
