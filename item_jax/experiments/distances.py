"""Fig. 5 of ITEM: the local distance alone, the global one alone, both."""

from item_jax.experiments import _variants
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Need, Study

TITLE = "AP of the global and the local distance, alone and summed (ITEM, Fig. 5)"

VARIANTS = {
    "both": {},
    "global": {"misalignment.w2": 0.0},
    "local": {"misalignment.w1": 0.0},
}


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    return _variants.compare(study, VARIANTS)


draw = _variants.draw
