"""Gives a fitted method a threshold, fitted on held-out images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from item_jax import calibration, settings
from item_jax.cache import EmbeddingCache
from item_jax.choices import nearest
from item_jax.embeddings import Embeddings
from item_jax.fitted import FittedMethod


def calibrate(
    cache: EmbeddingCache,
    seeds: Sequence[FittedMethod],
    *,
    fpr: float = 0.05,
    split: str = "val",
    generators: Sequence[str] | None = None,
    temperature: bool = False,
) -> tuple[list[FittedMethod], list[str]]:
    """Fits the threshold of a method on labelled images that it was not fitted on.

    Args:
      cache: finished. Images that the method was fitted on are left out; they are known
        by the checksum of the records, so those of another cache cannot be.
      seeds: one fitted method per seed; each gets its own threshold.
      fpr: share of real images that may be called fake, in (0, 1).
      split: of the rows; "" takes all.
      generators: of the fakes, with the real images they are tested against; None is
        those the method was trained on, () all.
      temperature: whether to correct P(fake) by a temperature before.

    Returns:
      The methods with another `threshold` and with `calibration`: `fpr`,
      `best_accuracy_threshold`, `uncalibrated_threshold`, `temperature` (or None),
      `split`, `generators`, `n_real`, `n_fake`, `records_sha256`, and what was found on
      these images, `found` {"accuracy", "fpr", "tpr", "best_accuracy", "nll",
      "uncalibrated_nll"}. And warnings.

    Raises:
      ValueError: for a split or generator that is not there, images of one class only,
        too few real images for `fpr`, or a cache of other embeddings.
    """
    seeds = [_uncalibrated(one) for one in seeds]
    training = seeds[0].config["training"]
    chosen = training["generators"] if generators is None else generators
    warnings = settings.compare(seeds[0].embedding, cache.embedding, what=seeds[0].name)
    parts, held_in = _held_out(cache, training, split, tuple(chosen))
    if held_in:
        warnings.append(
            f"left out {held_in} images of split {split!r}: the method was fitted on "
            "them"
        )
    labels = np.concatenate([part.labels for part in parts])
    facts = {
        "split": split,
        "generators": sorted(
            {r["generator"] for p in parts for r in p.rows if r["label"] == "fake"}
        ),
        "n_real": int((labels == 0).sum()),
        "n_fake": int((labels == 1).sum()),
        "records_sha256": cache.manifest["records_sha256"],
    }
    made = []
    for one in seeds:
        scores = np.concatenate([one.score(part) for part in parts])
        nll = calibration.negative_log_likelihood(labels, scores)
        degree = None
        if temperature:
            degree = calibration.temperature(labels, scores)
            scores = calibration.apply_temperature(scores, degree)
        at_fpr = calibration.at_fpr(labels, scores, fpr)
        best = calibration.best_accuracy(labels, scores)
        fitted = {
            "fpr": fpr,
            "best_accuracy_threshold": best.threshold,
            "uncalibrated_threshold": one.threshold,
            "temperature": degree,
            **facts,
            "found": {
                "accuracy": at_fpr.accuracy,
                "fpr": at_fpr.fpr,
                "tpr": at_fpr.tpr,
                "best_accuracy": best.accuracy,
                "nll": calibration.negative_log_likelihood(labels, scores),
                "uncalibrated_nll": nll,
            },
        }
        config = one.config | {"threshold": at_fpr.threshold, "calibration": fitted}
        made.append(dataclasses.replace(one, config=config))
    return made, warnings


def _uncalibrated(one: FittedMethod) -> FittedMethod:
    if not one.calibration:
        return one
    config = {k: v for k, v in one.config.items() if k != "calibration"}
    config["threshold"] = one.calibration["uncalibrated_threshold"]
    return dataclasses.replace(one, config=config)


def _held_out(
    cache: EmbeddingCache,
    training: dict[str, Any],
    split: str,
    generators: tuple[str, ...],
) -> tuple[list[Embeddings], int]:
    """The labelled images to use, and how many more the method was fitted on."""
    same = training["records_sha256"] == cache.manifest["records_sha256"]
    only = tuple(training.get("only", ()))
    parts, held_in, seen = [], 0, set()
    for part, _ in cache:
        part = part.where(lambda row: row["label"] is not None)
        seen |= {(row["split"], row["generator"]) for row in part.rows}
        part = part.where(
            lambda row: cache.selects(row, split=split, generators=generators)
        )
        asked = len(part)
        if same:
            part = part.where(
                lambda row: (
                    not cache.selects(row, split=training["split"], generators=only)
                )
            )
        held_in += asked - len(part)
        if len(part):
            parts.append(part)
    if parts:
        return parts, held_in
    if held_in:
        raise ValueError(
            f"all {held_in} images of split {split!r} are those the method was fitted "
            "on: a threshold needs held-out images, such as --split val"
        )
    splits = sorted({name for name, _ in seen})
    if split and split not in splits:
        raise ValueError(
            f"no labelled image of split {split!r}; {nearest(split, splits)}"
        )
    known = sorted({name for _, name in seen})
    raise ValueError(
        f"no labelled image of {', '.join(generators) or 'any generator'} in split "
        f"{split!r}; its cache has generators {', '.join(known) or 'none'}: choose by "
        "--generators"
    )
