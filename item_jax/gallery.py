"""The images of a report: which have a picture, and why each was called what it was.

Everything that a reader filters by is in one block of JSON: all images by column, and a
picture with its evidence for the most telling ones.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from item_jax import evidence, files, images
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import Dataset
from item_jax.fitted import FittedMethod
from item_jax.plots import EFFECT_COLOURS
from item_jax.results import Results

PICTURES = 240
"""So many images have a picture by default: about 5 MB."""

FIRST = 24
"""Of the first method, on all generators together, so many of each kind have one: what
a reader sees first."""

SIDE = 360
"""Pixels of the longer side of a picture."""

QUALITY = 82
"""JPEG quality of a picture."""

TOLERANCE = 0.005
"""A score computed again from the cache differs by less: sums are rounded by the shape
of a batch and by the device, and a steep method shows it."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of the gallery.

    Attributes:
      jpeg: the picture, or None with the reason in `error`.
      size: its width and height in pixels, (1, 1) without one.
      error: why there is none, or "".
      evidence: by method; empty where no cache or fitted method was given.
    """

    jpeg: bytes | None
    size: tuple[int, int]
    error: str
    evidence: dict[str, evidence.Explanation]


def choose(results: Results, count: int = PICTURES) -> list[int]:
    """Chooses the images that a reader will ask for first.

    They are the surest hits, the surest errors, and those nearest the threshold: of the
    first method, then of every method on all images and on each generator in turn.

    Args:
      results: of an evaluation.
      count: how many at most.

    Returns:
      Row numbers, each once, the most wanted first.
    """
    labels = results.labels
    labelled = np.flatnonzero(labels >= 0)
    everything = labelled if len(labelled) else np.arange(len(labels))
    lists: list[np.ndarray] = []
    for name, scores in results.scores.items():
        if np.ptp(scores) == 0:  # which orders nothing
            continue
        threshold = results.summary["methods"][name]["threshold"]
        p = _rounded(scores, threshold)
        sure, fake = sureness(p, threshold), p > threshold
        for index in (everything, *results.groups.values()):
            descending = index[np.argsort(-sure[index], kind="stable")]
            right = fake[descending] == (labels[descending] == 1)
            known = labels[descending] >= 0
            lists += [
                descending[known & ~right],
                descending[known & right],
                index[np.argsort(sure[index], kind="stable")],
            ]
    first = [int(i) for some in lists[:3] for i in some[:FIRST]]
    chosen = dict.fromkeys([*first, *_in_turn(lists)])
    return list(chosen)[:count]


def _in_turn(lists: Sequence[np.ndarray]) -> Iterator[int]:
    """The first of each list, then the second of each, and so on."""
    for rank in range(max((len(some) for some in lists), default=0)):
        yield from (int(some[rank]) for some in lists if rank < len(some))


def sureness(p: np.ndarray, threshold: float) -> np.ndarray:
    """How far scores are from the threshold, in [0, 1] on either side of it."""
    above = (p - threshold) / max(1 - threshold, 1e-12)
    below = (threshold - p) / threshold if threshold > 0 else np.zeros_like(p)
    return np.where(p > threshold, above, below)


def _rounded(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Six decimals, but never across the threshold."""
    rounded = np.round(scores, 6)
    return np.where((rounded > threshold) == (scores > threshold), rounded, scores)


def pictures(
    results: Results,
    rows: Sequence[int],
    *,
    dataset: Dataset | None = None,
    cache: EmbeddingCache | None = None,
    fitted: Mapping[str, FittedMethod] | None = None,
) -> dict[int, Picture]:
    """Makes the pictures of some images, with the evidence of each method.

    Args:
      results: of an evaluation.
      rows: row numbers.
      dataset: which has their files; without one there are no pictures.
      cache: that was evaluated; without one there is no evidence.
      fitted: the methods that were evaluated, by name.

    Returns:
      A `Picture` by row number.

    Raises:
      ValueError: if the cache does not give the scores of the results, naming an image.
    """
    keys = {str(results.rows[i]["key"]): i for i in rows}
    found = _explained(results, keys, cache, fitted or {})
    made = {i: Picture(None, (1, 1), "no picture", found.get(i, {})) for i in rows}
    if dataset is None:
        return made
    for number in range(len(dataset)):
        i = keys.get(dataset.record(number).key)
        if i is None:
            continue
        try:
            jpeg, size = thumbnail(dataset.read(number))
            made[i] = dataclasses.replace(made[i], jpeg=jpeg, size=size, error="")
        except images.ImageError as e:
            made[i] = dataclasses.replace(made[i], error=files.printable(e))
    return made


