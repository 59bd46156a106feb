"""Testing (Algorithm 1 of ITEM): every fitted method scored, figures per generator."""

from __future__ import annotations

import csv
import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from item_jax import (
    calibration,
    comparison,
    files,
    metrics,
    protocol,
    results,
    settings,
    statistics,
)
from item_jax import config as config_lib
from item_jax.cache import EmbeddingCache
from item_jax.embeddings import Row
from item_jax.fitted import FittedMethod, not_learned
from item_jax.misalignment import cosine
from item_jax.outside_scores import OutsideScores
from item_jax.records import LABELS


@dataclasses.dataclass(frozen=True)
class Scores:
    """What one pass over a cache gives.

    Attributes:
      rows: of the images scored, each with the `cosine` of image and caption.
      labels: int `[n]`, real 0, fake 1, unknown -1.
      columns: P(fake) `[n]` of each method and seed, by `(name, number of the seed)`.
      failures: the rows of images without embeddings.
    """

    rows: list[Row]
    labels: np.ndarray
    columns: dict[tuple[str, int], np.ndarray]
    failures: list[Row]


def score(
    cache: EmbeddingCache,
    fitted: Mapping[str, Sequence[FittedMethod]],
    *,
    split: str = "",
) -> Scores:
    """Scores a cache with several methods; each shard is read once.

    Args:
      cache: finished.
      fitted: by name, one fitted method per seed.
      split: of the rows; "" takes all.

    Raises:
      ValueError: if there is no row, or a score is not in [0, 1].
    """
    rows: list[Row] = []
    failures: list[Row] = []
    columns: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    for part, failed in cache:
        failures += [row for row in failed if not split or row["split"] == split]
        part = part.where(lambda row: not split or row["split"] == split)
        if not len(part):
            continue
        cosines = np.asarray(cosine(part.image_emb, part.text_emb))[:, 0]
        rows += [row | {"cosine": float(c)} for row, c in zip(part.rows, cosines)]
        for name, seeds in fitted.items():
            for k, one in enumerate(seeds):
                columns[name, k].append(one.score(part))
    if not rows:
        raise ValueError(
            f"nothing to evaluate: the cache has no done row of split {split!r}; "
            "--config.evaluate.split= takes all"
        )
    labels = np.array([LABELS.get(row["label"], -1) for row in rows])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Scores(rows, labels, joined, failures)


