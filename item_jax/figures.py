"""The figures of an evaluation: `item-jax evaluate` saves them, the report shows them.

Each function draws matplotlib figures and returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from item_jax import plots
from item_jax.files import atomic_file
from item_jax.plots import SIDEWAYS, plain, tells
from item_jax.records import LABELS
from item_jax.results import Results
from item_jax.tables import chance, counts_text, cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(results: Results) -> dict[str, Figure]:
    """ROC and precision-recall curves of the first method, a line a generator.

    Above `SIDEWAYS` generators they are grey, and only the lowest AUC has a name. The
    black line is their mean: of the true positive rates at each false positive rate,
    and of the precisions at each recall. Each line is such a mean over training seeds.

    Returns:
      The two figures, `roc` and `precision_recall`.
    """
    drawn = _Curves()
    name = results.summary["method"]
    first = results.summary["methods"][name]
    figures = {k: f for k, f in first["generators"].items() if f["auc"] is not None}
    pairs = {
        group: [(results.labels[index], own[index]) for own in results.seeds[name]]
        for group, index in results.groups.items()
        if group in figures
    }
    many = len(pairs) > SIDEWAYS
    lowest = min((f["auc"] for f in figures.values()), default=None)
    for group, own in pairs.items():
        if many and figures[group]["auc"] != lowest:
            drawn.add(own, "", figures[group], linewidth=0.6, color="grey")
        else:
            drawn.add(own, plain(cut(group)), figures[group], linewidth=1.2)
    if len(pairs) > 1:
        style: dict[str, Any] = {"linewidth": 1.8, "color": "black"}
        everything = [pair for own in pairs.values() for pair in own]
        drawn.add(everything, "mean", first["macro"], **style)
    return drawn.finish("", results.summary)


def mean_curves(results: Results) -> dict[str, Figure]:
    """ROC and precision-recall curves of every method, means over generators and seeds.

    Returns:
      The two figures, `methods_roc` and `methods_precision_recall`.
    """
    drawn = _Curves()
    for name, method in results.summary["methods"].items():
        pairs = [
            (results.labels[index], own[index])
            for group, index in results.groups.items()
            for own in results.seeds[name]
            if method["generators"][group]["auc"] is not None
        ]
        if pairs and tells(method):
            drawn.add(pairs, plain(cut(name)), method["macro"])
    return drawn.finish("methods_", results.summary)


class _Curves:
    """A figure of ROC curves and one of precision and recall, with equal lines."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        size = (4.8, 3.9)
        self.roc = Figure(figsize=size, layout="constrained")
        self.pr = Figure(figsize=size, layout="constrained")
        self.roc_axis, self.pr_axis = self.roc.subplots(), self.pr.subplots()
        self.chance: dict[str, Any] = {"color": "grey", "linewidth": 0.8}
        self.chance |= {"linestyle": ":", "label": "chance"}
        self.roc_axis.plot([0, 1], [0, 1], **self.chance)

    def add(self, pairs, label: str, figures: Mapping[str, Any], **style: Any) -> None:
        """Draws the mean of the curves of pairs of labels and scores.

        The legend has the figures of the tables; a label of "" is left out of it.
        """
        if len(pairs) == 1:
            roc, pr = _roc(*pairs[0]), _pr(*pairs[0])
        else:
            roc, pr = (GRID, _mean_roc(pairs)), (GRID, _mean_pr(pairs))
        for axis, curve, name in (
            (self.roc_axis, roc, "auc"),
            (self.pr_axis, pr, "ap"),
        ):
            known = figures.get(name)
            told = f", {known:.3f}" if label and known is not None else ""
            axis.plot(*curve, label=label + told, **style)

    def finish(self, prefix: str, summary: Mapping[str, Any]) -> dict[str, Figure]:
        """Writes what the axes show, and the legends below them.

        A score that knows nothing has the share of fakes as its precision.
        """
        base = chance(summary)
        if base:
            self.pr_axis.axhline(base[1]["ap"], **self.chance)
        self.roc_axis.set(xlabel="false positive rate", ylabel="true positive rate")
        self.pr_axis.set(xlabel="recall", ylabel="precision")
        for axis in (self.roc_axis, self.pr_axis):
            axis.set(xlim=(0, 1), ylim=(0, 1.02))
            axis.set_title(counts_text(summary), fontsize="small")
        legend_below(self.roc, title="AUC")
        legend_below(self.pr, title="AP")
        return {f"{prefix}roc": self.roc, f"{prefix}precision_recall": self.pr}


