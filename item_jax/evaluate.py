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
    settings,
    statistics,
)
from item_jax import config as config_lib
from item_jax.cache import EmbeddingCache
from item_jax.embeddings import Row
from item_jax.fitted import FittedMethod, not_learned
from item_jax.misalignment import cosine
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

    Args:
      cache: finished.
      fitted: by name, one fitted method per seed. The first name is the method whose
        figures come first; several seeds add the spread of each figure.
      config: `evaluate` and `seed`.
      folder: gets `scores.csv` and `results.json` when given.
      warnings: to be kept with the results, before those found here.

    Returns:
      The content of `results.json`; figures are fractions, None where undefined:
      `method`, the first name; its `generators` {name: {n, acc, ap, auc, ...}} and
      `macro`; `methods` {name: see `_figures`}; `cosine` {generator: {"real", "fake"
      (means), "difference" (fake - real), "interval_95", "direction" ("higher",
      "lower" or "undecided": that of the fakes)}}; `counts` {in, done, failed};
      `failures`; `single_class` {generator: its only label}; `protocol`; `embedding`;
      `warnings`; `config`, its `seed` and `evaluate`.

    Raises:
      ValueError: if a method was fitted on another kind of embedding, naming it.
    """
    c = config.evaluate
    config_lib.check(config, ("seed", "evaluate"))
    notices = list(warnings)
    for name, seeds in fitted.items():
        notices += settings.compare(seeds[0].embedding, cache.embedding, what=name)
    notices += _lost_seeds(fitted)
    for name, seeds in fitted.items():
        notices += not_learned(name, seeds)
    scores = score(cache, fitted, split=c.split)
    sources = protocol.complete_real_sources(scores.rows, cache.real_sources)
    keys = [row["key"] for row in scores.rows]
    groups = {
        name: protocol.select(c.protocol, index, scores.labels, keys)
        for name, index in protocol.groups(
            scores.rows, real_sources=sources, only=c.generators
        ).items()
    }
    single = {
        name: "real" if (scores.labels[index] == 0).any() else "fake"
        for name, index in groups.items()
        if len(set(scores.labels[index])) < 2
    }
    notices += [
        f"{name} has only {label} images: AP and AUC are undefined, and it is left out "
        "of the macro average"
        for name, label in single.items()
    ]
    cosines = np.array([row["cosine"] for row in scores.rows])
    replicates = None
    if c.bootstrap:
        replicates = statistics.resample(
            scores.labels,
            groups,
            scores.columns,
            thresholds={(n, k): fitted[n][k].threshold for n, k in scores.columns},
            means={"cosine": cosines},
            replicates=c.bootstrap,
            seed=config.seed,
        )
    results = {
        name: _figures(name, seeds, scores, groups, replicates, config)
        for name, seeds in fitted.items()
    }
    if replicates is not None:
        comparison.compare(results, replicates, scores.labels, scores.columns, groups)
    notices += _held_in(fitted, cache, c.split)
    first = next(iter(fitted))
    out = {
        "method": first,
        "generators": results[first]["generators"],
        "macro": results[first]["macro"],
        "methods": results,
        "cosine": comparison.directions(cosines, scores.labels, groups, replicates),
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
        "config": {
            name: config_lib.to_json(config)[name] for name in ("seed", "evaluate")
        },
    }
    if folder is not None:
        folder = Path(folder)
        _write_scores(folder / "scores.csv", scores, fitted)
        files.write_json(folder / "results.json", out)
    return out


RANKING = ("ap", "auc", "eer")
"""Figures that rank scores, as do those that begin with `tpr_at_fpr`."""


def _figures(
    name: str,
    seeds: Sequence[FittedMethod],
    scores: Scores,
    groups: Mapping[str, np.ndarray],
    replicates: statistics.Replicates | None,
    config: ConfigDict,
) -> dict[str, Any]:
    """Everything about one method but its comparison with others.

    Returns:
      `generators`, `macro` (means over those that can be averaged), `left_out`
      {generator: why it lacks figures}, `threshold`, `calibration` (or None), `about`
      (what the method is, a line), `range`, `config`, `reliability` (see
      `calibration.reliability`; all generators together); with intervals
      `macro_interval_95` {figure: (low, high)} and `minimum` {figure: {"value",
      "generator", "interval_95"}}; with several seeds `seeds`.
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
    generators: dict[str, dict[str, Any]] = per_seed[0]
    for group in groups:
        generators[group]["protocol"] = config.evaluate.protocol
        if replicates is not None:
            generators[group]["interval_95"] = {
                figure: replicates.interval((name, 0), group, figure)
                for figure in statistics.FIGURES
            }
    averaged = [
        generators[group]
        for group, index in groups.items()
        if min(np.bincount(scores.labels[index], minlength=2)) >= statistics.FEWEST
    ]
    figures: dict[str, Any] = {
        "generators": generators,
        "macro": _macro(averaged),
        "left_out": left_out,
        "threshold": seeds[0].threshold,
        "calibration": seeds[0].calibration,
        "about": seeds[0].about(),
        "range": seeds[0].range(),
        "config": seeds[0].config,
        "train_auc": [getattr(one, "train_auc", None) for one in seeds],
        "reliability": _reliability(scores, name, groups),
    }
    if replicates is not None:
        figures |= {"macro_interval_95": {}, "minimum": {}}
        for figure in statistics.FIGURES:
            macro = replicates.macro((name, 0), figure)
            least = replicates.minimum((name, 0), figure)
            if macro is not None:
                figures["macro_interval_95"][figure] = macro[1]
            if least is not None:
                figures["minimum"][figure] = dict(
                    zip(("value", "generator", "interval_95"), least)
                )
    if len(seeds) > 1:
        figures["seeds"] = _over_seeds(name, per_seed, replicates, config.seed)
    return figures


