"""An artefact as files: JSON, Markdown, LaTeX and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from item_jax import __version__, files
from item_jax.experiments.artefact import AVERAGE, Artefact, Row, best, order
from item_jax.experiments.drawing import NAMES
from item_jax.experiments.study import Missing

SCHEMA = "item-paper/1"


def write(folder: Path, name: str, experiment: Any, artefact: Artefact) -> list[Path]:
    """Writes `NAME.json`, `.md`, and, unless there is nothing to show, `.tex`, `.png`.

    Args:
      folder: `WORKDIR/results/paper`.
      name: of the experiment.
      experiment: its module.
      artefact: what it gave.

    Returns:
      The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "schema": SCHEMA,
        "item_jax": __version__,
        "experiment": name,
        "title": experiment.TITLE,
        "rows": artefact.rows,
        "rows_by": artefact.rows_by,
        "columns_by": artefact.columns_by,
        "figures": list(artefact.figures),
        "paper": artefact.published,
        "missing": [vars(missing) for missing in artefact.missing],
        "notes": artefact.notes,
        "points": artefact.points,
    }
    paths = [folder / f"{name}.{ending}" for ending in ("json", "md")]
    files.write_json(paths[0], content)
    with files.atomic_file(paths[1]) as f:
        f.write(markdown(experiment.TITLE, artefact))
    drawn = [folder / f"{name}.{ending}" for ending in ("tex", "png")]
    if not artefact.rows:  # nothing of an earlier run may pass for this one's
        for path in drawn:
            path.unlink(missing_ok=True)
        return paths
    with files.atomic_file(drawn[0]) as f:
        f.write(latex(experiment.TITLE, artefact))
    figure = experiment.draw(artefact)
    with files.atomic_file(drawn[1], binary=True) as f:
        figure.savefig(f, format="png", dpi=150)
    return paths + drawn


def read(path: Path) -> tuple[str, Artefact]:
    """Reads the `NAME.json` of `write`; returns title and artefact.

    Raises:
      ValueError: if it is damaged, or of a version that did not write all of it.
    """
    content = files.read_json(path)

    def field(name: str, kind: type) -> Any:
        return files.field(content, name, kind, path)

    if content.get("schema") != SCHEMA or "rows_by" not in content:
        raise ValueError(f"{path}: of an earlier version; run `item-jax paper` again")
    artefact = Artefact(
        field("rows", list),
        field("rows_by", str),
        field("columns_by", str),
        tuple(field("figures", list)),
        [
            Missing(m["what"], m["why"], tuple(m["commands"]))
            for m in content["missing"]
        ],
        field("paper", list),
        field("notes", list),
        field("points", list),
    )
    return field("title", str), artefact


def markdown(title: str, artefact: Artefact) -> str:
    """Returns an artefact as a page of Markdown."""
    lines = [f"# {title}", ""]
    for figure in artefact.figures if artefact.rows else ():
        lines += [f"## {_heading(figure)}", "", *_markdown_table(artefact, figure), ""]
    lines += [f"- {note}".replace("*", r"\*") for note in notes(artefact)]
    for figure in artefact.figures if artefact.published else ():
        if figure not in ("acc", "ap"):
            continue
        lines += ["", f"## {NAMES[figure]} as the papers print it, percent", ""]
        lines += _published_table(artefact, figure)
        if figure == "acc" and ALL_REAL.keys() & {
            r["column"] for r in artefact.published
        }:
            lines += ["", *ALL_REAL_NOTES]
    if artefact.missing:
        lines += ["", "## Missing", ""]
        for missing in artefact.missing:
            lines.append(f"- {files.printable(missing.what)}: {missing.why}")
            lines += [f"      {command}" for command in missing.commands]
    return "\n".join([*lines, ""])


ALL_REAL = {
    "diffusionforensics/lsun_bedroom_dalle2": ("DALLE-2", 1000, 500),
    "diffusionforensics/lsun_bedroom_midjourney": ("Mid.", 1000, 100),
}
"""Columns of the papers with more real images than fakes; the counts are inferred from
the printed cells, which are multiples of 1 / 1,500 and 1 / 1,100."""

