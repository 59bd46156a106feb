"""Figures. Each function draws on one matplotlib figure and returns it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from item_jax.embeddings import Embeddings
from item_jax.evidence import Explanation
from item_jax.files import printable
from item_jax.misalignment import cosine
from item_jax.records import LABELS
from item_jax.tables import cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and orange of Okabe and Ito's palette: distinguishable with any colour vision.
COLOURS = {"real": "#0072B2", "fake": "#E69F00"}


def cosines(parts: Iterable[Embeddings]) -> Figure:
    """Histograms of the cosine of image and caption, per generator and label.

    The papers' motivation (ITEM Fig. 1): fakes fit their captions otherwise than real
    images do.

    Args:
      parts: such as `cache.select(split="test")`; rows without a label are left out.
    """
    groups: dict[str, dict[str, list[float]]] = {}
    for part in parts:
        values = np.asarray(cosine(part.image_emb, part.text_emb))[:, 0]
        for row, value in zip(part.rows, values):
            if row["label"] in LABELS:
                group = groups.setdefault(row["generator"] or "unnamed", {})
                group.setdefault(row["label"], []).append(float(value))
    return histograms(groups)


def histograms(groups: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The same of cosines `[n]` by generator and label, four generators a row."""
    import matplotlib.pyplot as plt

    columns = max(1, min(4, len(groups)))
    lines = max(1, -(-len(groups) // columns))
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(3.2 * columns, 2.4 * lines + 0.2),
        sharex=True,
        squeeze=False,
    )
    everything = [v for group in groups.values() for vs in group.values() for v in vs]
    bins = np.histogram_bin_edges(everything, bins=30)
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for k, (axis, (name, group)) in enumerate(zip(axes.flat, sorted(groups.items()))):
        for label, own in sorted(group.items(), reverse=True):
            axis.hist(
                own,
                bins,
                alpha=0.6,
                color=COLOURS[label],
                label=f"{label} (n = {len(own)})",
            )
        axis.set_title(plain(cut(name)))
        axis.legend(fontsize="small")
        axis.tick_params(labelbottom=True)
        if k + columns >= len(groups):
            axis.set_xlabel("cos(image, caption)")
        if k % columns == 0:
            axis.set_ylabel("images")
    figure.tight_layout()
    return figure


SIDEWAYS = 8
"""More generators than this are drawn as horizontal bars, whose names stay legible."""


def auc_bars(results: Mapping[str, Any]) -> Figure:
    """AUC per generator with its 95% interval, every method beside the first.

    Args:
      results: of `item_jax.evaluate_methods`, or the parsed `results.json`.
    """
    import matplotlib.pyplot as plt

    names = list(results["generators"])
    shown = {n: m for n, m in results["methods"].items() if tells(m)}
    sideways = len(names) > SIDEWAYS
    thick = 0.25 + 0.12 * len(shown)  # inches, of the bars of a generator
    size = (7, 1.2 + thick * len(names)) if sideways else (2.4 + 1.6 * len(names), 3)
    figure, axis = plt.subplots(figsize=size)
    width = 0.8 / max(1, len(shown))
    for k, (title, method) in enumerate(shown.items()):
        place = np.arange(len(names)) + (k - (len(shown) - 1) / 2) * width
        figures = [method["generators"][name] for name in names]
        auc = np.array([np.nan if f["auc"] is None else f["auc"] for f in figures])
        ends = [(f.get("interval_95") or {}).get("auc") for f in figures]
        error = np.array(
            [(a - e[0], e[1] - a) if e else (0, 0) for a, e in zip(auc, ends)]
        ).T
        error = np.maximum(error, 0)  # a bootstrap need not contain the figure itself
        options: dict[str, Any] = {"label": plain(cut(title)), "capsize": 2}
        if sideways:
            axis.barh(place, auc, 0.9 * width, xerr=error, **options)
        else:
            axis.bar(place, auc, 0.9 * width, yerr=error, **options)
    labels = [plain(cut(name)) for name in names]
    if sideways:
        axis.axvline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axis.set_yticks(np.arange(len(names)), labels)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(0, 1.02)
        axis.set_xlabel("AUC")
    else:
        axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axis.set_xticks(np.arange(len(names)), labels)
        axis.set_ylim(0, 1.02)
        axis.set_ylabel("AUC")
    if shown:
        axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def tells(method: Mapping[str, Any]) -> bool:
    """Whether a method of `results.json` tells anything: `constant` does not."""
    return any(f["auc"] not in (None, 0.5) for f in method["generators"].values())


SMALL = 0.005
"""A smaller change of P(fake) is drawn as none."""


def effect_colour(effect: float) -> str:
    """Returns the colour of a part of the evidence.

    Args:
      effect: P(fake) minus P(fake) without the part, in [-1, 1].
    """
    if abs(effect) < SMALL:
        return "grey"
    return COLOURS["fake" if effect > 0 else "real"]


def evidence(image: np.ndarray, explanation: Explanation) -> Figure:
    """An image with its objects' boxes, and the score without each of its parts.

    Boxes and bars have the colour of what their object pulls the score towards: fake,
    real, or neither (`COLOURS`). Long phrases are wrapped, not cut.

    Args:
      image: uint8 `[H, W, 3]`, as `item_jax.images.read_image` returns it.
      explanation: of `ItemDetector.explain`, of an image that could be scored.

    Raises:
      ValueError: if it could not.
    """
    import matplotlib.pyplot as plt

    prediction = explanation.prediction
    if prediction.p_fake is None:
        raise ValueError(f"{prediction.key}: nothing to draw: {prediction.error}")
    names, values, colours = ["as it is"], [prediction.p_fake], ["black"]
    if explanation.p_fake_without_global is not None:
        names.append("without the whole image")
        values.append(explanation.p_fake_without_global)
        colours.append(effect_colour(values[0] - values[-1]))
    for number, entry in enumerate(explanation.objects, start=1):
        phrase = textwrap.fill(plain(entry.object.phrase), 36)
        names.append(f"without {number}: {phrase}\n(cos {entry.cosine:+.2f})")
        values.append(entry.p_fake_without)
        colours.append(effect_colour(prediction.p_fake - entry.p_fake_without))
    # Each bar is as high as its name has lines, so that no two names overlap.
    lines = np.array([name.count("\n") + 1 for name in names])
    heights = 0.16 * lines + 0.1  # inches, at 8 points
    caption = textwrap.fill(plain(prediction.caption or ""), 64)
    below = 0.14 * (caption.count("\n") + 1)
    height = max(3.2 + below, heights.sum() + 0.9)
    figure = plt.figure(figsize=(10, height))
    left = figure.add_axes((0.01, 1 - 3.0 / height, 0.42, 2.7 / height))
    right = figure.add_axes(
        (0.72, 1 - (heights.sum() + 0.3) / height, 0.26, heights.sum() / height)
    )
    _draw_boxes(
        left, image, explanation, colours[len(names) - len(explanation.objects) :]
    )
    left.set_title(f"{prediction.verdict}, P(fake) = {prediction.p_fake:.3f}")
    figure.text(0.22, 1 - 3.05 / height, caption, fontsize=8, ha="center", va="top")
    centres = np.cumsum(heights) - heights / 2
    right.barh(centres, values, 0.14, color=colours)
    right.axvline(prediction.p_fake, color="black", linewidth=0.6, linestyle=":")
    right.set_yticks(centres, names, fontsize=8)
    right.set_ylim(heights.sum(), 0)
    right.set_xlim(0, 1)
    right.set_xlabel("P(fake)", fontsize=8)
    right.set_title(
        "orange pulls towards fake, blue towards real", fontsize=8, loc="right"
    )
    return figure


def _draw_boxes(axis, image, explanation: Explanation, colours: Sequence[str]) -> None:
    """The image with numbered boxes.

    Two phrases may share a box: the second is dashed, its number beside the first's.
    """
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    begun: Counter[tuple[float, ...]] = Counter()
    axis.imshow(image)
    axis.set_axis_off()
    for number, (entry, colour) in enumerate(zip(explanation.objects, colours), 1):
        x1, y1, x2, y2 = entry.object.box
        corner = (x1 * width - 0.5, y1 * height - 0.5)
        size = ((x2 - x1) * width, (y2 - y1) * height)
        before = begun[round(x1, 1), round(y1, 1)]
        begun[round(x1, 1), round(y1, 1)] += 1
        line: Any = (0, (4, 4)) if before else "-"
        box = Rectangle(corner, *size, fill=False, ec=colour, lw=2, ls=line)
        axis.add_patch(box)
        axis.annotate(
            str(number),
            corner,
            xytext=(12 * before, 0),
            textcoords="offset points",
            fontsize=8,
            color="white",
            va="top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
        )


def plain(text: str) -> str:
    """Returns text that matplotlib shows as it is: `$` would begin a formula."""
    return printable(text).replace("$", r"\$")
