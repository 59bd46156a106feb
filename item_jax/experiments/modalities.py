"""Fig. 4 of TIDY: the visual modality alone, the textual one alone, both.

Each sees the same whole images and object crops, captions and phrases, in the same
sum; only what of a pair goes into the head differs.
"""

from typing import Any

from item_jax.experiments import _variants
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Need, Study

TITLE = "AP of image and text together, and of either alone (TIDY, Fig. 4)"

VARIANTS: dict[str, dict[str, Any]] = {
    "image and text": {},
    "image only": {"misalignment.name": "image_only"},
    "text only": {"misalignment.name": "text_only"},
}


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    return _variants.compare(study, VARIANTS)


draw = _variants.draw