def _explained(
    results: Results,
    keys: Mapping[str, int],
    cache: EmbeddingCache | None,
    fitted: Mapping[str, FittedMethod],
) -> dict[int, dict[str, evidence.Explanation]]:
    """The evidence of each method, by row number."""
    found: dict[int, dict[str, evidence.Explanation]] = {}
    for part, _ in cache or ():
        part = part.where(lambda row: row["key"] in keys)
        if not len(part):
            continue
        for name, method in fitted.items():
            for one in evidence.explain(method, part, part.rows):
                key = one.prediction.key
                i = keys[key]
                now, then = one.prediction.p_fake, results.scores[name][i]
                if now is None or abs(now - then) > TOLERANCE:
                    raise ValueError(
                        f"{name} gives {files.printable(key)!r} the score {now} on the "
                        f"cache {cache and cache.folder}, and {then} in the results: "
                        "they are of other embeddings; run `item-jax evaluate` again"
                    )
                found.setdefault(i, {})[name] = one
    return found


def thumbnail(data: bytes, side: int = SIDE) -> tuple[bytes, tuple[int, int]]:
    """Returns a small upright JPEG of an image file, and its width and height.

    Raises:
      ImageError: if the file is not an image that can be read.
    """
    picture = Image.fromarray(images.decode(data))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue(), picture.size


def data(results: Results, shown: Mapping[int, Picture]) -> dict[str, Any]:
    """Returns what the page filters and shows, as JSON can hold it.

    Args:
      results: of an evaluation.
      shown: the pictures by row number.
    """
    names = [row["generator"] or "unnamed" for row in results.rows]
    generators = sorted(set(names))
    number = {name: k for k, name in enumerate(generators)}
    methods = []
    for name, scores in results.scores.items():
        threshold = results.summary["methods"][name]["threshold"]
        methods.append(
            {
                "name": files.printable(name),
                "threshold": threshold,
                "scores": _rounded(scores, threshold).tolist(),
            }
        )
    return {
        "methods": methods,
        "generators": [files.printable(name) for name in generators],
        "groups": [
            {"name": files.printable(name), "rows": index.tolist()}
            for name, index in results.groups.items()
        ],
        "keys": [files.printable(row["key"]) for row in results.rows],
        "captions": [files.printable(row["caption"]) for row in results.rows],
        "labels": results.labels.tolist(),
        "generator": [number[name] for name in names],
        "cosines": np.round(results.cosines, 4).tolist(),
        "pictures": {
            str(i): _picture(picture, list(results.scores))
            for i, picture in shown.items()
        },
        "colours": EFFECT_COLOURS,
        "effects": evidence.EFFECTS,
    }


def _picture(picture: Picture, methods: Iterable[str]) -> dict[str, Any]:
    explained = next(iter(picture.evidence.values()), None)
    return {
        "image": picture.jpeg and base64.b64encode(picture.jpeg).decode(),
        "width": picture.size[0],
        "height": picture.size[1],
        "error": picture.error,
        "objects": [
            {
                "phrase": files.printable(one.object.phrase),
                "box": [round(x, 4) for x in one.object.box],
                "cosine": round(one.cosine, 4),
            }
            for one in evidence.shown(explained.objects if explained else ())
        ],
        # By the number of the method, as the page has them.
        "evidence": {
            str(k): _evidence(picture.evidence[name])
            for k, name in enumerate(methods)
            if name in picture.evidence
        },
    }


def _evidence(one: evidence.Explanation) -> dict[str, Any]:
    score = one.prediction.p_fake
    assert score is not None  # what failed has no picture
    without = [part.p_fake_without for part in evidence.shown(one.objects)]
    return {
        "score": score,
        "without": without,
        "effects": [evidence.effect(score, p) for p in without],
        "without_global": one.p_fake_without_global,
        "without_objects": one.p_fake_without_objects,
    }
