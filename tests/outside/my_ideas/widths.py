"""An experiment: ITEM's head, narrow and wide."""

from item_jax.experiments import drawing
from item_jax.experiments.artefact import Artefact, rows_of

TITLE = "ITEM with heads of two widths"


def needs(study):
    return []


def run(study):
    fitted = {
        f"{width} wide": study.fit(f"item-{width}", "item", {"head.hidden_dim": width})
        for width in (4, 16)
    }
    return Artefact(rows_of(study.evaluate(fitted)))


draw = drawing.dots
