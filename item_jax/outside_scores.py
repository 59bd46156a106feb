"""Scores made elsewhere, in the same tables as fitted methods.

    key,score
    test/progan/0_real/1.png,0.031
    test/progan/1_fake/1.png,0.998

A CSV file of any detector, by the keys of the records; `score` is P(fake) in [0, 1].
"""

from __future__ import annotations

import csv
import dataclasses
import math
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import files, settings
from item_jax.cache import EmbeddingCache
from item_jax.embeddings import Embeddings

COLUMNS = ["key", "score"]


@dataclasses.dataclass(frozen=True)
class OutsideScores:
    """Scores of images by key; what `evaluate_methods` asks of a fitted method.

    Attributes:
      config: as of a `FittedMethod`, with the file and its digest among the settings.
      by_key: P(fake) of each image.
    """

    config: dict[str, Any]
    by_key: dict[str, float]

    calibration = None

    @property
    def embedding(self) -> settings.Embedding:
        """That of the cache: such scores rest on no embedding."""
        return self.config["embedding"]

    @property
    def threshold(self) -> float:
        """A P(fake) above it, not equal to it, says fake."""
        return self.config["threshold"]

    def score(self, part: Embeddings) -> np.ndarray:
        """Returns P(fake), float `[n]`."""
        return np.array([self.by_key[row["key"]] for row in part.rows])

    def about(self) -> str:
        """Returns what the method is."""
        return "scores made elsewhere"

    def range(self) -> dict[str, Any]:
        """Returns what a verdict rests on, as a `FittedMethod` does."""
        training = self.config["training"]
        own = ("real", "fake", "generators", "benchmarks")
        return {
            "method": self.config["method"],
            **{name: training[name] for name in own},
            "captioner": None,
            "grounder": None,
            "toy_world": False,
            "threshold": self.threshold,
            "text": f"scores of {training['settings']['scores']}, made elsewhere; what "
            "they were trained on is not known here",
        }


def read(
    path: str | Path, cache: EmbeddingCache, *, split: str = "", threshold: float = 0.5
) -> OutsideScores:
    """Reads a file of scores.

    Args:
      path: a CSV file with the columns `key` and `score`.
      cache: of the images; it may have others of another split, with a score or not.
      split: whose images must all have one; "" is all.
      threshold: fake when P(fake) is above.

    Raises:
      ValueError: naming file, line or key, for other columns, a score that is not in
        [0, 1], a key twice, a key that the cache does not have, or an image of the
        split without a score.
    """
    path = Path(path)
    by_key = _read(path)
    known: set[str] = set()
    missing: list[str] = []
    for shard in range(cache.manifest["shards"]):
        for row in cache.rows(shard):
            known.add(row["key"])
            due = row["status"] == "done" and (not split or row["split"] == split)
            if due and row["key"] not in by_key:
                missing.append(row["key"])
    foreign = sorted(by_key.keys() - known)
    if foreign:
        raise ValueError(
            f"{path}: {len(foreign)} keys are not in {cache.folder}, such as "
            f"{_told(foreign[0])}; those there are like {_told(min(known))}"
        )
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} images of split {split!r} have no score, such as "
            f"{_told(missing[0])}"
        )
    training = {
        **{"real": 0, "fake": 0, "split": "", "only": [], "seed": 0},
        **{"generators": [], "benchmarks": [], "records_sha256": ""},
        "settings": {"scores": path.name, "scores_sha256": files.sha256(path)},
    }
    config = {
        "method": "scores made elsewhere",
        "embedding": cache.embedding,
        "threshold": threshold,
        "training": training,
    }
    return OutsideScores(config, by_key)


def _read(path: Path) -> dict[str, float]:
    by_key: dict[str, float] = {}
    wrong = files.what_is_wrong(path)
    if wrong:
        raise ValueError(f"no file of scores {path}: it is {wrong}")
    try:
        with open(path, newline="", encoding="utf-8-sig") as f:
            lines = csv.reader(f)
            header = next(lines, [])
            if header != COLUMNS:
                raise ValueError(f"its columns are {header[:6]}, not {COLUMNS}")
            for row in lines:
                where = f"line {lines.line_num}"
                if len(row) != len(COLUMNS):
                    raise ValueError(f"{where} has {len(row)} values, not 2")
                key = unicodedata.normalize("NFC", row[0])
                if key in by_key:
                    raise ValueError(f"{where}: {_told(key)} has a score already")
                by_key[key] = _score(row[1], f"{where}: {_told(key)}")
    except (UnicodeDecodeError, csv.Error, ValueError) as e:
        raise ValueError(f"{path}: {e}") from e
    return by_key


def _score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{where} has score {_told(text)}, not a number") from None
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(
            f"{where} has score {value}, which is not P(fake) in [0, 1]; a logit "
            "becomes one by the sigmoid"
        )
    return value


def _told(text: str) -> str:
    return repr(files.printable(text[:200]))
