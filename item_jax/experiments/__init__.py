"""The tables and figures of the papers, one file each.

An experiment is a module (or any object) with

    TITLE             one line: what it shows, and where in the papers
    needs(study)      -> the caches it compares with the main one, a list of `Need`
    run(study)        -> an `Artefact`: rows, what is missing, the paper's own figures
    draw(artefact)    -> a matplotlib figure

It fits methods through `study.fit`, scores them through `study.evaluate`, and does as
much as the caches of the workdir allow. It is found by its file name here, or as
`package.module[:name]`.
"""

from __future__ import annotations

from typing import Any

from item_jax import choices

NAMES = (
    *("table1", "table2", "table3", "robustness", "distances"),
    *("training-sets", "captioners", "towers", "modalities", "tsne", "windows"),
)
"""In the order of the papers; `windows` is in neither."""


def get(name: Any) -> Any:
    """Returns an experiment.

    Args:
      name: one of `NAMES`, `package.module[:name]`, or an experiment itself.

    Raises:
      ValueError: for an unknown name, with the nearest one, or something that is not an
        experiment, with what it lacks.
    """
    if isinstance(name, str) and "." not in name and ":" not in name:
        name = choices.check("experiment", name, NAMES).replace("-", "_")
    return choices.resolve(
        "experiment", name, __name__, needs=("TITLE", "needs", "run", "draw")
    )