def evaluate_methods(
    cache: EmbeddingCache,
    fitted: Mapping[str, Sequence[FittedMethod]],
    config: ConfigDict,
    *,
    folder: str | Path | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Scores a split with fitted methods and sums it up per generator.

    Every figure of a method is the mean over its training seeds; intervals and p values
    take seeds and images into account.

    Args:
      cache: finished.
      fitted: by name, one fitted method per seed. The others are compared with the
        first.
      config: `evaluate`.
      folder: gets `scores.csv` and `results.json` when given.
      warnings: to be kept with the results, before those found here.

    Returns:
      The content of `results.json`; figures are fractions, None where undefined:
      `method`, the first name; its `generators` {name: {n, n_real, n_fake, acc,
      balanced_acc, ap, ap_balanced, auc, ap_chance, majority, ...}} and `macro`;
      `methods` {name: see `_figures`}; `trained_on` {generator: the methods that were
      trained on it}; `unseen`, the generators that no method was trained on;
      `average` and `average_unseen` {generators, n, n_real, n_fake}, what the two
      averages are over, an image that several generators share counted once; `cosine`
      {generator: {"real", "fake" (means), "difference" (fake - real), "interval_95",
      "direction" ("higher", "lower" or "undecided": that of the fakes)}}; `counts` {in,
      done, failed}; `failures`; `single_class` {generator: its only label};
      `protocol`; `embedding`; `warnings`; `config`, its `evaluate`.

    Raises:
      ValueError: if a method was fitted on another kind of embedding, naming it.
    """
    c = config.evaluate
    config_lib.check(config, ("evaluate",))
    notices = list(warnings)
    for name, seeds in fitted.items():
        notices += settings.compare(seeds[0].embedding, cache.embedding, what=name)
    notices += _lost_seeds(fitted)
    for name, seeds in fitted.items():
        notices += not_learned(name, seeds)
    scores = score(cache, fitted, split=c.split)
    labels = scores.labels
    sources = protocol.complete_real_sources(scores.rows, cache.real_sources)
    keys = [row["key"] for row in scores.rows]
    groups = {
        name: protocol.select(c.protocol, index, labels, keys)
        for name, index in protocol.groups(
            scores.rows, real_sources=sources, only=c.generators
        ).items()
    }
    single = {
        name: "real" if (labels[index] == 0).any() else "fake"
        for name, index in groups.items()
        if len(set(labels[index])) < 2
    }
    notices += [
        f"{name} has only {label} images: AP and AUC are undefined, and it is left out "
        "of the macro average"
        for name, label in single.items()
    ]
    cosines = np.array([row["cosine"] for row in scores.rows])
    estimates = statistics.estimate(
        labels,
        groups,
        scores.columns,
        thresholds={(n, k): fitted[n][k].threshold for n, k in scores.columns},
        means={"cosine": cosines},
    )
    trained_on = {group: _trained_on(group, fitted) for group in groups}
    averaged = [
        group
        for group, index in groups.items()
        if min(np.bincount(labels[index], minlength=2)) >= statistics.FEWEST
    ]
    unseen = [group for group in averaged if not trained_on[group]]
    figures = {
        name: _figures(name, seeds, scores, groups, estimates, averaged, unseen, config)
        for name, seeds in fitted.items()
    }
    columns = {name: _columns(name, seeds) for name, seeds in fitted.items()}
    comparison.compare(figures, estimates, columns, unseen=unseen)
    notices += _held_in(fitted, cache, c.split)
    for name, seeds in fitted.items():
        notices += _upside_down(name, seeds[0], figures[name])
    first = next(iter(fitted))
    out = {
        "method": first,
        "generators": figures[first]["generators"],
        "macro": figures[first]["macro"],
        "methods": figures,
        "trained_on": trained_on,
        "unseen": unseen,
        "average": _average(averaged, groups, labels),
        "average_unseen": _average(unseen, groups, labels),
        "cosine": comparison.directions(cosines, labels, groups, estimates),
        "counts": {
            "in": len(scores.rows) + len(scores.failures),
            "done": len(scores.rows),
            "failed": len(scores.failures),
        },
        "failures": [{"key": r["key"], "error": r["error"]} for r in scores.failures],
        "single_class": single,
        "protocol": {
            "name": c.protocol,
            "images": protocol.PROTOCOLS[c.protocol],
            "real_sources": sources,
        },
        "embedding": cache.embedding,
        "warnings": list(dict.fromkeys(notices)),
        "config": {"evaluate": config_lib.to_json(config)["evaluate"]},
    }
    if folder is not None:
        folder = Path(folder)
        _write_scores(folder / "scores.csv", scores, fitted)
        files.write_json(folder / "results.json", out)
    return out


def _columns(name: str, seeds: Sequence[Any]) -> list[tuple[str, int]]:
    """The columns of scores that are the training seeds of a method."""
    return [(name, k) for k in range(len(seeds))]


def _trained_on(group: str, fitted: Mapping[str, Sequence[FittedMethod]]) -> list[str]:
    """The methods that were trained on a generator, by its name."""
    generator = group.split("/")[-1]
    return [
        name
        for name, seeds in fitted.items()
        if generator
        in {g or "unnamed" for g in seeds[0].config["training"]["generators"]}
    ]


def _average(
    names: Sequence[str], groups: Mapping[str, np.ndarray], labels: np.ndarray
) -> dict[str, Any]:
    """What an average is over; images that generators share are counted once."""
    images = np.unique(np.concatenate([np.empty(0, int), *(groups[n] for n in names)]))
    real, fake = (int((labels[images] == label).sum()) for label in (0, 1))
    return {"generators": list(names), "n": real + fake, "n_real": real, "n_fake": fake}


RANKING = ("ap", "ap_balanced", "auc", "eer")
"""Figures that rank scores, as do those that begin with `tpr_at_fpr`."""


def _figures(
    name: str,
    seeds: Sequence[FittedMethod],
    scores: Scores,
    groups: Mapping[str, np.ndarray],
    estimates: statistics.Estimates,
    averaged: Sequence[str],
    unseen: Sequence[str],
    config: ConfigDict,
) -> dict[str, Any]:
    """Everything about one method but its comparison with others.

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
    for k, one in enumerate(seeds):
        summaries = {}
        for group, index in groups.items():
            labels, own = scores.labels[index], scores.columns[name, k][index]
            why = statistics.why_none(labels, own)
            summaries[group] = _summary(labels, own, one, ranks=why is None)
            if why is not None:
                left_out[group] = why[0]
        per_seed.append(summaries)
    columns = _columns(name, seeds)
    generators = {
        group: _mean([summaries[group] for summaries in per_seed])
        | {"protocol": config.evaluate.protocol}
        for group in groups
    }
    spread: dict[str, Any] = {group: {} for group in (*groups, None)}
    for group in spread:
        for figure in statistics.FIGURES:
            spread[group][figure] = estimates.figure(columns, figure, group)
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
        "reliability": _reliability(columns, scores, groups),
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
    labels: np.ndarray, scores: np.ndarray, method: FittedMethod, *, ranks: bool
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
    columns: Sequence[tuple[str, int]],
    scores: Scores,
    groups: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Of all images of any group, each once a seed; empty without both classes."""
    index = np.unique(np.concatenate([np.empty(0, np.int64), *groups.values()]))
    labels = scores.labels[index]
    if not 0 < labels.sum() < len(labels):
        return []
    return calibration.reliability(
        np.tile(labels, len(columns)),
        np.concatenate([scores.columns[column][index] for column in columns]),
    )


def _upside_down(name: str, method: Any, figures: Mapping[str, Any]) -> list[str]:
    """Warns of scores that are higher for real images on most generators."""
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
    if isinstance(method, OutsideScores):
        return [
            f"{found}. A score must be P(fake); if the file has P(real), give 1 - score"
        ]
    return [f"{found}: what it learnt is reversed on these images"]


def _lost_seeds(fitted: Mapping[str, Sequence[FittedMethod]]) -> list[str]:
    """Warns of methods that were fitted with more seeds than are here."""
    notices = []
    for name, seeds in fitted.items():
        train = seeds[0].config["training"]["settings"].get("train")
        count = train.get("seeds") if isinstance(train, Mapping) else None
        if isinstance(count, int) and count > len(seeds):
            notices.append(
                f"{name} was fitted with {count} seeds, of which {len(seeds)} are "
                "here: its figures are means over those"
            )
    return notices


def _held_in(
    fitted: Mapping[str, Sequence[FittedMethod]], cache: EmbeddingCache, split: str
) -> list[str]:
    """Warns of a threshold that was fitted on the images it is tested on."""
    notices = []
    for name, seeds in fitted.items():
        own = seeds[0].calibration
        if (
            own
            and own["records_sha256"] == cache.manifest["records_sha256"]
            and (not split or own["split"] in ("", split))
        ):
            notices.append(
                f"the threshold of {name} was fitted on split {own['split']!r} of "
                "these records: its ACC is not held out"
            )
    return notices


def _write_scores(
    path: Path, scores: Scores, fitted: Mapping[str, Sequence[FittedMethod]]
) -> None:
    """One row an image: the first method's score and verdict, the others' scores.

    `p_fake`, `verdict` and `p_fake_NAME` are of the first seed, which `predict` takes
    too; `p_fake@seed-K` and `p_fake_NAME@seed-K` are the further seeds'. Nine digits
    tell float32 scores apart, so that figures can be computed again.
    """
    first = next(iter(fitted))
    threshold = fitted[first][0].threshold
    names = ["key", "label", "benchmark", "generator", "split", "caption"]
    extra = ["p_fake", "verdict", "cosine", "objects", "status", "error"]
    columns = {
        column: results.column(
            name, first, one.config["training"]["seed"] if k else None
        )
        for name, seeds in fitted.items()
        for column, (k, one) in zip(_columns(name, seeds), enumerate(seeds))
    }
    extra += [column for column in columns.values() if column not in extra]
    with files.atomic_file(path) as f:
        writer = csv.DictWriter(f, names + extra, lineterminator="\n")
        writer.writeheader()
        for i, row in enumerate(scores.rows):
            writer.writerow(
                {name: row[name] for name in names}
                | {
                    "verdict": "fake"
                    if scores.columns[first, 0][i] > threshold
                    else "real",
                    "cosine": f"{row['cosine']:.9g}",
                    "objects": len(row["objects"]),
                    "status": "done",
                }
                | {to: f"{scores.columns[of][i]:.9g}" for of, to in columns.items()}
            )
        for row in scores.failures:
            known = {name: row.get(name) for name in names}
            writer.writerow(known | {"status": "failed", "error": row["error"]})
