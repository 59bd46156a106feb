"""Table III of ITEM: ACC and AP on GenImage and DiffusionForensics."""

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Need, Study

TITLE = "ACC and AP per generator, trained on one generator (ITEM, Table III)"


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    return _tables.table(study, study.config.paper.columns_3, ("acc", "ap"), "table 3")


draw = drawing.grid
