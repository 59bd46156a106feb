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
    *,
    unseen: Sequence[str] = (),
) -> None:
    """Adds `difference` to the results of every method but the first.

    `difference` is {"to": the first method, "generators": {generator: figures},
    "macro": figures, "macro_unseen": figures}, and figures are {figure: {"value"
    (method - first), "interval_95", "p", "p_holm", "covers"}} of
    `statistics.FIGURES`: means over the seeds of each method, on the same images.
    Holm's correction is over methods and generators of one figure, or over methods for
    an average. What one of the two methods lacks is left out.

    Args:
      results: by name of the method; changed in place.
      estimates: of `columns`.
      columns: the columns of each method, one per training seed.
      unseen: the generators of `macro_unseen`.
    """
    first, *others = results
    for name in others:
        results[name]["difference"] = {
            "to": first,
            **{"generators": {}, "macro": {}, "macro_unseen": {}},
        }
    places: list[tuple[str, dict[str, Any]]] = [
        ("generators", {group: group for group in estimates.groups}),
        ("macro", {"": None}),
        ("macro_unseen", {"": list(unseen)} if unseen else {}),
    ]
    for figure in statistics.FIGURES:
        for place, groups in places:
            found = {}
            for name in others:
                for group, over in groups.items():
                    pair = columns[name], columns[first]
                    interval = estimates.difference(*pair, figure, over)
                    if interval is not None:
                        found[name, group] = interval
            adjusted = statistics.holm(
                {key: i.p for key, i in found.items() if i.p is not None}
            )
            for (name, group), interval in found.items():
                own = results[name]["difference"][place]
                if group:
                    own = own.setdefault(group, {})
                own[figure] = {
                    "value": interval.value,
                    "interval_95": interval.ends,
                    "p": interval.p,
                    "p_holm": adjusted.get((name, group)),
                    "covers": interval.covers(),
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
            low, high = found.ends
            sign = "higher" if low > 0 else "lower" if high < 0 else "undecided"
            means |= {"difference": found.value, "interval_95": found.ends}
            means["direction"] = sign
        out[group] = means
    return out