ALL_REAL_NOTES = [
    f"- calling every image real scores {100 * real / (real + fake):.2f} on {title} "
    f"({real:,} real and {fake:,} fake images, inferred from the printed cells)"
    for title, real, fake in ALL_REAL.values()
]


def _heading(figure: str) -> str:
    if figure == "silhouette":
        return "Silhouette, from -1 to 1"
    return f"{NAMES[figure]}, percent, with its 95% interval"


def notes(artefact: Artefact) -> list[str]:
    """Returns what the figures of an artefact rest on, a sentence each."""
    rows = [row for row in artefact.rows if "protocol" in row]
    out = list(artefact.notes)
    if rows:
        out += [
            f"{what}: {' | '.join(dict.fromkeys(str(row[name]) for row in rows))}"
            for name, what in (
                ("protocol", "protocol"),
                ("towers", "towers"),
                ("dtype", "dtype"),
                ("seeds", "training seeds, whose mean is shown"),
            )
        ]
        covers = dict.fromkeys(row["covers"] for row in rows if row["covers"])
        out.append(f"95% intervals cover {' | '.join(covers)}")
        if any(row["column"] == AVERAGE for row in rows):
            out.append("an image that several generators share counts once in averages")
        if any(row["trained"] for row in rows):
            out.append(
                "* trained on this generator; the unseen average is without those"
            )
        if {"balanced_acc", "ap_balanced"} & {*artefact.figures}:
            out.append(
                "balanced: real and fake images count half each, whatever their number"
            )
        if artefact.rows_by == "method":
            out.append(
                "bold: the best of a column, among those whose interval lies above "
                "chance"
            )
        out += dict.fromkeys(row["range"] for row in rows)
        warnings = dict.fromkeys(w for row in rows for w in row["warnings"])
        out += [f"warning: {warning}" for warning in warnings]
    return out


def _markdown_table(artefact: Artefact, figure: str) -> list[str]:
    columns = order(artefact.rows, artefact.columns_by)
    first = _best(artefact, columns, figure)
    head = ["", *columns]
    body = [
        [
            str(line),
            *(
                _cell(row, figure, row is not None and row is first[c])
                for c, row in zip(columns, cells)
            ),
        ]
        for line, cells in _lines(artefact, columns)
    ]
    body += [[name, *cells] for name, cells in _below(artefact, columns, figure)]
    return _pipes(head, body)


def _best(artefact: Artefact, columns: list[str], figure: str) -> dict[str, Row | None]:
    rows = [row for row in artefact.rows if "chance" in row]
    if artefact.rows_by != "method":  # such as periods, which do not compete
        rows = []
    return {
        column: best([r for r in rows if r[artefact.columns_by] == column], figure)
        for column in columns
    }


def _below(
    artefact: Artefact, columns: list[str], figure: str
) -> list[tuple[str, list[str]]]:
    """The lines under a table: chance, and the images of each column."""
    of: dict[str, list[Row]] = {column: [] for column in columns}
    for row in artefact.rows:
        if "chance" in row:
            of[row[artefact.columns_by]].append(row)
    if not any(of.values()):
        return []

    def each(text: Any) -> list[str]:
        return [
            " or ".join(dict.fromkeys(text(row) for row in rows)) or "-"
            for rows in of.values()
        ]

    blind = "majority class" if figure == "acc" else "chance"
    return [
        (blind, each(lambda row: _percent(row["chance"].get(figure)))),
        ("real + fake", each(lambda row: f"{row['n_real']:,} + {row['n_fake']:,}")),
    ]


def _published_table(artefact: Artefact, figure: str) -> list[str]:
    columns = list(dict.fromkeys(row["column"] for row in artefact.published))
    titles = {row["column"]: row["title"] for row in artefact.published}
    cells = {(r["method"], r["column"]): r[figure] for r in artefact.published}
    body = [
        [method, *(_percent(cells.get((method, column))) for column in columns)]
        for method in dict.fromkeys(row["method"] for row in artefact.published)
    ]
    return _pipes(["paper", *(titles[c] for c in columns)], body)


