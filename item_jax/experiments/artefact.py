"""What an experiment gives: the rows of a table or the points of a figure."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from item_jax import perturb, statistics
from item_jax.experiments.study import Missing

AVERAGE = "average"
"""The column of the unweighted mean over the others, as the papers' Avg. and mAP."""
UNSEEN = "unseen average"
"""The column of the mean over the generators that no method was trained on."""

BALANCED = {"acc": "balanced_acc", "ap": "ap_balanced"}
"""What stands next to a figure that depends on the share of fakes."""

Row = dict[str, Any]


@dataclasses.dataclass
class Artefact:
    """A table or figure of the papers, as far as it could be made.

    Attributes:
      rows: one a cell: `method` and `column`, `n`, `n_real`, `n_fake`, the figures of
        `item_jax.statistics.FIGURES` (fractions, None where undefined; means over the
        seeds), `chance` {figure: what a detector that knows nothing gets},
        `interval_95` {figure: (low, high)}, and what they rest on; see `rows_of`.
      rows_by, columns_by: which entries of a row name its line and its column in the
        table.
      figures: those shown. Where real and fake images differ in number, `acc` and `ap`
        are followed by their balanced forms, `BALANCED`; pictures of one figure show
        the last.
      missing: what it was made without.
      published: the paper's own cells, `{"paper", "method", "column", "title", "acc",
        "ap"}`.
      notes: what a reader should know, besides the warnings of the rows.
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

    def __post_init__(self):
        if any(row.get("n_real") != row.get("n_fake") for row in self.rows):
            pairs = ((f, BALANCED.get(f, f)) for f in self.figures)
            self.figures = tuple(dict.fromkeys(f for pair in pairs for f in pair))


def rows_of(results: Mapping[str, Any], **more: Any) -> list[Row]:
    """Turns results into rows.

    Args:
      results: of `item_jax.evaluate_methods`.
      more: entries that every row gets.

    Returns:
      A row for each method and generator, one for the average over generators and, if
      some of them were trained on, one for the average over the others, `UNSEEN`.
      Images that generators share count once in an average. Besides the figures a row
      has `seeds` (over which a figure is the mean), `trained` (whether the method was
      trained on the column), `difference` from the first method {figure: {"to",
      "value", "interval_95", "p_holm"}}, `ece` with `ece_floor` (that of a perfectly
      calibrated score), `covers` (what is in the intervals), `trained_on`, `protocol`,
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
    averages = {AVERAGE: ("macro", results["average"])}
    if 0 < len(results["unseen"]) < len(results["average"]["generators"]):
        averages[UNSEEN] = ("macro_unseen", results["average_unseen"])
    out = []
    for name, method in results["methods"].items():
        own = {
            "seeds": method.get("seeds", {}).get("n", 1),
            "covers": method["covers"],
            "trained_on": method["config"]["training"]["generators"],
            "range": method["range"]["text"],
        }
        difference = method.get("difference", {})
        for column, found in method["generators"].items():
            compared = difference.get("generators", {}).get(column, {})
            figures = _figures(found, found, found["interval_95"])
            trained = name in results["trained_on"][column]
            out.append(
                {"method": name, "column": column, "trained": trained}
                | figures
                | {"difference": _difference(difference, compared)}
                | (own | shared | more)
            )
        for column, (place, images) in averages.items():
            figures = _figures(method[place], images, method[f"{place}_interval_95"])
            compared = difference.get(place, {})
            out.append(
                {"method": name, "column": column, "trained": False}
                | figures
                | {"difference": _difference(difference, compared)}
                | (own | shared | more)
            )
    return out


def _figures(
    found: Mapping[str, Any], images: Mapping[str, int], ends: Mapping[str, Any]
) -> Row:
    """The figures of one generator or average, and what chance gives there.

    `chance` has for `acc` the share of the more frequent class, for `ap` that of the
    fakes, and one half for the others.
    """
    row: Row = {name: images[name] for name in ("n", "n_real", "n_fake")}
    row["chance"] = {
        "acc": found.get("majority"),
        "ap": found.get("ap_chance"),
        **dict.fromkeys(("balanced_acc", "ap_balanced", "auc"), 0.5),
    }
    row |= {name: found.get(name) for name in (*statistics.FIGURES, "ece", "ece_floor")}
    row["interval_95"] = {name: ends.get(name) for name in statistics.FIGURES}
    return row


def _difference(difference: Mapping[str, Any], compared: Mapping[str, Any]) -> Row:
    return {
        name: {"to": difference["to"]}
        | {k: found[k] for k in ("value", "interval_95", "p_holm")}
        for name, found in compared.items()
    }


def best(rows: Iterable[Row], figure: str) -> Row | None:
    """Returns the row with the highest figure that is better than chance.

    Better is one whose 95% interval lies above chance: in a set of 500 real and 150
    fake images a detector that calls everything real has the highest ACC, 76.9.
    """

    def above(row: Row) -> bool:
        ends = row["interval_95"].get(figure)
        chance = row.get("chance", {}).get(figure)
        return bool(ends) and chance is not None and ends[0] > chance

    found = [row for row in rows if row.get(figure) is not None and above(row)]
    return max(found, key=lambda row: row[figure], default=None)


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
    """Returns the values of an entry in the order of the rows, the averages last."""
    values = list(dict.fromkeys(row[by] for row in rows))
    averages = [v for v in (AVERAGE, UNSEEN) if v in values]
    return [v for v in values if v not in averages] + averages
