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
    comparison,
    files,
    protocol,
    results,
    settings,
    statistics,
    summaries,
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
    varied: Sequence[str] = (),
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
      varied: settings of the embeddings, or sections of them, that an experiment
        varies: no warning says that they are not those of the training.

    Returns:
      The content of `results.json`; figures are fractions, None where undefined:
      `method`, the first name; its `generators` {name: {n, n_real, n_fake, acc,
      balanced_acc, ap, ap_balanced, auc, ap_chance, majority, ...}} and `macro`;
      `methods` {name: see `summaries.of_method`}; `trained_on` {generator: the methods
      that were trained on it}; `unseen`, the generators that no method was trained on;
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
        own = seeds[0].embedding
        found = settings.but_for(varied, cache.embedding, own)
        notices += settings.compare(own, found, what=name)
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
    columns = {name: _columns(name, seeds) for name, seeds in fitted.items()}
    trained_on = {group: _trained_on(group, fitted) for group in groups}
    averaged = [
        group
        for group, index in groups.items()
        if min(np.bincount(labels[index], minlength=2)) >= statistics.FEWEST
    ]
    unseen = [group for group in averaged if not trained_on[group]]
    figures = {
        name: summaries.of_method(
            seeds,
            columns[name],
            labels,
            scores.columns,
            groups,
            estimates,
            averaged=averaged,
            unseen=unseen,
            protocol=c.protocol,
        )
        for name, seeds in fitted.items()
    }
    comparison.compare(figures, estimates, columns, unseen=unseen)
    notices += _held_in(fitted, cache, c.split)
    for name, seeds in fitted.items():
        outside = isinstance(seeds[0], OutsideScores)
        notices += summaries.upside_down(name, figures[name], outside=outside)
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