def _summary(
    labels: np.ndarray, scores: np.ndarray, method: FittedMethod, *, ranks: bool
) -> dict[str, Any]:
    """The figures of one generator and seed.

    Besides those of `metrics.summary` and `calibration.summary`: `acc_at_half`, ACC at
    0.5; with a calibrated threshold, ACC, FPR and TPR at the thresholds fitted on
    held-out images, `transferred_acc` for the best accuracy and `transferred_fpr` and
    `_tpr` for the false positive rate.
    """
    figures: dict[str, Any] = dict(
        metrics.summary(labels, scores, threshold=method.threshold)
    )
    if not ranks:
        for name in figures:
            if name in RANKING or name.startswith("tpr_at_fpr"):
                figures[name] = None
    figures["acc_at_half"] = metrics.accuracy(labels, scores)
    both = 0 < labels.sum() < len(labels)
    names = ("nll", "brier", "ece_balanced", "oracle_acc")
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
    `statistics.Replicates.macro`.
    """
    values = defaultdict(list)
    for summary in summaries:
        for name, value in summary.items():
            if isinstance(value, float):
                values[name].append(value)
    return {name: float(np.mean(v)) for name, v in values.items()}


def _reliability(scores: Scores, name: str, groups) -> list[dict[str, Any]]:
    """Of all images of any group, each once; empty without both classes."""
    index = np.unique(np.concatenate([np.empty(0, np.int64), *groups.values()]))
    labels = scores.labels[index]
    if not 0 < labels.sum() < len(labels):
        return []
    return calibration.reliability(labels, scores.columns[name, 0][index])


def _over_seeds(
    name: str,
    per_seed: Sequence[Mapping[str, Any]],
    replicates: statistics.Replicates | None,
    seed: int,
) -> dict[str, Any]:
    """Mean, standard deviation (n - 1) and interval of acc, ap and auc over seeds."""
    out: dict[str, Any] = {group: {} for group in per_seed[0]}
    for figure in statistics.FIGURES:
        for group in out:
            values = [summaries[group][figure] for summaries in per_seed]
            if None not in values:
                out[group][figure] = {
                    "mean": float(np.mean(values)),
                    "std": float(np.std(values, ddof=1)),
                }
    macro = {}
    if replicates is not None:
        columns = [(name, k) for k in range(len(per_seed))]
        for figure in statistics.FIGURES:
            found = replicates.over_seeds(columns, figure, seed=seed)
            if "macro" in found:
                macro[figure] = found.pop("macro")
            for group, spread in found.items():
                out[group][figure] = spread
    return {"n": len(per_seed), "generators": out, "macro": macro}


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

    Nine digits tell float32 scores apart, so that figures can be computed again.
    """
    first, *others = fitted
    threshold = fitted[first][0].threshold
    names = ["key", "label", "benchmark", "generator", "split", "caption"]
    extra = ["p_fake", "verdict", "cosine", "objects", "status", "error"]
    extra += [f"p_fake_{name}" for name in others]
    with files.atomic_file(path) as f:
        writer = csv.DictWriter(f, names + extra, lineterminator="\n")
        writer.writeheader()
        for i, row in enumerate(scores.rows):
            p = scores.columns[first, 0][i]
            writer.writerow(
                {name: row[name] for name in names}
                | {
                    "p_fake": f"{p:.9g}",
                    "verdict": "fake" if p > threshold else "real",
                    "cosine": f"{row['cosine']:.9g}",
                    "objects": len(row["objects"]),
                    "status": "done",
                }
                | {f"p_fake_{n}": f"{scores.columns[n, 0][i]:.9g}" for n in others}
            )
        for row in scores.failures:
            known = {name: row.get(name) for name in names}
            writer.writerow(known | {"status": "failed", "error": row["error"]})
