"""Testing (Algorithm 1 of ITEM): scores, per generator, with baselines beside them."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from item_jax import baselines, metrics, protocol
from item_jax.cache import EmbeddingCache, Embeddings
from item_jax.config import to_json
from item_jax.heads import Head
from item_jax.misalignment import cosine
from item_jax.records import LABELS, atomic_file, write_json

# Settings a score depends on: another value would compare unlike embeddings.
BINDING = (
    *("checkpoint_sha256", "geometry", "object_crop", "image_size"),
    *("neutralise_quality", "neutralise_size"),
)


def check_match(
    head: Head, *, embed_dim: int, towers: str, embedding: dict[str, Any]
) -> None:
    """Makes sure that embeddings are of the kind a head was trained on.

    Args:
      head: with its story in `config`.
      embed_dim: D of the embeddings at hand.
      towers: the name of the towers they come from.
      embedding: their settings, as in a cache's fingerprint.

    Raises:
      ValueError: naming each thing that differs.
    """
    wanted = head.config["towers"]
    if embed_dim != wanted["embed_dim"]:
        raise ValueError(
            f"the head was trained on embeddings of width {wanted['embed_dim']} "
            f"({wanted['name']}), found width {embed_dim} ({towers})"
        )
    differing = [
        f"{name}: the head has {head.config['embedding'].get(name)!r}, the embeddings "
        f"{embedding.get(name)!r}"
        for name in BINDING
        if head.config["embedding"].get(name) != embedding.get(name)
    ]
    if differing:
        raise ValueError(
            f"the head was trained on other embeddings ({towers}): "
            f"{'; '.join(differing)}"
        )


def score(head: Head, embeddings: Embeddings) -> np.ndarray:
    """Returns P(fake), float32 `[n]`, with the misalignment the head was trained on."""
    config = ConfigDict({"misalignment": head.config["misalignment"]})
    return head.p_fake(embeddings.misalignment(config))


def evaluate_heads(
    cache: EmbeddingCache,
    heads: Sequence[Head],
    config: ConfigDict,
    *,
    workdir: str | Path | None = None,
) -> dict[str, Any]:
    """Scores the test split and sums it up per generator.

    Args:
      cache: finished; the rows of `config.evaluate.split` are scored, those the head
        was trained on fit the baselines.
      heads: the first gives the scores and figures; several, which differ in their
        seed, add the spread of each figure over seeds.
      config: `evaluate` and `baselines`.
      workdir: when given, `results/scores.csv` and `results/results.json` are
        written.

    Returns:
      What stands in `results.json`: `generators` {name: {n, acc, ap, auc, ...}},
      `macro`, `baselines` {name: {"generators", "macro"}}, `counts` {in, done,
      failed}, `failures`, `config`. Figures are fractions; None where undefined.

    Raises:
      ValueError: when the embeddings are of another kind than the heads need.
    """
    manifest = cache.manifest
    check_match(
        heads[0],
        embed_dim=manifest["embed_dim"],
        towers=manifest["towers"],
        embedding=manifest["fingerprint"],
    )
    _check_seeds(heads)
    threshold = config.evaluate.threshold
    rivals = _fit_baselines(cache, heads[0].config["training"], config.baselines)
    rows: list[dict[str, Any]] = []
    columns = defaultdict(list)
    for part in cache.select(split=config.evaluate.split):
        for k, head in enumerate(heads):
            columns[k].append(score(head, part))
        for name, (module, state) in rivals.items():
            columns[name].append(module.score(state, part))
        cosines = np.asarray(cosine(part.image_emb, part.text_emb))[:, 0]
        rows += [row | {"cosine": float(c)} for row, c in zip(part.rows, cosines)]
    if not rows:
        raise ValueError(
            f"nothing to evaluate: the cache has no done row of split "
            f"{config.evaluate.split!r}; --config.evaluate.split= takes all"
        )
    scores = {name: np.concatenate(parts) for name, parts in columns.items()}
    labels = np.array([LABELS.get(row["label"], -1) for row in rows])
    protocol.check(config.evaluate.protocol)
    keys = [row["key"] for row in rows]
    pairs = manifest.get("pairs", {})
    groups = {
        name: protocol.select(config.evaluate.protocol, index, labels, keys)
        for name, index in protocol.groups(rows, pairs=pairs).items()
    }

    per_seed = [
        _summaries(groups, labels, scores[k], threshold) for k in range(len(heads))
    ]
    results = per_seed[0]
    for name, index in groups.items():
        summary = results["generators"][name]
        summary["protocol"] = config.evaluate.protocol
        if config.evaluate.bootstrap:
            summary["interval_95"] = _intervals(labels[index], scores[0][index], config)
    if len(heads) > 1:
        results["seeds"] = _over_seeds(per_seed)
    results["baselines"] = {
        name: _summaries(groups, labels, scores[name], threshold) for name in rivals
    }
    failures = [
        row
        for row in cache.failures()
        if not config.evaluate.split or row["split"] == config.evaluate.split
    ]
    results["counts"] = {
        "in": len(rows) + len(failures),
        "done": len(rows),
        "failed": len(failures),
    }
    results["failures"] = [{"key": r["key"], "error": r["error"]} for r in failures]
    results["protocol"] = {
        "name": config.evaluate.protocol,
        "images": protocol.PROTOCOLS[config.evaluate.protocol],
        "pairs": pairs,
    }
    results["towers"] = manifest["towers"]
    results["embedding"] = manifest["fingerprint"]
    results["head"] = heads[0].config
    results["config"] = to_json(config)
    if workdir is not None:
        folder = Path(workdir) / "results"
        _write_scores(folder / "scores.csv", rows, scores[0], failures, threshold)
        write_json(folder / "results.json", results)
    return results


def _check_seeds(heads: Sequence[Head]) -> None:
    """Several heads must differ in their seed alone: their spread is reported."""

    def but_for_the_seed(head):
        return head.config | {"training": head.config["training"] | {"seed": None}}

    for head in heads[1:]:
        if but_for_the_seed(head) != but_for_the_seed(heads[0]):
            raise ValueError(
                "the heads are of different trainings: seed "
                f"{head.config['training']['seed']} differs from seed "
                f"{heads[0].config['training']['seed']} in more than that"
            )


def _fit_baselines(cache: EmbeddingCache, training, names) -> dict[str, Any]:
    """Fits baselines on what the head was trained on, as far as the cache has it."""
    modules = {name: baselines.get(name) for name in names}
    parts = [
        part.where(lambda row: row["label"] is not None)
        for part in cache.select(
            split=training["split"], generators=training["settings"]["generators"]
        )
    ]
    parts = [part for part in parts if len(part)]
    classes = {int(label) for part in parts for label in np.unique(part.labels)}
    if classes != {0, 1}:  # a cache of test images alone: nothing to learn from
        modules = {name: m for name, m in modules.items() if not m.LEARNS}
    return {name: (module, module.fit(parts)) for name, module in modules.items()}


def _summaries(groups, labels, scores, threshold) -> dict[str, Any]:
    generators = {
        name: metrics.summary(labels[index], scores[index], threshold=threshold)
        for name, index in groups.items()
    }
    return {"generators": generators, "macro": _macro(generators.values())}


def _macro(summaries: Iterable[dict[str, Any]]) -> dict[str, float | None]:
    """Unweighted means over generators, as the papers' Avg. and mAP."""
    values = defaultdict(list)
    for summary in summaries:
        for name, value in summary.items():
            if not name.startswith("n") and value is not None:
                values[name].append(value)
    return {name: float(np.mean(v)) for name, v in values.items()}


