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
from item_jax.config import leaves
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
      The content of `results.json`: `method`, the first name; its `generators` {name:
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


def table(results: Mapping[str, Any]) -> str:
    """Returns results as a table for people, figures in percent."""
    first = results["method"]
    others = [name for name in results["methods"] if name != first]
    trained = set(results["methods"][first]["config"]["training"]["generators"])
    names = list(results["generators"])
    left = max(len(n) for n in [*names, "macro average"]) + 2
    wide = max([9, *map(len, others)])
    head = f"{'generator':<{left}}{'n':>6}{'ACC':>8}{'AP':>8}{'AUC':>8}  AUC 95%     "
    lines = [head + " ".join(f"{name:>{wide}}" for name in others)]

    def line(name: str, n: int, figures, interval, other_figures) -> str:
        low_high = "" if not interval else f"{100 * interval[0]:5.1f}-"
        if interval:
            low_high += f"{100 * interval[1]:<5.1f}"
        own = "".join(_percent(figures.get(k), 8) for k in ("acc", "ap", "auc"))
        rest = " ".join(_percent(f.get("auc"), wide) for f in other_figures)
        return f"{name:<{left}}{n:>6}{own}  {low_high:<11}  {rest}".rstrip()

    for name in names:
        summary = results["generators"][name]
        rest = [results["methods"][o]["generators"][name] for o in others]
        interval = summary.get("interval_95", {}).get("auc")
        seen = "*" if name.split("/")[-1] in trained else ""
        lines.append(line(name + seen, summary["n"], summary, interval, rest))
    total = sum(s["n"] for s in results["generators"].values())
    rest = [results["methods"][o]["macro"] for o in others]
    lines.append(line("macro average", total, results["macro"], None, rest))
    return "\n".join([*lines, "", *_notes(results, others)])


def _percent(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{100 * value:{width}.2f}"


def _notes(results: Mapping[str, Any], others: Sequence[str]) -> list[str]:
    """What the figures of a table rest on."""
    method = results["methods"][results["method"]]
    counts, embedding = results["counts"], results["embedding"]
    right = "on the right AUC of other methods; " if others else ""
    notes = [
        f"percent; ACC at P(fake) > {method['threshold']}; {right}"
        "* trained on this generator",
        f"protocol {results['protocol']['name']}: {results['protocol']['images']}",
        f"{counts['in']} images = {counts['done']} done + {counts['failed']} failed; "
        f"{_described(method['config'])}, towers {embedding['tower']['name']}, "
        f"{embedding['dtype']}{_altered(embedding)}",
        f"{results['method']}: {method['range']['text']}",
    ]
    notes += [
        f"  failed: {files.printable(f['key'])}: {files.printable(f['error'])}"
        for f in results["failures"][:5]
    ]
    if len(results["failures"]) > 5:
        notes.append(f"  ... and {len(results['failures']) - 5} more in scores.csv")
    if "seeds" in method:
        spread = "; ".join(
            f"{name} {100 * f['auc']['mean']:.2f} +- {100 * f['auc']['std']:.2f}"
            for name, f in method["seeds"]["generators"].items()
            if "auc" in f
        )
        notes.append(f"AUC over {method['seeds']['n']} seeds: {spread}")
    return notes + [f"warning: {warning}" for warning in results["warnings"]]


def _described(config: Mapping[str, Any]) -> str:
    settings_of = leaves(config["training"]["settings"])
    said = f"method {config['method']!r}"
    name = settings_of.get("misalignment.name")
    return f"{said}, misalignment {name!r}" if name else said


def _altered(embedding: Mapping[str, Any]) -> str:
    """What was done to the images before they were embedded, if anything."""
    said = ""
    perturb, neutralise = embedding["perturb"], embedding["neutralise"]
    if perturb["name"] != "none":
        said += f", perturbation {perturb['name']}:{perturb['severity']}"
    if neutralise["quality"] or neutralise["size"]:
        said += (
            f", neutralised (JPEG quality {neutralise['quality'] or '-'}, side "
            f"{neutralise['size'] or '-'})"
        )
    return said