def legend_below(figure: Figure, **options: Any) -> None:
    """Makes room for a legend below a figure, whose layout is constrained."""
    labels = figure.axes[0].get_legend_handles_labels()[1]
    if not labels:
        return
    columns = 2 if len(labels) > 3 and max(map(len, labels)) < 28 else 1
    lines = -(-len(labels) // columns) + ("title" in options)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.2 * lines)
    figure.legend(
        fontsize="small", loc="outside lower center", ncols=columns, **options
    )


GRID = np.linspace(0, 1, 501)
"""Where mean curves are computed."""


def _roc(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.metrics import roc_curve

    return roc_curve(labels, scores)[:2]


def _pr(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall, ascending, and precision."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, scores)
    return recall[::-1], precision[::-1]


def _mean_roc(pairs) -> np.ndarray:
    return np.mean([np.interp(GRID, *_roc(*pair)) for pair in pairs], 0)


def _mean_pr(pairs) -> np.ndarray:
    precisions = []
    for pair in pairs:
        recall, precision = _pr(*pair)
        # Steps, not slopes, as in the average precision.
        precisions.append(precision[np.searchsorted(recall, GRID, side="left")])
    return np.mean(precisions, 0)


def reliability(results: Mapping[str, Any]) -> Figure:
    """What share of the images with a score is fake, for every method.

    The share and the score are those of classes of equal weight. Below, how much of
    the images of the first method have that score.

    Args:
      results: of `item_jax.evaluate_methods`, or the parsed `results.json`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.8), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    first = results["method"]
    for name, method in results["methods"].items():
        bins = method["reliability"]
        if not bins or not tells(method):
            continue
        style: dict[str, Any] = {"linewidth": 2 if name == first else 0.8}
        above.plot(
            [b["score"] for b in bins],
            [b["fake"] for b in bins],
            marker="o",
            markersize=4 if name == first else 2.5,
            label=f"{plain(cut(name))}, ECE {_ece(bins):.3f}",
            **style,
        )
    for b in results["methods"][first]["reliability"]:
        width = b["high"] - b["low"]
        below.bar(b["low"], b["weight"], 0.95 * width, align="edge", color="grey")
    above.set_title(counts_text(results), fontsize="small")
    above.set_ylabel("share of fakes")
    above.set_ylim(-0.02, 1.02)
    below.set_xlim(0, 1)
    below.set_xlabel("P(fake)")
    below.set_ylabel("images")
    legend_below(figure)
    return figure


def _ece(bins: Sequence[Mapping[str, float]]) -> float:
    """The expected calibration error: the mean distance of share and score."""
    return sum(b["weight"] * abs(b["fake"] - b["score"]) for b in bins)


def cosines(results: Results) -> Figure:
    """Histograms of the cosine of image and caption, per generator and label.

    Each generator has the real images that it is tested against.
    """
    return plots.histograms(
        {
            name: {
                label: results.cosines[index[results.labels[index] == number]]
                for label, number in LABELS.items()
                if (results.labels[index] == number).any()
            }
            for name, index in results.groups.items()
        }
    )


def of_results(results: Results) -> dict[str, Figure]:
    """Returns the figures of an evaluation by name; close them when they are drawn."""
    figures = {}
    if any(map(tells, results.summary["methods"].values())):
        figures["auc"] = plots.auc_bars(results.summary)
    first = results.summary["methods"][results.summary["method"]]
    if any(f["auc"] is not None for f in first["generators"].values()):
        figures |= curves(results)
    if sum(map(tells, results.summary["methods"].values())) > 1:
        figures |= mean_curves(results)
    if first["reliability"]:
        figures["reliability"] = reliability(results.summary)
    if results.groups:
        figures["cosines"] = cosines(results)
    return figures


def save(results: Results, folder: str | Path) -> list[Path]:
    """Writes the figures of an evaluation as `NAME.png`; returns the files."""
    written = []
    for name, figure in of_results(results).items():
        path = Path(folder) / f"{name}.png"
        with atomic_file(path, binary=True) as f:
            figure.savefig(f, format="png", dpi=120)
        written.append(path)
    return written
