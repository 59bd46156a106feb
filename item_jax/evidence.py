"""Verdicts on embedded images, and what each part of an image does to its score.

Arithmetic on embeddings, without towers or images: `ItemDetector` uses it on what it
has just embedded, a report on a cache.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from item_jax.embeddings import Embeddings, Row
from item_jax.fitted import FittedMethod
from item_jax.methods import item
from item_jax.misalignment import cosine
from item_jax.records import Object

NOTICEABLE = 0.05
"""A part has no effect if the logit of P(fake), the log of its odds, changes by less
without it: 5% of the odds, 0.012 of P(fake) near 0.5. The logit and not P(fake), which
near 0 and 1 hardly moves, whatever a part does."""

SUREST = 1e-6
"""Nearer to 0 and 1 a probability in float32 has too few digits for a logit."""

EFFECTS = {"fake": "towards fake", "real": "towards real", "none": "no effect"}
"""What a part may do to a score, and how it is said."""

WHOLE = "the caption against the whole image"
"""What a person reads for the global part of a score."""

OBJECTS = "all objects"
"""What a person reads for the local part."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The verdict on one image.

    Attributes:
      key: the record's, or the path or number of the input.
      p_fake: P(fake) in [0, 1], or None when `status` is "failed".
      verdict: "fake" when `p_fake` is above the method's threshold, else "real"; None
        when failed.
      status: "done" or "failed".
      error: why it failed, or None.
      caption: the one that was used.
      cosine: of the whole image with its caption, in [-1, 1].
      objects: the objects that were used, best score first.
      warnings: where captions or boxes are known to be made otherwise than those that
        the method was fitted on.
    """

    key: str
    p_fake: float | None
    verdict: str | None
    status: str
    error: str | None
    caption: str | None = None
    cosine: float | None = None
    objects: tuple[Object, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ObjectEvidence:
    """One object's part in a score.

    Attributes:
      object: phrase and box.
      cosine: of its crop with its phrase, in [-1, 1].
      p_fake_without: P(fake) had this object not been found.
    """

    object: Object
    cosine: float
    p_fake_without: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A prediction and what it would be without each of its parts.

    Attributes:
      prediction: the score as it is.
      p_fake_without_global: P(fake) with w1 = 0; None when failed, or for a method
        that weighs no levels.
      p_fake_without_objects: P(fake) with w2 = 0; None likewise.
      objects: one entry per object used.
    """

    prediction: Prediction
    p_fake_without_global: float | None
    p_fake_without_objects: float | None
    objects: tuple[ObjectEvidence, ...]


def logit(p: float) -> float:
    """Returns the log of the odds of a probability, between -13.8 and 13.8."""
    p = min(max(p, SUREST), 1 - SUREST)
    return math.log(p / (1 - p))


def effect(p_fake: float, without: float) -> str:
    """Returns what a part of an image does to its score, a key of `EFFECTS`.

    Args:
      p_fake: the score as it is, in [0, 1].
      without: the score without the part.
    """
    change = logit(p_fake) - logit(without)
    if abs(change) < NOTICEABLE:
        return "none"
    return "fake" if change > 0 else "real"


def shown(objects: Sequence[ObjectEvidence]) -> list[ObjectEvidence]:
    """Returns objects as a person sees them: one box together, equal ones once.

    Of equal ones, the score without it is that without one of them.
    """
    once: dict[tuple[float, ...], dict[str, ObjectEvidence]] = {}
    for part in objects:
        once.setdefault(part.object.box, {}).setdefault(part.object.phrase, part)
    return [part for of_box in once.values() for part in of_box.values()]


def predictions(
    method: FittedMethod,
    embeddings: Embeddings,
    rows: Sequence[Row],
    scores: np.ndarray,
    *,
    warnings: tuple[str, ...] = (),
) -> list[Prediction]:
    """Puts scores and what is known of the images together.

    Args:
      method: which gave the scores.
      embeddings: of the n rows whose status is "done".
      rows: of all images, those that failed too.
      scores: P(fake), `[n]`.
      warnings: that go with each prediction.

    Returns:
      One `Prediction` per row, in order.
    """
    cosines = np.asarray(cosine(embeddings.image_emb, embeddings.text_emb))
    found, i = [], 0
    for row in rows:
        if row["status"] != "done":
            found.append(Prediction(row["key"], None, None, "failed", row["error"]))
            continue
        p = float(scores[i])
        found.append(
            Prediction(
                key=row["key"],
                p_fake=p,
                verdict="fake" if p > method.threshold else "real",
                status="done",
                error=None,
                caption=row["caption"],
                cosine=float(cosines[i, 0]),
                objects=tuple(Object(**o) for o in row["objects"]),
                warnings=warnings,
            )
        )
        i += 1
    return found


def explain(
    method: FittedMethod,
    embeddings: Embeddings,
    rows: Sequence[Row],
    *,
    warnings: tuple[str, ...] = (),
) -> list[Explanation]:
    """Scores images, and what their scores would be without each of their parts.

    Args:
      method: fitted.
      embeddings: of the n rows whose status is "done".
      rows: of all images, those that failed too.
      warnings: that go with each prediction.

    Returns:
      One `Explanation` per row, in order.
    """
    # Each image several times: as it is, then with one object left out each.
    counts = np.diff(embeddings.object_offsets)
    index, kept = [], []
    for i, count in enumerate(counts):
        own = embeddings.object_offsets[i] + np.arange(count)
        variants = [own, *(np.delete(own, j) for j in range(count))]
        index += [i] * len(variants)
        kept += variants
    scores = method.score(embeddings.variants(index, kept))
    first = np.concatenate([[0], np.cumsum(counts + 1)])
    each = np.asarray(cosine(embeddings.object_emb, embeddings.phrase_emb))
    without_global = _weighted(method, embeddings, w1=0.0)
    without_objects = _weighted(method, embeddings, w2=0.0)
    found = predictions(method, embeddings, rows, scores[first[:-1]], warnings=warnings)
    out, i = [], 0
    for prediction in found:
        if prediction.status != "done":
            out.append(Explanation(prediction, None, None, ()))
            continue
        start = embeddings.object_offsets[i]
        parts = tuple(
            ObjectEvidence(
                o, float(each[start + j, 0]), float(scores[first[i] + 1 + j])
            )
            for j, o in enumerate(prediction.objects)
        )
        out.append(
            Explanation(prediction, without_global[i], without_objects[i], parts)
        )
        i += 1
    return out


def _weighted(
    method: FittedMethod, embeddings: Embeddings, **weights: float
) -> list[float] | list[None]:
    """The scores with another w1 or w2, for a method that has them."""
    if "misalignment" not in method.state:
        return [None] * len(embeddings)
    changed = item.weighted(method.state, **weights)
    return [float(p) for p in method.score(embeddings, changed)]
