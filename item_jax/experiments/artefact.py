"""What an experiment gives: the rows of a table or the points of a figure."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from item_jax import perturb, statistics
from item_jax.experiments.study import Missing

AVERAGE = "average"
"""The column of the unweighted mean over the others, as the papers' Avg. and mAP."""

Row = dict[str, Any]


@dataclasses.dataclass
class Artefact:
    """A table or figure of the papers, as far as it could be made.

    Attributes:
      rows: one a cell: `method` and `column`, `n`, the figures `acc`, `ap` and `auc`
        (fractions, None where undefined; means over the seeds), `interval_95` {figure:
        (low, high)}, and what they rest on; see `rows_of`.
      rows_by, columns_by: which entries of a row name its line and its column in the
        table.
      figures: those shown, of `acc`, `ap` and `auc`.
      missing: what it was made without.
      published: the paper's own cells, `{"paper", "method", "column", "title", "acc",
        "ap"}`.
      notes: what a reader should know, beside the warnings of the rows.
      points: for a scatter plot, `{"method", "generator", "label", "x", "y"}`.
    """

    rows: list[Row]
    rows_by: str = "method"
    columns_by: str = "column"
    figures: tuple[str, ...] = ("ap",)
    missing: list[Missing] = dataclasses.field(default_factory=list)
    published: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    points: list[Row] = dataclasses.field(default_factory=list)


def rows_of(results: Mapping[str, Any], **more: Any) -> list[Row]:
    """Turns results into rows.

    Args:
      results: of `item_jax.evaluate_methods`.
      more: entries that every row gets.

    Returns:
      A row for each method and generator, and one for the average over generators,
      whose `n` is the sum of theirs. Besides the figures it has `seeds` (over which a
      figure is the mean), `difference` from the first method {figure: {"to", "value",
      "interval_95", "p_holm"}} (of means over seeds), `trained_on`, `protocol`,
      `captioner`, `grounder`, `towers`, `dtype`, `perturbation`, `range` (what the
      figures may not be used for) and `warnings`.
    """
    embedding = results["embedding"]
    shared = {
        "protocol": results["protocol"]["name"],
        "captioner": (embedding["captioner"] or {}).get("id"),
        "grounder": (embedding["grounder"] or {}).get("id"),
        "towers": Path(embedding["tower"]["name"]).name,
        "dtype": embedding["dtype"],
        "perturbation": perturb.label(**embedding["perturb"]),
        "warnings": results["warnings"],
    }
    out = []
    for name, method in results["methods"].items():
        trained = method["config"]["training"]["generators"]
        for column in (*method["generators"], AVERAGE):
            out.append(
                {"method": name, "column": column}
                | _figures(method, column)
                | {"trained_on": trained, "range": method["range"]["text"]}
                | shared
                | more
            )
    return out


def _figures(method: Mapping[str, Any], column: str) -> Row:
    """Figures of one generator, or of the average."""
    if column == AVERAGE:
        figures, ends = method["macro"], method.get("macro_interval_95", {})
        n = sum(own["n"] for own in method["generators"].values())
        compared = method.get("difference", {}).get("macro", {})
    else:
        figures = method["generators"][column]
        ends, n = figures.get("interval_95", {}), figures["n"]
        compared = method.get("difference", {}).get("generators", {}).get(column, {})
    row: Row = {"n": n, "seeds": 1, "interval_95": {}}
    for name in statistics.FIGURES:
        row[name] = figures.get(name)
        row["interval_95"][name] = ends.get(name)
    if "seeds" in method:
        row["seeds"] = method["seeds"]["n"]
        seeds = method["seeds"]
        spread = seeds["macro"] if column == AVERAGE else seeds["generators"][column]
        for name, over in spread.items():
            row[name] = over["mean"]
            row["interval_95"][name] = over["interval_95"]
    row["difference"] = {
        name: {"to": method["difference"]["to"]}
        | {k: found[k] for k in ("value", "interval_95", "p_holm")}
        for name, found in compared.items()
    }
    return row


def published(table: str) -> list[Row]:
    """Returns the papers' own cells of a table; figures are fractions.

    Args:
      table: "tables 1 and 2" or "table 3".

    Source: Tables I to III of ITEM (arXiv 2511.00427) and Tables 1 and 2 of TIDY, which
    prints no averages: its own is that of its cells. TIDY's Table 3 is ITEM's. Columns
    have our names of the generators: WFIR, "Deepfakes" in the papers, is
    `forensynths/whichfaceisreal`, ADM of Tables I and II `unifd/guided`.
    """
    file = resources.files("item_jax.experiments") / "published.csv"
    with file.open(encoding="utf-8") as lines:
        return [
            {name: row[name] for name in ("paper", "method", "column", "title")}
            | {f: float(row[f]) / 100 if row[f] else None for f in ("acc", "ap")}
            for row in csv.DictReader(lines)
            if row["table"] == table
        ]


def order(rows: Sequence[Row], by: str) -> list[Any]:
    """Returns the values of an entry in the order of the rows, the average last."""
    values = list(dict.fromkeys(row[by] for row in rows))
    return [v for v in values if v != AVERAGE] + [v for v in values if v == AVERAGE]
