"""Table II of ITEM (Table 2 of TIDY): AP on ForenSynths and UniFD's diffusion sets."""

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Need, Study

TITLE = "AP per generator, trained on one generator (ITEM, Table II)"


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    return _tables.table(study, study.config.paper.columns, ("ap",), "tables 1 and 2")


draw = drawing.grid
