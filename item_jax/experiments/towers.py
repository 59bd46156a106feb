"""Fig. 8 of ITEM: other CLIP towers."""

from __future__ import annotations

from pathlib import Path

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Missing, Need, Study, slug

TITLE = "AP of ITEM with other CLIP towers (ITEM, Fig. 8)"


def needs(study: Study) -> list[Need]:
    return [
        Need(
            f"embeddings of the towers {name}",
            f"tower-{slug(Path(name).name)}",
            {"tower.name": name},
            (f"--config.tower={name}",),
            free=("tower",),
        )
        for name in study.config.paper.towers
    ]


def run(study: Study) -> Artefact:
    c = study.config.paper
    only, missing = _tables.present(study, (*c.columns, *c.columns_3))
    if not only:
        return Artefact([], missing=missing)
    own = Path(study.main.embedding["tower"]["name"]).name
    rows = _tables.compared(study, {own: study.fit("item")}, only)
    for need in needs(study):
        cache = study.find(need)
        if isinstance(cache, Missing):
            missing.append(cache)
            continue
        fitted = study.fit(f"item {need.name}", cache=cache)
        label = Path(need.changes["tower.name"]).name
        rows += _tables.compared(study, {label: fitted}, only, cache=cache)
    if not c.towers:
        missing.append(
            Missing(
                "other towers, in the paper RN50 and ViT-B/16",
                "--config.paper.towers names none",
                (study.again({"paper.towers": "RN50,ViT-B-16"}, ["towers"]),),
            )
        )
    return Artefact(rows, missing=missing, notes=_tables.only_one(rows, "towers"))


draw = drawing.dots
