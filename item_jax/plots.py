"""Figures. Each function draws on one matplotlib figure and returns it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from item_jax.cache import Embeddings
from item_jax.detector import Explanation
from item_jax.misalignment import cosine
from item_jax.records import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and orange of Okabe and Ito's palette: told apart by every eye.
COLOURS = {"real": "#0072B2", "fake": "#E69F00"}


def cosines(parts: Iterable[Embeddings]) -> Figure:
    """Histograms of the cosine of image and caption, per generator and label.

    The papers' motivation (ITEM Fig. 1): fakes fit their captions otherwise than real
    images do.

    Args:
      parts: such as `cache.select(split="test")`; rows without a label are left out.
    """
    import matplotlib.pyplot as plt

    groups: dict[str, dict[str, list[float]]] = {}
    for part in parts:
        values = np.asarray(cosine(part.image_emb, part.text_emb))[:, 0]
        for row, value in zip(part.rows, values):
            if row["label"] in LABELS:
                group = groups.setdefault(row["generator"] or "unnamed", {})
                group.setdefault(row["label"], []).append(float(value))
    figure, axes = plt.subplots(
        1, len(groups), figsize=(3.2 * len(groups), 2.6), sharex=True, squeeze=False
    )
    everything = [v for group in groups.values() for vs in group.values() for v in vs]
    bins = np.histogram_bin_edges(everything, bins=30)
    for axis, (name, group) in zip(axes[0], sorted(groups.items())):
        for label, values in sorted(group.items(), reverse=True):
            axis.hist(
                values,
                bins,
                alpha=0.6,
                color=COLOURS[label],
                label=f"{label} (n = {len(values)})",
            )
        axis.set_title(name)
        axis.set_xlabel("cos(image, caption)")
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("images")
    figure.tight_layout()
    return figure


def auc_bars(results: dict[str, Any]) -> Figure:
    """AUC per generator with its 95% interval, the baselines beside it.

    Args:
      results: of `item_jax.evaluate_heads`, or the parsed `results.json`.
    """
    import matplotlib.pyplot as plt

    names = list(results["generators"])
    rivals = [r for r in results["baselines"] if r != "constant"]
    series = [(results["head"]["misalignment"]["name"], results["generators"])]
    series += [(r, results["baselines"][r]["generators"]) for r in rivals]
    figure, axis = plt.subplots(figsize=(2.4 + 1.6 * len(names), 3))
    width = 0.8 / len(series)
    for k, (title, generators) in enumerate(series):
        x = np.arange(len(names)) + (k - (len(series) - 1) / 2) * width
        y = np.array([generators[n]["auc"] or np.nan for n in names])
        axis.bar(x, y, 0.9 * width, label=title)
        intervals = [generators[n].get("interval_95", {}).get("auc") for n in names]
        for place, value, interval in zip(x, y, intervals):
            if interval:
                low, high = interval
                error = [[value - low], [high - value]]
                axis.errorbar(place, value, error, color="black", capsize=2)
    axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axis.set_xticks(np.arange(len(names)), names)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("AUC")
    axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def evidence(image: np.ndarray, explanation: Explanation) -> Figure:
    """An image with its objects' boxes, and the score without each of its parts.

    Args:
      image: uint8 `[H, W, 3]`, as `item_jax.images.read_image` returns it.
      explanation: of `ItemDetector.explain`.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    prediction = explanation.prediction
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.5, 3.2), width_ratios=[1, 1.4]
    )
    left.imshow(image)
    left.set_axis_off()
    left.set_title(f"{prediction.verdict}, P(fake) = {prediction.p_fake:.3f}")
    names = ["as it is", "without the whole image"]
    values = [prediction.p_fake, explanation.p_fake_without_global]
    colours = ["black", "grey"]
    for i, entry in enumerate(explanation.objects):
        x1, y1, x2, y2 = entry.object.box
        colour = f"C{i}"
        box = Rectangle(
            (x1 * width - 0.5, y1 * height - 0.5),
            (x2 - x1) * width,
            (y2 - y1) * height,
            fill=False,
            edgecolor=colour,
            linewidth=2,
        )
        left.add_patch(box)
        names.append(f"without {entry.object.phrase} (cos {entry.cosine:+.2f})")
        values.append(entry.p_fake_without)
        colours.append(colour)
    right.barh(names, values, color=colours)
    right.invert_yaxis()
    right.set_xlim(0, 1)
    right.set_xlabel("P(fake)")
    figure.tight_layout()
    return figure