def _intervals(labels, scores, config) -> dict[str, Any]:
    c = config.evaluate
    functions = {
        "acc": lambda y, s: metrics.accuracy(y, s, threshold=c.threshold),
        "ap": metrics.average_precision,
        "auc": metrics.roc_auc,
    }
    return {
        name: metrics.bootstrap(
            labels, scores, f, samples=c.bootstrap, seed=config.seed
        )
        for name, f in functions.items()
    }


def _over_seeds(per_seed) -> dict[str, Any]:
    """Mean and standard deviation (n - 1) of acc, ap and auc over heads."""
    out = {}
    for name in per_seed[0]["generators"]:
        figures = {}
        for figure in ("acc", "ap", "auc"):
            values = [p["generators"][name][figure] for p in per_seed]
            if None not in values:
                figures[figure] = {
                    "mean": float(np.mean(values)),
                    "std": float(np.std(values, ddof=1)),
                }
        out[name] = figures
    return {"n": len(per_seed), "generators": out}


def _write_scores(path, rows, scores, failures, threshold) -> None:
    names = ["key", "label", "benchmark", "generator", "split", "caption"]
    with atomic_file(path) as f:
        extra = ["p_fake", "verdict", "cosine", "objects", "status", "error"]
        writer = csv.DictWriter(f, names + extra, lineterminator="\n")
        writer.writeheader()
        for row, p in zip(rows, scores):
            writer.writerow(
                {name: row[name] for name in names}
                | {
                    "p_fake": f"{p:.6f}",
                    "verdict": "fake" if p > threshold else "real",
                    "cosine": f"{row['cosine']:.6f}",
                    "objects": len(row["objects"]),
                    "status": "done",
                }
            )
        for row in failures:
            known = {name: row[name] for name in names}
            writer.writerow(known | {"status": "failed", "error": row["error"]})


