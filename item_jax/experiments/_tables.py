"""What the three tables share: every method on the columns of some benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from item_jax.cache import EmbeddingCache
from item_jax.choices import nearest
from item_jax.experiments.artefact import (
    AVERAGE,
    Artefact,
    Row,
    order,
    published,
    rows_of,
)
from item_jax.experiments.study import Missing, Study
from item_jax.fitted import FittedMethod

OURS = "item_jax.methods."

SYSTEMS = {
    "ResNet-50": "resnet50",
    "Swin-T": "swin_t",
    "Patchfor": "patchforensics",
    "F3Net": "f3net",
    "DIRE": "dire",
    "CNNDet": "cnndet",
    "UniFD": "unifd",
    "NPR": "npr",
    "CLIP-Flow": "clip_flow",
    "VIB-Net": "vib_net",
    "ITEM": "item",
    "TIDY": "tidy",
}
"""The methods of the systems of the papers' tables, by their names there."""


def table(
    study: Study, columns: Sequence[str], figures: tuple[str, ...], source: str
) -> Artefact:
    """Fits and scores `config.paper.methods`.

    Args:
      study: of the workdir.
      columns: generators or benchmarks; those that the cache does not have are missing.
      figures: that are shown.
      source: of the published cells; see `artefact.published`.
    """
    here, missing = present(study, columns)
    own = published(source)
    missing += absent(study, [row["method"] for row in own])
    if not here:
        return Artefact([], figures=figures, missing=missing, published=own)
    rows = compared(study, fit_all(study, missing), here)
    if not {row["column"] for row in rows} & {_known_as(rows, row) for row in own}:
        own = []
    return Artefact(rows, figures=figures, missing=missing, published=own)


def _known_as(rows: Sequence[Row], cell: Row) -> str:
    """The column of some rows that a published cell belongs to."""
    several = any("/" in row["column"] for row in rows)
    name = cell["column"] if several else cell["column"].rpartition("/")[2]
    return "" if name == AVERAGE else name


def compared(
    study: Study,
    fitted: Mapping[str, Sequence[FittedMethod]],
    only: Sequence[str],
    *,
    cache: EmbeddingCache | None = None,
    varied: Sequence[str] = (),
    **more: Any,
) -> list[Row]:
    """Scores methods and returns rows, their columns in the order of the papers.

    Columns that the papers do not have follow in the order of `only`.

    Args:
      study: of the workdir.
      fitted: by name.
      only: generators or benchmarks.
      cache: to score; by default the main one.
      varied: settings that differ from those of the training on purpose.
      more: entries that every row gets.
    """
    rows = rows_of(
        study.evaluate(fitted, cache=cache, only=only, varied=varied), **more
    )
    columns = in_order(order(rows, "column"), only)
    return [
        row
        for name in order(rows, "method")
        for column in columns
        for row in rows
        if (row["method"], row["column"]) == (name, column)
    ]


def in_order(columns: Sequence[str], only: Sequence[str]) -> list[str]:
    """Sorts columns as the papers' tables, then as `only`; averages stay last."""
    printed = [*published("tables 1 and 2"), *published("table 3")]
    cells = [{"column": column} for column in columns]
    wanted = list(dict.fromkeys([*(_known_as(cells, c) for c in printed), *only]))

    def place(column: str) -> int:
        names = (column, column.rpartition("/")[2], column.partition("/")[0])
        return min((wanted.index(n) for n in names if n in wanted), default=len(wanted))

    return order([{"column": c} for c in sorted(columns, key=place)], "column")


def only_one(rows: Sequence[Row], what: str) -> list[str]:
    """Returns a note if there is nothing to compare, else none.

    Args:
      rows: of an artefact.
      what: its lines are, in the plural.
    """
    lines = order(rows, "method")
    if len(lines) != 1:
        return []
    return [f"only one of the {what} is here, {lines[0]}: nothing is compared"]


def fit_all(study: Study, missing: list[Missing]) -> dict[str, list[FittedMethod]]:
    """Fits `config.paper.methods` on the main cache.

    Args:
      study: of the workdir.
      missing: gets what a method lacks, which is left out.

    Returns:
      The fitted methods by name; of `item_jax.methods.npr:small` that is `npr:small`.
    """
    fitted = {}
    for name in study.config.paper.methods:
        lacking = study.lacks(name, study.main)
        if lacking is not None:
            missing.append(lacking)
            continue
        fitted[name.removeprefix(OURS)] = study.fit(name, name)
    return fitted


def absent(study: Study, systems: Iterable[str]) -> list[Missing]:
    """Returns what a table lacks: systems of the papers' that are not in it.

    Args:
      study: `config.paper.methods` are the rows.
      systems: their names in the papers.
    """
    chosen = study.config.paper.methods
    known = {name.removeprefix(OURS).partition(":")[0] for name in chosen}
    lacking = [s for s in dict.fromkeys(systems) if SYSTEMS[s] not in known]
    if not lacking:
        return []
    form = "{}"
    if any(name.endswith(":small") for name in chosen):  # the miniature's
        form = f"{OURS}{{}}:small"
    more = [form.format(SYSTEMS[system]) for system in lacking]
    changes = {"paper.methods": ",".join((*chosen, *more))}
    if "DIRE" in lacking:
        changes["data.error_maps"] = "MAPS"
    why = "not among paper.methods: on pixels, training takes a while"
    return [Missing(", ".join(lacking), why, (study.again(changes),))]


def present(
    study: Study, wanted: Sequence[str]
) -> tuple[tuple[str, ...], list[Missing]]:
    """Sorts generators or benchmarks by whether the main cache has test images of them.

    Returns:
      Those it has, and for each other one what is missing.
    """
    known = study.test_names()
    missing = [
        Missing(
            f"test images of {name}",  # which may be the name of a method too
            f"the test images in {study.main.folder} have none of it; "
            f"{nearest(name, sorted(known))}",
        )
        for name in wanted
        if name not in known
    ]
    return tuple(name for name in wanted if name in known), missing
