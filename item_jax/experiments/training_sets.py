"""Fig. 6 of ITEM: trained on different generators, tested on all."""

from __future__ import annotations

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact, Row, rows_of
from item_jax.experiments.study import Missing, Need, Study

TITLE = "AP of ITEM trained on different generators (ITEM, Fig. 6)"


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    c = study.config.paper
    only, missing = _tables.present(study, (*c.columns, *c.columns_3))
    rows: list[Row] = []
    for name in c.training_sets if only else ():
        changes = {"train.generators": (name,)}
        try:
            fitted = study.fit(f"item on {name}", "item", changes)
        except ValueError as e:
            if "train.generators" not in str(e):
                raise
            missing.append(Missing(f"training images of {name}", str(e)))
            continue
        label = f"trained on {name}"
        rows += rows_of(study.evaluate({label: fitted}, only=only))
    return Artefact(rows, missing=missing)


draw = drawing.dots
