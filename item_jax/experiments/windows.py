"""Trained on the generators of the past, tested on the next ones.

The temporal protocol of AI-GenBench (arXiv 2504.20865): generators in the order in
which they appeared, in windows of `config.paper.window` (4 there). A detector trained
on all windows so far is tested on the next one, on those it was trained on, and on all.
Neither ITEM nor TIDY has this figure.
"""

from __future__ import annotations

from item_jax.experiments import _tables, drawing
from item_jax.experiments.artefact import AVERAGE, Artefact, Row, rows_of
from item_jax.experiments.study import Missing, Need, Study

TITLE = "AUC of ITEM on the next generators in time (protocol of AI-GenBench)"


def needs(study: Study) -> list[Need]:
    return []


def run(study: Study) -> Artefact:
    c = study.config.paper
    generators, missing = _tables.present(study, c.windows)
    if not c.windows:
        missing.append(
            Missing(
                "generators in the order of time",
                "--config.paper.windows names none, such as progan,stylegan,adm,sdv14",
            )
        )
    size = c.window
    windows = [generators[i : i + size] for i in range(0, len(generators), size)]
    if generators and len(windows) < 2:
        missing.append(
            Missing(
                "a window to come",
                f"{len(generators)} generators make one window of {size}; lower "
                "--config.paper.window or name more",
            )
        )
    rows: list[Row] = []
    for step, coming in enumerate(windows[1:], 1):
        past = generators[: step * size]
        until = f"until {past[-1]}"
        try:
            fitted = study.fit(f"item {until}", "item", {"train.generators": past})
        except ValueError as e:
            if "train.generators" not in str(e):
                raise
            missing.append(Missing(f"training images {until}", str(e)))
            continue
        for period, only in (("next", coming), ("past", past), ("all", generators)):
            results = study.evaluate({"item": fitted}, only=only)
            own = {"period": period, "until": until, "tested": ", ".join(only)}
            rows += [r for r in rows_of(results, **own) if r["column"] == AVERAGE]
    return Artefact(
        rows,
        rows_by="period",
        columns_by="until",
        figures=("auc",),
        missing=missing,
        notes=[f"windows: {' | '.join(map(', '.join, windows))}"] if windows else [],
    )


draw = drawing.dots
