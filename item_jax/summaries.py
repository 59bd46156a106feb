"""The figures of one method: per generator, averages, over training seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from item_jax import calibration, metrics, statistics

RANKING = ("ap", "ap_balanced", "auc", "eer")
"""Figures that rank scores, as do those that begin with `tpr_at_fpr`."""


def of_method(
    seeds: Sequence[Any],
    columns: Sequence[Hashable],
    labels: np.ndarray,
    scores: Mapping[Any, np.ndarray],
    groups: Mapping[str, np.ndarray],
    estimates: statistics.Estimates,
    *,
    averaged: Sequence[str],
    unseen: Sequence[str],
    protocol: str,
) -> dict[str, Any]:
    """Returns everything about one method but its comparison with others.

    Args:
      seeds: the fitted method, one per training seed, or what scores like it.
      columns: its columns of `scores`, one per seed.
      labels: int `[N]`, real 0, fake 1, unknown -1.
      scores: P(fake), float `[N]`, by column.
      groups: row numbers of each generator.
      estimates: of the same scores.
      averaged, unseen: the generators that the two averages are over.
      protocol: name of the preset, for the record.

    Returns:
      `generators`, means over the seeds, with `interval_95` {figure: (low, high)};
      `macro` (their means over `averaged`) and `macro_unseen` (over `unseen`), each
      with its `..._interval_95`; `minimum` {figure: {"value", "generator",
      "interval_95"}}; `covers`, what is in the intervals; `left_out` {generator: why it
      lacks figures}; `threshold` (of the first seed) and `thresholds`; `calibration`
      (or None); `about` (what the method is, a line); `range`; `config`; `train_auc`
      of each seed (None where unknown); `reliability` (see `calibration.reliability`;
      all generators and seeds together); with several seeds `seeds` {"n", "generators"
      and "macro" {figure: {"mean", "std", "interval_95"}}, "each" [{"seed", "macro"}]}.
    """
    left_out = {}
    per_seed = []
    for column, one in zip(columns, seeds):
        summaries = {}
        for group, index in groups.items():
            y, own = labels[index], scores[column][index]
            why = statistics.why_none(y, own)
            summaries[group] = _summary(y, own, one, ranks=why is None)
            if why is not None:
                left_out[group] = why[0]
        per_seed.append(summaries)
    generators = {
        group: _mean([summaries[group] for summaries in per_seed])
        | {"protocol": protocol}
        for group in groups
    }
    spread: dict[str | None, dict[str, Any]] = {group: {} for group in (*groups, None)}
    for place, own in spread.items():
        for figure in statistics.FIGURES:
            own[figure] = estimates.figure(columns, figure, place)
    for group, own in generators.items():
        own["interval_95"] = {
            f: found and found.ends for f, found in spread[group].items()
        }
    figures: dict[str, Any] = {
        "generators": generators,
        "macro": _macro([generators[group] for group in averaged]),
        "macro_interval_95": {f: i.ends for f, i in spread[None].items() if i},
        "macro_unseen": _macro([generators[group] for group in unseen]),
        "macro_unseen_interval_95": {},
        "minimum": {},
        "covers": next((i.covers() for i in spread[None].values() if i), ""),
        "left_out": left_out,
        "threshold": seeds[0].threshold,
        "thresholds": [one.threshold for one in seeds],
        "calibration": seeds[0].calibration,
        "about": seeds[0].about(),
        "range": seeds[0].range(),
        "config": seeds[0].config,
        "train_auc": [getattr(one, "train_auc", None) for one in seeds],
        "reliability": _reliability(columns, labels, scores, groups),
    }
    for figure in statistics.FIGURES:
        found = estimates.figure(columns, figure, unseen) if unseen else None
        if found is not None:
            figures["macro_unseen_interval_95"][figure] = found.ends
        least = estimates.minimum(columns, figure)
        if least is not None:
            figures["minimum"][figure] = {
                "value": least[0].value,
                "generator": least[1],
                "interval_95": least[0].ends,
            }
    if len(seeds) > 1:
        each = [_macro([summaries[g] for g in averaged]) for summaries in per_seed]
        figures["seeds"] = {
            "n": len(seeds),
            "generators": {group: _over_seeds(spread[group]) for group in groups},
            "macro": _over_seeds(spread[None]),
            "each": [
                {"seed": one.config["training"]["seed"], "macro": macro}
                for one, macro in zip(seeds, each)
            ],
        }
    return figures


def _over_seeds(spread: Mapping[str, statistics.Interval | None]) -> dict[str, Any]:
    return {
        figure: {"mean": found.value, "std": found.std, "interval_95": found.ends}
        for figure, found in spread.items()
        if found is not None
    }


def _mean(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a generator, means over seeds; None if one of them has none."""
    out: dict[str, Any] = {}
    for name, value in summaries[0].items():
        values = [summary[name] for summary in summaries]
        if None in values:
            out[name] = None
        else:
            out[name] = float(np.mean(values)) if isinstance(value, float) else value
    return out


