"""Fig. 8 of ITEM: other CLIP towers."""

from __future__ import annotations

from pathlib import Path

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact, rows_of
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
    rows = rows_of(study.evaluate({own: study.fit("item")}, only=only))
    for need in needs(study):
        cache = study.find(need)
        if isinstance(cache, Missing):
            missing.append(cache)
            continue
        fitted = study.fit(f"item {need.name}", cache=cache)
        label = Path(need.changes["tower.name"]).name
        rows += rows_of(study.evaluate({label: fitted}, cache=cache, only=only))
    return Artefact(rows, missing=missing)


draw = drawing.dots
