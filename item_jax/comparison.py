"""Methods compared with the first one, and fakes with real images, draw by draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from item_jax import paired, statistics
from item_jax.records import LABELS


def compare(
    results: dict[str, dict[str, Any]],
    replicates: statistics.Replicates,
    labels: np.ndarray,
    columns: Mapping[Any, np.ndarray],
    groups: Mapping[str, np.ndarray],
) -> None:
    """Adds `difference` to the results of every method but the first.

    `difference` is {"to": the first method, "generators": {generator: figures},
    "macro": figures}, and figures are {"acc", "ap", "auc": {"value" (method - first),
    "interval_95", "p", "p_holm", "test"}}. AUC is tested by DeLong's test, ACC by
    McNemar's, AP and all macro figures by the paired bootstrap. Holm's correction is
    over methods and generators of one figure, or over methods for the macro. What one
    of the two methods lacks is left out; a p is None where there is no test.

    Args:
      results: by name of the method, each with its `threshold`; changed in place.
      replicates: with the column `(name, 0)` of each method.
      labels: int `[N]`.
      columns: scores, float `[N]`, by `(name, 0)`.
      groups: row numbers of each generator.
    """
    first, *others = results
    for name in others:
        results[name]["difference"] = {"to": first, "generators": {}, "macro": {}}
    for figure in statistics.FIGURES:
        found: dict[tuple[str, str | None], dict[str, Any]] = {}
        for name in others:
            for group in (*groups, None):
                pair = replicates.difference((name, 0), (first, 0), figure, group)
                if pair is None:
                    continue
                if group is None or figure == "ap":
                    test, p = _bootstrap(pair[1])
                else:
                    index = groups[group]
                    test, p = _test(
                        figure,
                        labels[index],
                        [columns[n, 0][index] for n in (name, first)],
                        (results[name]["threshold"], results[first]["threshold"]),
                    )
                found[name, group] = {
                    "value": pair[0],
                    "interval_95": statistics.interval(pair[1]),
                    "p": p,
                    "p_holm": None,
                    "test": test,
                }
        for macro in (False, True):
            family = {
                key: entry["p"]
                for key, entry in found.items()
                if (key[1] is None) == macro and entry["p"] is not None
            }
            for key, p in paired.holm(family).items():
                found[key]["p_holm"] = p
        for (name, group), entry in found.items():
            place = results[name]["difference"]
            own = place["macro"]
            if group is not None:
                own = place["generators"].setdefault(group, {})
            own[figure] = entry


def _bootstrap(draws: np.ndarray) -> tuple[str, float | None]:
    try:
        return "paired bootstrap", paired.bootstrap_p(draws)
    except ValueError:  # no replicate has it
        return "paired bootstrap", None


def _test(figure, labels, scores, thresholds) -> tuple[str, float | None]:
    if figure == "acc":
        return "McNemar", paired.mcnemar(labels, *scores, thresholds=thresholds).p
    try:
        return "DeLong", paired.delong(labels, *scores).p
    except ValueError:  # no variance, as of two rankings that are almost perfect
        return "DeLong", None


def directions(
    cosines: np.ndarray,
    labels: np.ndarray,
    groups: Mapping[str, np.ndarray],
    replicates: statistics.Replicates | None,
) -> dict[str, dict[str, Any]]:
    """Says whether fakes fit their captions better or worse than real images do.

    Args:
      cosines: of image and caption, float `[N]`.
      labels: int `[N]`.
      groups: row numbers of each generator.
      replicates: with the mean "cosine"; None for no intervals.

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
        found = replicates.mean_difference("cosine", group) if replicates else None
        if found is not None:
            low, high = found[1]
            sign = "higher" if low > 0 else "lower" if high < 0 else "undecided"
            means |= {"difference": found[0], "interval_95": found[1]}
            means["direction"] = sign
        out[group] = means
    return out
