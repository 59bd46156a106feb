"""The figures of an evaluation: `item-jax evaluate` saves them, the report shows them.

Each function draws on one matplotlib figure and returns it.
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
from item_jax.tables import cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(results: Results) -> Figure:
    """ROC and precision-recall curves of the first method, a line a generator.

    Above `SIDEWAYS` generators they are grey, and only the lowest AUC has a name. The
    black line is their mean: of the true positive rates at each false positive rate,
    and of the precisions at each recall.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4))
    first = results.summary["method"]
    found = {
        name: (results.labels[index], results.scores[first][index])
        for name, index in results.groups.items()
        if results.summary["generators"][name]["auc"] is not None
    }
    many = len(found) > SIDEWAYS
    auc = {name: results.summary["generators"][name]["auc"] for name in found}
    for name, pair in found.items():
        named = not many or auc[name] == min(auc.values())
        style: dict[str, Any] = {"linewidth": 1.2} if named else {"linewidth": 0.6}
        if not named:
            style["color"] = "grey"
        ap = results.summary["generators"][name]["ap"]
        shown = plain(cut(name)) if named else None
        axes[0].plot(*_roc(*pair), label=shown and f"{shown}, {auc[name]:.3f}", **style)
        axes[1].plot(*_pr(*pair), label=shown and f"{shown}, {ap:.3f}", **style)
    if len(found) > 1:
        _draw_mean(axes, list(found.values()), "mean", color="black", linewidth=1.8)
    _finish_curves(axes)
    figure.tight_layout()
    return figure


def mean_curves(results: Results) -> Figure:
    """ROC and precision-recall curves of every method, their means over generators."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4))
    for name, method in results.summary["methods"].items():
        pairs = [
            (results.labels[index], results.scores[name][index])
            for group, index in results.groups.items()
            if method["generators"][group]["auc"] is not None
        ]
        if pairs and tells(method):
            _draw_mean(axes, pairs, plain(cut(name)))
    _finish_curves(axes)
    figure.tight_layout()
    return figure


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


def _draw_mean(axes, pairs, label: str, **style: Any) -> None:
    rates, precisions = [], []
    for labels, scores in pairs:
        rates.append(np.interp(GRID, *_roc(labels, scores)))
        recall, precision = _pr(labels, scores)
        # Steps, not slopes, as in the average precision.
        precisions.append(precision[np.searchsorted(recall, GRID, side="left")])
    tpr, precision = np.mean(rates, 0), np.mean(precisions, 0)
    area = np.trapezoid(tpr, GRID)
    axes[0].plot(GRID, tpr, label=f"{label}, {area:.3f}", **style)
    area = np.trapezoid(precision, GRID)
    axes[1].plot(GRID, precision, label=f"{label}, {area:.3f}", **style)


def _finish_curves(axes) -> None:
    axes[0].plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":")
    for axis, (x, y, figure, place) in zip(
        axes,
        [
            ("false positive rate", "true positive rate", "AUC", "lower right"),
            ("recall", "precision", "AP", "lower left"),
        ],
    ):
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="small", loc=place, title=figure)


def reliability(results: Mapping[str, Any]) -> Figure:
    """What share of the images with a score is fake, for every method.

    The share and the score are those of classes of equal weight. Below, how much of
    the images of the first method have that score.

    Args:
      results: of `item_jax.evaluate_methods`, or the parsed `results.json`.
    """
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(4.8, 5), sharex=True, height_ratios=(4, 1)
    )
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
    above.set_ylabel("share of fakes")
    above.set_ylim(-0.02, 1.02)
    below.set_xlim(0, 1)
    below.set_xlabel("P(fake)")
    below.set_ylabel("images")
    if above.get_legend_handles_labels()[0]:
        above.legend(fontsize="small")
    figure.tight_layout()
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
    figures = {"auc": plots.auc_bars(results.summary)}
    first = results.summary["methods"][results.summary["method"]]
    if first["reliability"]:
        figures["reliability"] = reliability(results.summary)
    if any(f["auc"] is not None for f in first["generators"].values()):
        figures["curves"] = curves(results)
    if sum(map(tells, results.summary["methods"].values())) > 1:
        figures["methods"] = mean_curves(results)
    if results.groups:
        figures["cosines"] = cosines(results)
    return figures


def save(results: Results, folder: str | Path) -> list[Path]:
    """Writes the figures of an evaluation as `NAME.png`; returns the files."""
    import matplotlib.pyplot as plt

    written = []
    for name, figure in of_results(results).items():
        path = Path(folder) / f"{name}.png"
        with atomic_file(path, binary=True) as f:
            figure.savefig(f, format="png", dpi=120)
        plt.close(figure)
        written.append(path)
    return written
