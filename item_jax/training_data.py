"""The images that methods are fitted on, and those that may judge a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from item_jax.cache import EmbeddingCache
from item_jax.choices import nearest
from item_jax.embeddings import Embeddings

VALIDATION = "val"
"""The split that judges a training, where the data have it."""


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """The labelled images that methods are fitted on.

    Attributes:
      parts: their embeddings.
      embedding: what those depend on; see `item_jax.settings`.
      facts: `real` and `fake` (counts), `split`, `only` (the generators asked for, ()
        for all), `generators` (of the fakes), `benchmarks`, `records_sha256`.
      validation: images of split "val" that a training may be judged on, of the same
        generators; none if it is trained on, or has one label only.
    """

    parts: list[Embeddings]
    embedding: dict[str, Any]
    facts: dict[str, Any]
    validation: list[Embeddings] = dataclasses.field(default_factory=list)


def training_set(cache: EmbeddingCache, config: ConfigDict) -> TrainingSet:
    """Reads the training images of a cache.

    Args:
      cache: finished; the rows of `config.train.split` and `config.train.generators`
        that have a label are used.
      config: `train`.

    Raises:
      ValueError: if a generator has no images, or all images are real, or all fake.
    """
    split, only = config.train.split, tuple(config.train.generators)
    seen: dict[str, set[str]] = {}  # split -> generators of its labelled images
    parts, validation = [], []

    def chosen(part: Embeddings, split: str) -> list[Embeddings]:
        part = part.where(
            lambda row: (
                row["label"] is not None
                and cache.selects(row, split=split, generators=only)
            )
        )
        return [part] if len(part) else []

    for part, _ in cache:
        for row in part.rows:
            if row["label"] is not None:
                seen.setdefault(row["split"], set()).add(row["generator"])
        parts += chosen(part, split)
        validation += chosen(part, VALIDATION) if split not in ("", VALIDATION) else []
    if split and split not in seen:
        raise ValueError(
            f"train.split: no labelled image of split {split!r}; "
            f"{nearest(split, filter(None, sorted(seen)))} Empty takes all"
        )
    usable = seen.get(split, set()) if split else set().union(*seen.values())
    known = sorted(usable - {""})
    for name in only:
        if name not in known:
            raise ValueError(
                f"train.generators: no labelled image of {name!r} in "
                f"{_split_text(split)}; {nearest(name, known)}"
            )
    rows = [row for part in parts for row in part.rows]
    real, fake = count_labels(parts)
    if not real or not fake:
        raise ValueError(
            f"training needs real and fake images, found {real} real and {fake} fake "
            f"in {_split_text(split)}, of generators {', '.join(only) or '(all)'}; "
            f"those it has: {', '.join(known) or 'none by name'}. "
            "--config.train.split= and --config.train.generators= choose; empty takes "
            "all"
        )
    facts = {
        "real": real,
        "fake": fake,
        "split": split,
        "only": list(only),
        "generators": sorted({r["generator"] for r in rows if r["label"] == "fake"}),
        "benchmarks": sorted({row["benchmark"] for row in rows}),
        "records_sha256": cache.manifest["records_sha256"],
    }
    both = all(count_labels(validation))
    return TrainingSet(parts, cache.embedding, facts, validation if both else [])


def count_labels(parts: Sequence[Embeddings]) -> tuple[int, int]:
    """How many images are real, and how many fake."""
    labels = [row["label"] for part in parts for row in part.rows]
    return labels.count("real"), labels.count("fake")


def _split_text(split: str) -> str:
    return f"split {split!r}" if split else "any split"