def _altered(embedding: dict[str, Any]) -> str:
    """What was done to the images before they were embedded, if anything."""
    said = ""
    if not embedding["perturbation"].startswith("none"):
        said += f", perturbation {embedding['perturbation']}"
    quality, size = embedding["neutralise_quality"], embedding["neutralise_size"]
    if quality or size:
        said += f", neutralised (JPEG quality {quality or '-'}, side {size or '-'})"
    return said


def table(results: dict[str, Any]) -> str:
    """Returns results as a table for people, figures in percent."""
    trained = set(results["head"]["training"]["generators"])
    names = list(results["generators"])
    width = max(len(n) for n in [*names, "macro average"]) + 2
    rivals = list(results["baselines"])
    head = f"{'generator':<{width}}{'n':>6}{'ACC':>8}{'AP':>8}{'AUC':>8}  AUC 95%     "
    lines = [head + " ".join(f"{r:>9}" for r in rivals)]

    def percent(value, form="8.2f"):
        blank = form.split(".")[0]
        return (
            format(100 * value, form) if value is not None else format("-", f">{blank}")
        )

    def line(name, n, figures, interval, rival_figures):
        low_high = (
            f"{100 * interval[0]:5.1f}-{100 * interval[1]:<5.1f}"
            if interval
            else " " * 11
        )
        text = f"{name:<{width}}{n:>6}" + "".join(
            percent(figures.get(k)) for k in ("acc", "ap", "auc")
        )
        rival = " ".join(percent(f.get("auc"), "9.2f") for f in rival_figures)
        return f"{text}  {low_high}  {rival}".rstrip()

    for name in names:
        summary = results["generators"][name]
        rival_figures = [results["baselines"][r]["generators"][name] for r in rivals]
        interval = summary.get("interval_95", {}).get("auc")
        seen = "*" if name.split("/")[-1] in trained else ""
        lines.append(line(name + seen, summary["n"], summary, interval, rival_figures))
    total = sum(s["n"] for s in results["generators"].values())
    rival_figures = [results["baselines"][r]["macro"] for r in rivals]
    lines.append(line("macro average", total, results["macro"], None, rival_figures))
    counts = results["counts"]
    lines += [
        "",
        f"percent; ACC at P(fake) > {results['config']['evaluate']['threshold']}; "
        "on the right AUC of baselines; * trained on this generator",
        f"protocol {results['protocol']['name']}: {results['protocol']['images']}",
        f"{counts['in']} images = {counts['done']} done + {counts['failed']} failed; "
        f"misalignment {results['head']['misalignment']['name']!r}, "
        f"towers {results['towers']}, {results['embedding']['dtype']}"
        + _altered(results["embedding"]),
    ]
    for failure in results["failures"][:5]:
        lines.append(f"  failed: {failure['key']}: {failure['error']}")
    if len(results["failures"]) > 5:
        lines.append(f"  ... and {len(results['failures']) - 5} more in scores.csv")
    if "seeds" in results:
        spread = "; ".join(
            f"{name} {100 * f['auc']['mean']:.2f} +- {100 * f['auc']['std']:.2f}"
            for name, f in results["seeds"]["generators"].items()
            if "auc" in f
        )
        lines.append(f"AUC over {results['seeds']['n']} seeds: {spread}")
    return "\n".join(lines)
