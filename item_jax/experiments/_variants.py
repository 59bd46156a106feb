"""What the ablations of D share: ITEM with some fields changed, on every column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Study


def compare(study: Study, variants: Mapping[str, Mapping[str, Any]]) -> Artefact:
    """Fits ITEM once a variant and scores all columns of the tables.

    Args:
      study: of the workdir.
      variants: {name: fields that differ}; the first is what the others are compared
        with.
    """
    c = study.config.paper
    only, missing = _tables.present(study, (*c.columns, *c.columns_3))
    if not only:
        return Artefact([], missing=missing)
    fitted = {
        name: study.fit(f"item {name}" if changes else "item", "item", changes)
        for name, changes in variants.items()
    }
    return Artefact(_tables.compared(study, fitted, only), missing=missing)


draw = drawing.dots