def _summary(
    labels: np.ndarray, scores: np.ndarray, method: Any, *, ranks: bool
) -> dict[str, Any]:
    """The figures of one generator and seed.

    Besides those of `metrics.summary` and `calibration.summary`: `majority_class`, the
    label of most images ("" if there are as many of each); `acc_at_half`, ACC at 0.5;
    with a calibrated threshold, ACC, FPR and TPR at the thresholds fitted on held-out
    images, `transferred_acc` for the best accuracy and `transferred_fpr` and `_tpr` for
    the false positive rate.
    """
    figures: dict[str, Any] = dict(
        metrics.summary(labels, scores, threshold=method.threshold)
    )
    if not ranks:
        for name in figures:
            if name in RANKING or name.startswith("tpr_at_fpr"):
                figures[name] = None
    more = figures["n_real"] - figures["n_fake"]
    figures["majority_class"] = "real" if more > 0 else "fake" if more < 0 else ""
    figures["acc_at_half"] = metrics.accuracy(labels, scores)
    both = 0 < labels.sum() < len(labels)
    names = ("nll", "brier", "ece_balanced", "ece_balanced_floor", "oracle_acc")
    figures |= calibration.summary(labels, scores) if both else dict.fromkeys(names)
    fitted = method.calibration
    if fitted and both:
        best = calibration.apply_threshold(
            labels, scores, fitted["best_accuracy_threshold"]
        )
        at_fpr = calibration.apply_threshold(labels, scores, method.threshold)
        figures["transferred_acc"] = best.accuracy
        figures["transferred_fpr"] = at_fpr.fpr
        figures["transferred_tpr"] = at_fpr.tpr
    return figures


def _macro(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Unweighted means over generators, as the papers' Avg. and mAP.

    A figure that some of them lack is the mean over the others, as in
    `statistics.Estimates.averaged`.
    """
    values = defaultdict(list)
    for summary in summaries:
        for name, value in summary.items():
            if isinstance(value, float):
                values[name].append(value)
    return {name: float(np.mean(v)) for name, v in values.items()}


def _reliability(
    columns: Sequence[Hashable],
    labels: np.ndarray,
    scores: Mapping[Any, np.ndarray],
    groups: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Of all images of any group, each once a seed; empty without both classes."""
    index = np.unique(np.concatenate([np.empty(0, np.int64), *groups.values()]))
    y = labels[index]
    if not 0 < y.sum() < len(y):
        return []
    return calibration.reliability(
        np.tile(y, len(columns)),
        np.concatenate([scores[column][index] for column in columns]),
    )


def upside_down(name: str, figures: Mapping[str, Any], *, outside: bool) -> list[str]:
    """Warns of scores that are higher for real images on most generators.

    Args:
      name: of the method.
      figures: of `of_method`.
      outside: whether the scores were made elsewhere.

    Returns:
      One warning, or none.
    """
    each = [own["auc"] for own in figures["generators"].values()]
    each = [auc for auc in each if auc is not None]
    below = sum(auc < 0.5 for auc in each)
    ends = figures["macro_interval_95"].get("auc")
    if ends is None or ends[1] >= 0.5 or 2 * below <= len(each):
        return []
    low, high = (f"{100 * end:.1f}" for end in ends)
    found = (
        f"{name} scores real images higher than fakes: AUC is below 50 on {below} of "
        f"{len(each)} generators, {100 * figures['macro']['auc']:.2f} on average (95%: "
        f"{low} to {high})"
    )
    if outside:
        return [
            f"{found}. A score must be P(fake); if the file has P(real), give 1 - score"
        ]
    return [f"{found}: what it learnt is reversed on these images"]
