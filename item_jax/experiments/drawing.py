"""The pictures of experiments. Each function draws on one matplotlib figure.

Values are in percent; a dot or a line has its 95% interval, chance is marked.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from item_jax import perturb
from item_jax.experiments.artefact import AVERAGE, UNSEEN, Artefact, Row, best, order
from item_jax.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "acc": "ACC",
    "balanced_acc": "balanced ACC",
    "ap": "AP",
    "ap_balanced": "balanced AP",
    "auc": "AUC",
    "silhouette": "silhouette",
}

UNITS = {
    "noise": "variance (ITEM's sigma)",
    "noise-ycbcr": "variance in YCbCr",
    "noise-std": "standard deviation",
    "blur": "sigma in pixels",
    "jpeg": "quality",
}
"""What the severities of a perturbation count; why the noise's is a variance stands in
`item_jax.perturb`."""

# Okabe and Ito's palette, distinguishable with any colour vision, and marks beside it.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
MARKS = "osD^vPX"
PAPERS = {"item": "#0072B2", "tidy": "#D55E00"}
"""The papers' own methods keep their colours in `severities`."""
RIVAL = "#009E73"
GREY = "0.62"


def grid(artefact: Artefact) -> Figure:
    """A table as a grid of cells, coloured by what they are above chance.

    Methods down, columns across, with the images of each column and, in the last line,
    chance. The best cell of a column is bold, if it is better than chance.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    lines = order(artefact.rows, artefact.rows_by)
    columns = order(artefact.rows, artefact.columns_by)
    cells = _cells(artefact)
    height = 1.6 + 0.36 * (len(lines) + 1)
    across = 2 if len(artefact.figures) > 1 and len(columns) <= 8 else 1
    down = -(-len(artefact.figures) // across)
    size = ((3.2 + 0.85 * len(columns)) * across, height * down)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    colours = colormaps["cividis"].with_extremes(bad="white", under="0.85")
    for axis in axes.flat[len(artefact.figures) :]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, artefact.figures):
        above = np.full((len(lines) + 1, len(columns)), np.nan)
        texts: dict[tuple[int, int], str] = {}
        strong = set()
        for j, column in enumerate(columns):
            own = [cells.get((line, column)) for line in lines]
            known = [row for row in own if row and row.get(name) is not None]
            first, chance = best(known, name), _chance(known, name)
            for i, row in enumerate(own):
                if row is None or row.get(name) is None:
                    continue
                texts[i, j] = f"{100 * row[name]:.1f}" + "*" * bool(row.get("trained"))
                above[i, j] = 100 * (row[name] - (chance or 0))
                if row is first:
                    strong.add((i, j))
            if chance is not None:
                texts[len(lines), j] = f"{100 * chance:.1f}"
        found = above[np.isfinite(above)]
        top = max(1.0, float(found.max(initial=0)))
        least = 1e-6 * top  # at chance is grey too
        image = axis.imshow(above, cmap=colours, vmin=least, vmax=top, aspect="auto")
        if found.max(initial=0) > least:
            bar = figure.colorbar(image, ax=axis, extend="min", pad=0.01, aspect=12)
            bar.set_label("points above chance", fontsize=8)
        for (i, j), value in np.ndenumerate(above):
            dark = np.isnan(value) or value < least or value > 0.55 * top
            axis.text(
                *(j, i, texts.get((i, j), "-")),
                ha="center",
                va="center",
                fontsize=8,
                color="black" if dark else "white",
                weight="bold" if (i, j) in strong else "normal",
            )
        axis.axhline(len(lines) - 0.5, color="black", linewidth=0.8)
        for average in {AVERAGE, UNSEEN} & set(columns):
            axis.axvline(columns.index(average) - 0.5, color="black", linewidth=0.8)
        counts = [
            _counts([r for r in artefact.rows if r[artefact.columns_by] == c])
            for c in columns
        ]
        axis.set_xticks(
            np.arange(len(columns)),
            [f"{c}\n{n}" if n else c for c, n in zip(columns, counts)],
            rotation=35,
            ha="right",
            fontsize=8,
        )
        bottom = "majority class" if name == "acc" else "chance"
        axis.set_yticks(np.arange(len(lines) + 1), [*lines, bottom], fontsize=8)
        axis.set_title(f"{NAMES[name]}, percent", fontsize=9, loc="left")
    under = ["real + fake images; bold: the best above chance; grey: not above it"]
    if any(row.get("trained") for row in artefact.rows):
        under.append("* trained on")
    figure.supxlabel("; ".join(under), fontsize=8)
    return figure


def dots(artefact: Artefact) -> Figure:
    """A dot with its interval for every line and column, and chance.

    Dots are hollow where the method was trained on the generator.
    """
    from matplotlib.figure import Figure

    lines = order(artefact.rows, artefact.rows_by)
    columns = order(artefact.rows, artefact.columns_by)
    cells = _cells(artefact)
    name = artefact.figures[-1]
    height = 1.5 + len(columns) * (0.16 + 0.13 * len(lines))
    figure = Figure(figsize=(7, height), layout="constrained")
    axis = figure.subplots()
    step = 0.7 / max(1, len(lines))
    for k, line in enumerate(lines):
        own = [(j, cells.get((line, c))) for j, c in enumerate(columns)]
        known = [(j, row) for j, row in own if row and row.get(name) is not None]
        style = _style(k)
        for trained in (False, True):
            found = [(j, r) for j, r in known if bool(r.get("trained")) is trained]
            if not found:
                continue
            place = np.array([j for j, _ in found]) + (k - (len(lines) - 1) / 2) * step
            value = np.array([100 * row[name] for _, row in found])
            axis.errorbar(
                value,
                place,
                xerr=_whiskers(value, [row for _, row in found], name),
                linestyle="none",
                markersize=4,
                elinewidth=1,
                markerfacecolor="white" if trained else style["color"],
                **style,
            )
        axis.plot([], [], linestyle="none", label=textwrap.fill(line, 44), **style)
    marked = False
    for j, column in enumerate(columns):
        chance = _chance([r for (_, c), r in cells.items() if c == column], name)
        if chance is not None:
            axis.plot(
                *([100 * chance] * 2, [j - 0.5, j + 0.5]),
                color="0.4",
                linewidth=1,
                linestyle="--",
                zorder=0,
                label=None if marked else "chance",
            )
            marked = True
    axis.set_yticks(np.arange(len(columns)), columns, fontsize=8)
    axis.set_ylim(len(columns) - 0.5, -0.5)
    for j in range(1, len(columns)):
        axis.axhline(j - 0.5, color="0.5", linewidth=0.3, zorder=0)
    under = f"{NAMES[name]}, percent, with 95% interval"
    if any(row.get("trained") for row in artefact.rows):
        under += "; hollow: trained on"
    axis.set_xlabel(under, fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    if len(lines) == 1:
        axis.set_title(f"{lines[0]} only: nothing to compare", fontsize=9)
    figure.legend(
        loc="outside upper left", fontsize=8, ncols=2 if len(lines) < 5 else 3
    )
    return figure


def severities(artefact: Artefact) -> Figure:
    """A panel for each perturbation: figures by its values, a line a method.

    ITEM, TIDY and the best of the others are in colour with their intervals; the rest
    is grey, with the names at the end of the lines.
    """
    from matplotlib.figure import Figure

    name = artefact.figures[-1]
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
    rival = best([r for m, r in clean.items() if m not in PAPERS], name)
    colours = {m: c for m, c in PAPERS.items() if m in methods}
    if rival is not None:
        colours[rival["method"]] = RIVAL
    across = max(1, len(panels))
    figure = Figure(figsize=(1.6 + 2.6 * across, 3.6), layout="constrained")
    axes = figure.subplots(1, across, squeeze=False, sharey=True)
    for axis, (panel, of) in zip(axes[0], panels.items()):
        for method in sorted(of, key=lambda m: m in colours):  # colours on top
            found = sorted(
                (s, r) for s, r in of[method].items() if r.get(name) is not None
            )
            x = np.array([s for s, _ in found], float)
            value = np.array([100 * row[name] for _, row in found])
            if method not in colours:
                axis.plot(x, value, color=GREY, linewidth=0.8, zorder=1)
                continue
            axis.errorbar(
                x + 0.05 * (list(colours).index(method) - 1),
                value,
                yerr=_whiskers(value, [row for _, row in found], name),
                color=colours[method],
                marker=MARKS[list(colours).index(method)],
                markersize=4,
                linewidth=1.4,
                elinewidth=0.8,
                label=method,
            )
        kind = panel.partition(",")[0]
        known = perturb.SEVERITIES.get(kind, (1, 2, 3))
        axis.set_xticks(range(4), ["clean", *(f"{v:g}" for v in known)], fontsize=8)
        axis.set_xlabel(UNITS.get(kind, "severity"), fontsize=8)
        axis.set_title(panel, fontsize=9)
        axis.tick_params(axis="y", labelsize=8)
        chance = _chance(list(clean.values()), name)
        if chance is not None:
            axis.axhline(
                100 * chance, color="0.4", linewidth=1, linestyle="--", label="chance"
            )
    axes[0][0].set_ylabel(f"{NAMES[name]}, percent", fontsize=8)
    if panels:
        ends = {
            method: 100 * found[max(found)][name]
            for method, found in list(panels.values())[-1].items()
            if found[max(found)].get(name) is not None
        }
        _named(axes[0][-1], ends, colours)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8
    )
    return figure


def _named(axis: Axes, ends: dict[str, float], colours: dict[str, str]) -> None:
    """Names lines at their right ends, apart enough to be read."""
    low, high = axis.get_ylim()
    least = (high - low) / 18
    places = dict(sorted(ends.items(), key=lambda item: item[1]))
    at = -np.inf
    for method, value in places.items():
        at = places[method] = max(value, at + least)
    over = max(0.0, at - high)
    for method, place in places.items():
        axis.annotate(
            method,
            (3.0, ends[method]),
            (3.25, place - over),
            fontsize=7,
            va="center",
            color=colours.get(method, "0.4"),
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": GREY},
        )


def _chance(rows: list[Row], name: str) -> float | None:
    """Chance of a figure, the same for every row of a column."""
    return next((r["chance"].get(name) for r in rows if r and r.get("chance")), None)


def _counts(rows: list[Row]) -> str:
    """The images of a column, "500 + 150"."""
    found = {(r["n_real"], r["n_fake"]) for r in rows if "n_real" in r}
    return " or ".join(f"{real:,} + {fake:,}" for real, fake in sorted(found))


def scatter(artefact: Artefact) -> Figure:
    """Points of real and fake images: spaces down, generators across."""
    from matplotlib.figure import Figure

    spaces, columns = (order(artefact.rows, name) for name in ("method", "column"))
    cells = _cells(artefact)
    down, across = max(1, len(spaces)), max(1, len(columns))
    size = (0.6 + 2.5 * across, 0.5 + 2.5 * down)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
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
