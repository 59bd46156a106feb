"""Fig. 6 of ITEM: trained on different generators, tested on all."""

from __future__ import annotations

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Missing, Need, Study

TITLE = "AP of ITEM trained on different generators (ITEM, Fig. 6)"


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    c = study.config.paper
    only, missing = _tables.present(study, (*c.columns, *c.columns_3))
    fitted = {}
    for name in c.training_sets if only else ():
        changes = {"train.generators": (name,)}
        try:
            fitted[f"trained on {name}"] = study.fit(f"item on {name}", "item", changes)
        except ValueError as e:
            if "train.generators" not in str(e):
                raise
            missing.append(Missing(f"training images of {name}", str(e)))
    rows = _tables.compared(study, fitted, only) if fitted else []
    notes = _tables.only_one(rows, "training sets")
    return Artefact(rows, missing=missing, notes=notes)


draw = drawing.dots
