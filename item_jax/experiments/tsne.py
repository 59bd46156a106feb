"""Fig. 9 of ITEM: t-SNE of the representations of real and fake images.

Above ITEM's misalignment D, below what other methods look at. The papers state neither
perplexity nor number of images; here: perplexity 30, at most 500 images of a label and
generator, seed `config.seed`. A picture of t-SNE is no measurement: the silhouette of
the labels in the space that is drawn (cosine distance, in [-1, 1]) stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from item_jax import protocol
from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Need, Study
from item_jax.records import LABELS

TITLE = "t-SNE of real and fake images, and the silhouette of the labels (ITEM, Fig. 9)"

PERPLEXITY = 30
AT_MOST = 500

SPACES: dict[str, dict[str, Any]] = {
    "ITEM's D": {"misalignment.name": "item"},
    "TIDY's D": {"misalignment.name": "tidy"},
    "image embedding": {"misalignment.name": "image_only", "misalignment.w2": 0.0},
}
"""What is drawn, by the fields that make it. The last is the whole image alone, which
is what UniFD's classifier sees."""


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    only, missing = _tables.present(study, study.config.paper.tsne)
    rows, points = [], []
    for column, chosen in _chosen(study, only).items():
        if len(chosen) <= PERPLEXITY or len(set(chosen.values())) < 2:
            raise ValueError(
                f"t-SNE of {column!r} needs real and fake images, more than "
                f"{PERPLEXITY} in all; found {len(chosen)}"
            )
        labels = np.array([LABELS[label] for label in chosen.values()])
        for space, changes in SPACES.items():
            x = _features(study, list(chosen), changes)
            silhouette = silhouette_score(x, labels, metric="cosine")
            drawn = TSNE(
                perplexity=PERPLEXITY, random_state=study.config.seed, init="pca"
            ).fit_transform(x)
            rows.append(
                {"method": space, "column": column, "n": len(chosen)}
                | {"silhouette": float(silhouette)}
            )
            points += [
                {"method": space, "column": column, "label": label}
                | {"x": round(float(px), 3), "y": round(float(py), 3)}
                for label, (px, py) in zip(chosen.values(), drawn)
            ]
    notes = [
        f"t-SNE of scikit-learn, perplexity {PERPLEXITY}, seed {study.config.seed}, at "
        f"most {AT_MOST} images of a label and generator",
        "silhouette: of the labels, by cosine distance in the space that is drawn; 0 "
        "is no separation, 1 the best",
    ]
    return Artefact(
        rows, figures=("silhouette",), missing=missing, notes=notes, points=points
    )


def _chosen(study: Study, only: Sequence[str]) -> dict[str, dict[str, str]]:
    """Returns {generator: {key: label}}, at most `AT_MOST` images of each label.

    They are chosen by the seed among those that have embeddings.
    """
    if not only:
        return {}
    rows = [row for row in study.test_rows() if row["status"] == "done"]
    sources = protocol.complete_real_sources(rows, study.main.real_sources)
    out = {}
    for name, index in protocol.groups(rows, real_sources=sources, only=only).items():
        drawn = np.random.default_rng(study.config.seed).permutation(index)
        of: dict[str, list[str]] = {label: [] for label in LABELS}
        for i in drawn:
            of[rows[i]["label"]].append(rows[i]["key"])
        out[name] = {key: label for label in of for key in of[label][:AT_MOST]}
    return out


def _features(
    study: Study, keys: Sequence[str], changes: Mapping[str, Any]
) -> np.ndarray:
    """Returns the misalignment of images, `[n, D]`, in the order of their keys."""
    config, wanted = study.changed(changes), set(keys)
    found: dict[str, np.ndarray] = {}
    for part in study.main.select(split=study.config.evaluate.split):
        part = part.where(lambda row: row["key"] in wanted)
        if len(part):
            d = part.misalignment(config)
            found |= {row["key"]: x for row, x in zip(part.rows, d)}
    return np.stack([found[key] for key in keys])


draw = drawing.scatter
