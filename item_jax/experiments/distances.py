"""Fig. 5 of ITEM: the local distance alone, the global one alone, both.

Both are summed, as in the paper; side by side they are also given to the head whole.
"""

from typing import Any

from item_jax.experiments import _variants
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Need, Study

TITLE = "AP of the global and the local distance, alone and together (ITEM, Fig. 5)"

VARIANTS: dict[str, dict[str, Any]] = {
    "both": {},
    "global": {"misalignment.w2": 0.0},
    "local": {"misalignment.w1": 0.0},
    "side by side": {"misalignment.levels": "concat"},
}


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    return _variants.compare(study, VARIANTS)


draw = _variants.draw
