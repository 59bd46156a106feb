"""The pictures of experiments. Each function draws on one matplotlib figure.

Values are in percent; a dot or a bar has its 95% interval.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from item_jax.experiments.artefact import AVERAGE, Artefact, Row, order
from item_jax.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {"acc": "ACC", "ap": "AP", "auc": "AUC", "silhouette": "silhouette"}

# Okabe and Ito's palette, distinguishable with any colour vision, and marks beside it.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
MARKS = "osD^vPX"


def grid(artefact: Artefact) -> Figure:
    """A table as a grid of coloured cells: methods down, columns across."""
    import matplotlib.pyplot as plt

    lines = order(artefact.rows, artefact.rows_by)
    columns = order(artefact.rows, artefact.columns_by)
    cells = _cells(artefact)
    height = 1.2 + 0.36 * len(lines)
    figure, axes = plt.subplots(
        len(artefact.figures),
        1,
        squeeze=False,
        layout="constrained",
        figsize=(2.6 + 0.85 * len(columns), height * len(artefact.figures)),
    )
    for axis, name in zip(axes[:, 0], artefact.figures):
        values = np.full((len(lines), len(columns)), np.nan)
        for (line, column), row in cells.items():
            if row.get(name) is not None:
                values[lines.index(line), columns.index(column)] = 100 * row[name]
        axis.imshow(values, cmap="cividis", vmin=40, vmax=100, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            text = "-" if np.isnan(value) else f"{value:.1f}"
            dark = np.isnan(value) or value > 72
            axis.text(
                *(j, i, text),
                ha="center",
                va="center",
                fontsize=8,
                color="black" if dark else "white",
                weight="bold" if columns[j] == AVERAGE else "normal",
            )
        axis.set_xticks(
            np.arange(len(columns)), columns, rotation=35, ha="right", fontsize=8
        )
        axis.set_yticks(np.arange(len(lines)), lines, fontsize=8)
        axis.set_title(f"{NAMES[name]}, percent", fontsize=9, loc="left")
    return figure


def dots(artefact: Artefact) -> Figure:
    """A dot with its interval for every line and column."""
    import matplotlib.pyplot as plt

    lines = order(artefact.rows, artefact.rows_by)
    columns = order(artefact.rows, artefact.columns_by)
    cells = _cells(artefact)
    (name,) = artefact.figures
    height = 1.3 + len(columns) * (0.16 + 0.13 * len(lines))
    figure, axis = plt.subplots(figsize=(7, height), layout="constrained")
    step = 0.7 / max(1, len(lines))
    for k, line in enumerate(lines):
        found = [(j, cells.get((line, c))) for j, c in enumerate(columns)]
        known = [(j, row) for j, row in found if row and row.get(name) is not None]
        place = np.array([j for j, _ in known]) + (k - (len(lines) - 1) / 2) * step
        value = np.array([100 * row[name] for _, row in known])
        axis.errorbar(
            value,
            place,
            xerr=_whiskers(value, [row for _, row in known], name),
            linestyle="none",
            markersize=4,
            elinewidth=1,
            label=textwrap.fill(line, 44),
            **_style(k),
        )
    axis.set_yticks(np.arange(len(columns)), columns, fontsize=8)
    axis.set_ylim(len(columns) - 0.5, -0.5)
    for j in range(1, len(columns)):
        axis.axhline(j - 0.5, color="0.5", linewidth=0.3, zorder=0)
    axis.set_xlabel(f"{NAMES[name]}, percent, with 95% interval", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    figure.legend(
        loc="outside upper left", fontsize=8, ncols=2 if len(lines) < 5 else 3
    )
    return figure


def severities(artefact: Artefact) -> Figure:
    """A panel for each perturbation: figures by severity, a line a method."""
    import matplotlib.pyplot as plt

    (name,) = artefact.figures
    methods = order(artefact.rows, "method")
    clean = {r["method"]: r for r in artefact.rows if r["condition"] == "clean"}
    panels: dict[str, dict[str, dict[int, Row]]] = {}
    for row in artefact.rows:
        if row["condition"] == "clean":
            continue
        kind, _, severity = row["perturbation"].rpartition(":")
        panel = kind if row["captions"] == "kept" else f"{kind}, recaptioned"
        of = panels.setdefault(panel, {})
        of.setdefault(row["method"], {0: clean[row["method"]]})[int(severity)] = row
    figure, axes = plt.subplots(
        1,
        max(1, len(panels)),
        squeeze=False,
        sharey=True,
        layout="constrained",
        figsize=(1.2 + 2.6 * max(1, len(panels)), 3.2),
    )
    for axis, (panel, of) in zip(axes[0], panels.items()):
        for k, method in enumerate(methods):
            found = sorted(
                (s, r) for s, r in of.get(method, {}).items() if r.get(name) is not None
            )
            x = np.array([s for s, _ in found]) + (k - (len(methods) - 1) / 2) * 0.03
            value = np.array([100 * row[name] for _, row in found])
            axis.errorbar(
                x,
                value,
                yerr=_whiskers(value, [row for _, row in found], name),
                markersize=4,
                linewidth=1,
                linestyle="--" if k >= len(PALETTE) else "-",
                label=method,
                **_style(k),
            )
        axis.set_title(panel, fontsize=9)
        axis.set_xticks(range(4), ["clean", "1", "2", "3"], fontsize=8)
        axis.set_xlabel("severity", fontsize=8)
        axis.tick_params(axis="y", labelsize=8)
    axes[0][0].set_ylabel(f"{NAMES[name]}, percent", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    return figure


def scatter(artefact: Artefact) -> Figure:
    """Points of real and fake images: spaces down, generators across."""
    import matplotlib.pyplot as plt

    spaces, columns = (order(artefact.rows, name) for name in ("method", "column"))
    cells = _cells(artefact)
    figure, axes = plt.subplots(
        max(1, len(spaces)),
        max(1, len(columns)),
        squeeze=False,
        layout="constrained",
        figsize=(0.6 + 2.5 * max(1, len(columns)), 0.5 + 2.5 * max(1, len(spaces))),
    )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for i, space in enumerate(spaces):
        axes[i][0].set_ylabel(space, fontsize=9)
        for j, column in enumerate(columns):
            for label, colour in COLOURS.items():
                own = [
                    (p["x"], p["y"])
                    for p in artefact.points
                    if (p["method"], p["column"], p["label"]) == (space, column, label)
                ]
                axes[i][j].scatter(
                    *np.array(own).T,
                    s=4,
                    color=colour,
                    alpha=0.6,
                    label=label,
                    rasterized=True,  # thousands of points in a page
                )
            row = cells[space, column]
            axes[i][j].set_title(
                f"{column} (n = {row['n']})\nsilhouette {row['silhouette']:+.3f}",
                fontsize=8,
            )
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _style(k: int) -> dict[str, Any]:
    """Colour and mark of the k-th line; where colours begin again, marks differ."""
    again = 3 * (k // len(PALETTE))
    return {
        "color": PALETTE[k % len(PALETTE)],
        "marker": MARKS[(k + again) % len(MARKS)],
    }


def _cells(artefact: Artefact) -> dict[tuple[str, str], Row]:
    return {
        (row[artefact.rows_by], row[artefact.columns_by]): row for row in artefact.rows
    }


def _whiskers(values: np.ndarray, rows: list[Row], name: str) -> np.ndarray:
    """How far the intervals reach from their values, `[2, n]`."""
    ends = [row["interval_95"].get(name) for row in rows]
    reach = [
        (v - 100 * e[0], 100 * e[1] - v) if e else (0.0, 0.0)
        for v, e in zip(values, ends)
    ]
    # An interval over images and seeds need not contain the figure itself.
    return np.maximum(np.array(reach).reshape(-1, 2).T, 0)