def _pipes(head: list[str], body: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        plain = (files.printable(cell).replace("|", r"\|") for cell in cells)
        return f"| {' | '.join(plain)} |"

    return [line(head), "|" + " --- |" * len(head), *(line(cells) for cells in body)]


def latex(title: str, artefact: Artefact) -> str:
    """Returns an artefact as LaTeX tables for `booktabs`, one a figure.

    Each has the 95% intervals, the best cell of a column in bold (see `artefact.best`),
    the papers' rows of the same columns, chance, and the number of images.
    """
    columns = order(artefact.rows, artefact.columns_by)
    lines = [rf"% {files.printable(title)}; made by item_jax {__version__}"]
    for figure in artefact.figures:
        first = _best(artefact, columns, figure)
        head = [_heading(figure), *columns]
        lines += [
            r"\begin{tabular}{l" + "r" * len(columns) + "}",
            r"\toprule",
            " & ".join(_escaped(text) for text in head) + r" \\",
            r"\midrule",
        ]
        for line, cells in _lines(artefact, columns):
            shown = (
                _latex_cell(row, figure, row is not None and row is first[c])
                for c, row in zip(columns, cells)
            )
            lines.append(" & ".join([_escaped(str(line)), *shown]) + r" \\")
        printed = _papers_rows(artefact, columns, figure)
        for body in (printed, _below(artefact, columns, figure)):
            lines += [r"\midrule"] * bool(body)
            for name, texts in body:
                cells = " & ".join(_escaped(text) for text in (name, *texts))
                lines.append(cells + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join(lines)


def _latex_cell(row: Row | None, figure: str, strong: bool) -> str:
    text = _escaped(_plain(row, figure))
    text = rf"\textbf{{{text}}}" if strong else text
    if row is None or row.get(figure) is None:
        return text
    text += "*" * bool(row.get("trained"))
    ends = row.get("interval_95", {}).get(figure)
    if not ends:
        return text
    return rf"{text} {{\scriptsize {100 * ends[0]:.1f}--{100 * ends[1]:.1f}}}"


def _papers_rows(
    artefact: Artefact, columns: list[str], figure: str
) -> list[tuple[str, list[str]]]:
    """The papers' rows in the columns of a table."""
    several = any("/" in column for column in columns)
    found: dict[str, dict[str, str]] = {}
    for cell in artefact.published:
        column = cell["column"] if several else cell["column"].rpartition("/")[2]
        if column in columns and cell.get(figure) is not None:
            own = found.setdefault(f"{cell['method']} ({cell['paper']})", {})
            own[column] = _percent(cell[figure])
    return [
        (f"printed: {name}", [cells.get(column, "-") for column in columns])
        for name, cells in found.items()
        if cells.keys() - {AVERAGE}
    ]


def _lines(artefact: Artefact, columns: list[str]):
    """Yields the lines of the table, each with a row or None a column."""
    cells = {
        (row[artefact.rows_by], row[artefact.columns_by]): row for row in artefact.rows
    }
    for line in order(artefact.rows, artefact.rows_by):
        yield line, [cells.get((line, column)) for column in columns]


def _cell(row: Row | None, figure: str, strong: bool = False) -> str:
    if row is None or row.get(figure) is None:
        return "-"
    ends = row.get("interval_95", {}).get(figure)
    shown = f" ({100 * ends[0]:.1f}-{100 * ends[1]:.1f})" if ends else ""
    text = f"**{_plain(row, figure)}**" if strong else _plain(row, figure)
    return text + r"\*" * bool(row.get("trained")) + shown


def _plain(row: Row | None, figure: str) -> str:
    if row is None or row.get(figure) is None:
        return "-"
    if figure == "silhouette":
        return f"{row[figure]:+.3f}"
    return _percent(row[figure])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return files.printable(text)
