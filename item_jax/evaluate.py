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

from item_jax import config as config_lib
from item_jax import files, metrics, protocol, settings
from item_jax.cache import EmbeddingCache
from item_jax.embeddings import Row
from item_jax.fitted import FittedMethod
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
      What stands in `results.json`: `method`, the first name; its `generators` {name:
      {n, acc, ap, auc, ...}} and `macro`; `methods` {name: {"generators", "macro",
      "threshold", "range", "config", "seeds"}}; `counts` {in, done, failed};
      `failures`; `single_class`, the groups left out of the macro; `protocol`;
      `embedding`; `warnings`; `config`. Figures are fractions; None where undefined.

    Raises:
      ValueError: if a method was fitted on another kind of embedding, naming it.
    """
    c = config.evaluate
    config_lib.check(config, ("seed", "evaluate"))
    said = list(warnings)
    for name, seeds in fitted.items():
        said += settings.compare(seeds[0].embedding, cache.embedding, what=name)
    scores = score(cache, fitted, split=c.split)
    sources = protocol.complete_real_sources(scores.rows, cache.real_sources)
    keys = [row["key"] for row in scores.rows]
    groups = {
        name: protocol.select(c.protocol, index, scores.labels, keys)
        for name, index in protocol.groups(scores.rows, real_sources=sources).items()
    }
    single = {
        name: "real" if (scores.labels[index] == 0).any() else "fake"
        for name, index in groups.items()
        if len(set(scores.labels[index])) < 2
    }
    said += [
        f"{name} has only {label} images: AP and AUC are undefined, and it is left out "
        "of the macro average"
        for name, label in single.items()
    ]
    results = {
        name: _figures(name, seeds, scores, groups, single, config)
        for name, seeds in fitted.items()
    }
    first = next(iter(fitted))
    out = {
        "method": first,
        "generators": results[first]["generators"],
        "macro": results[first]["macro"],
        "methods": results,
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
        "warnings": list(dict.fromkeys(said)),
        "config": config_lib.to_json(config),
    }
    if folder is not None:
        folder = Path(folder)
        _write_scores(folder / "scores.csv", scores, fitted)
        files.write_json(folder / "results.json", out)
    return out


def _figures(
    name: str,
    seeds: Sequence[FittedMethod],
    scores: Scores,
    groups: Mapping[str, np.ndarray],
    single: Mapping[str, str],
    config: ConfigDict,
) -> dict[str, Any]:
    """Everything about one method."""
    threshold = seeds[0].threshold
    per_seed = [
        {
            group: metrics.summary(
                scores.labels[index],
                scores.columns[name, k][index],
                threshold=threshold,
            )
            for group, index in groups.items()
        }
        for k in range(len(seeds))
    ]
    generators: dict[str, dict[str, Any]] = per_seed[0]
    for group, index in groups.items():
        generators[group]["protocol"] = config.evaluate.protocol
        if config.evaluate.bootstrap:
            generators[group]["interval_95"] = _intervals(
                scores.labels[index], scores.columns[name, 0][index], threshold, config
            )
    figures: dict[str, Any] = {
        "generators": generators,
        "macro": _macro([g for n, g in generators.items() if n not in single]),
        "threshold": threshold,
        "range": seeds[0].range(),
        "config": seeds[0].config,
    }
    if len(seeds) > 1:
        figures["seeds"] = _over_seeds(per_seed)
    return figures


def _macro(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Unweighted means over generators, as the papers' Avg. and mAP."""
    values = defaultdict(list)
    for summary in summaries:
        for name, value in summary.items():
            if isinstance(value, float) and not name.startswith("n"):
                values[name].append(value)
    return {name: float(np.mean(v)) for name, v in values.items()}


def _intervals(labels, scores, threshold: float, config: ConfigDict) -> dict[str, Any]:
    functions: dict[str, metrics.Metric] = {
        "acc": lambda y, s: metrics.accuracy(y, s, threshold=threshold),
        "ap": metrics.average_precision,
        "auc": metrics.roc_auc,
    }
    return {
        name: metrics.bootstrap(
            labels, scores, f, samples=config.evaluate.bootstrap, seed=config.seed
        )
        for name, f in functions.items()
    }


def _over_seeds(per_seed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) of acc, ap and auc over seeds."""
    out: dict[str, Any] = {}
    for group in per_seed[0]:
        figures = {}
        for figure in ("acc", "ap", "auc"):
            values = [summaries[group][figure] for summaries in per_seed]
            if None not in values:
                figures[figure] = {
                    "mean": float(np.mean(values)),
                    "std": float(np.std(values, ddof=1)),
                }
        out[group] = figures
    return {"n": len(per_seed), "generators": out}


def _write_scores(
    path: Path, scores: Scores, fitted: Mapping[str, Sequence[FittedMethod]]
) -> None:
    """One row an image: the first method's score and verdict, the others' scores."""
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
                    "p_fake": f"{p:.6f}",
                    "verdict": "fake" if p > threshold else "real",
                    "cosine": f"{row['cosine']:.6f}",
                    "objects": len(row["objects"]),
                    "status": "done",
                }
                | {f"p_fake_{n}": f"{scores.columns[n, 0][i]:.6f}" for n in others}
            )
        for row in scores.failures:
            known = {name: row.get(name) for name in names}
            writer.writerow(known | {"status": "failed", "error": row["error"]})
