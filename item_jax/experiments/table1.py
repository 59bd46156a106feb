"""Table I of ITEM (Table 1 of TIDY): ACC on ForenSynths and UniFD's diffusion sets."""

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Need, Study

TITLE = "ACC per generator, trained on one generator (ITEM, Table I)"


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    return _tables.table(study, study.config.paper.columns, ("acc",), "tables 1 and 2")


draw = drawing.grid
