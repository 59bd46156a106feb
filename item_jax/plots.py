"""Figures. Each function draws on one matplotlib figure and returns it."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from item_jax.embeddings import Embeddings
from item_jax.evidence import (
    EFFECTS,
    NOTICEABLE,
    OBJECTS,
    WHOLE,
    Explanation,
    ObjectEvidence,
    effect,
    logit,
    shown,
)
from item_jax.files import printable
from item_jax.fitted import FittedMethod
from item_jax.misalignment import cosine
from item_jax.records import LABELS
from item_jax.tables import cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and orange of Okabe and Ito's palette: distinguishable with any colour vision.
COLOURS = {"real": "#0072B2", "fake": "#E69F00"}

EFFECT_COLOURS = COLOURS | {"none": "#8a8f96"}
"""By what a part does to a score; the grey is visible on light and dark."""


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
    from matplotlib.figure import Figure

    columns = max(1, min(4, len(groups)))
    lines = max(1, -(-len(groups) // columns))
    figure = Figure(figsize=(3.2 * columns, 2.4 * lines + 0.2))
    axes = figure.subplots(lines, columns, sharex=True, squeeze=False)
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
        axis.legend(fontsize="small", loc="upper left")
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

    Below the name of a generator stands how many real and fake images it has.

    Args:
      results: of `item_jax.evaluate_methods`, or the parsed `results.json`.
    """
    from matplotlib.figure import Figure

    names = list(results["generators"])
    told = {n: m for n, m in results["methods"].items() if tells(m)}
    sideways = len(names) > SIDEWAYS
    thick = 0.25 + 0.12 * len(told)  # inches, of the bars of a generator
    size = (7, 1.2 + thick * len(names)) if sideways else (2.2 + 1.2 * len(names), 3.2)
    figure = Figure(figsize=size)
    axis = figure.subplots()
    width = 0.8 / max(1, len(told))
    for k, (title, method) in enumerate(told.items()):
        place = np.arange(len(names)) + (k - (len(told) - 1) / 2) * width
        figures = [method["generators"][name] for name in names]
        auc = np.array([np.nan if f["auc"] is None else f["auc"] for f in figures])
        ends = [(f.get("interval_95") or {}).get("auc") for f in figures]
        error = np.array(
            [(a - e[0], e[1] - a) if e else (0, 0) for a, e in zip(auc, ends)]
        ).T
        error = np.maximum(error, 0)  # an interval need not contain the figure itself
        options: dict[str, Any] = {"label": plain(cut(title)), "capsize": 2}
        if sideways:
            axis.barh(place, auc, 0.9 * width, xerr=error, **options)
        else:
            axis.bar(place, auc, 0.9 * width, yerr=error, **options)
    style: dict[str, Any] = {"color": "grey", "linewidth": 0.8, "linestyle": ":"}
    style["label"] = "chance"
    labels = [
        f"{plain(cut(name))}{' ' if sideways else chr(10)}"
        f"({own['n_real']:,} + {own['n_fake']:,})"
        for name, own in results["generators"].items()
    ]
    counted = "images: real + fake, in brackets"
    if sideways:
        axis.axvline(0.5, **style)
        axis.set_title(counted, fontsize="small")
        axis.set_yticks(np.arange(len(names)), labels)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(0, 1.02)
        axis.set_xlabel("AUC")
    else:
        axis.axhline(0.5, **style)
        axis.set_xlabel(counted, fontsize="small")
        axis.set_xticks(np.arange(len(names)), labels)
        axis.set_ylim(0, 1.02)
        axis.set_ylabel("AUC")
    if told:
        axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    return figure


def tells(method: Mapping[str, Any]) -> bool:
    """Whether a method of `results.json` tells anything: `constant` does not."""
    return any(f["auc"] not in (None, 0.5) for f in method["generators"].values())


COLUMN = 4.2
"""Inches of the image's column in a drawing of evidence."""

LINE = 0.17
"""Inches of a line of its text."""

TOLD = {
    "fake": f"{EFFECTS['fake']}: without it the score falls",
    "real": f"{EFFECTS['real']}: without it the score rises",
    "none": f"{EFFECTS['none']}: the odds change by less than {NOTICEABLE:.0%}",
}
"""What a colour of the evidence means."""


def evidence(
    image: np.ndarray, explanation: Explanation, method: FittedMethod | None = None
) -> Figure:
    """An image with its objects' boxes, and the score without each of its parts.

    A bar leads from the score as it is to the score without a part. Boxes and bars have
    the colour of what the part does to the score (`item_jax.evidence.effect`). The axis
    is even in the logit, so that a change near 0 or 1 is seen. Long phrases are
    wrapped, not cut.

    Args:
      image: uint8 `[H, W, 3]`, as `item_jax.images.read_image` returns it.
      explanation: of `ItemDetector.explain`, of an image that could be scored.
      method: that gave the score; its threshold and name are drawn, and whether it
        knows only the toy world.

    Raises:
      ValueError: if the image could not be scored.
    """
    from matplotlib.figure import Figure

    prediction = explanation.prediction
    p_fake = prediction.p_fake
    if p_fake is None:
        raise ValueError(f"{prediction.key}: nothing to draw: {prediction.error}")
    objects = shown(explanation.objects)
    parts = [
        (f"without {name}", value)
        for name, value in (
            (WHOLE, explanation.p_fake_without_global),
            (OBJECTS, explanation.p_fake_without_objects if objects else None),
        )
        if value is not None
    ]
    for number, entry in enumerate(objects, start=1):
        name = f"without {number}: {plain(entry.object.phrase)}"
        # The no-break space keeps the cosine on one line.
        parts.append((f"{name} (cos\xa0{entry.cosine:+.2f})", entry.p_fake_without))
    names = [textwrap.fill(name, 44) for name, _ in parts]
    values = [value for _, value in parts]
    effects = [effect(p_fake, value) for value in values]
    # Each row is as high as its name has lines, so that no two names overlap.
    rows = np.array([LINE * (name.count("\n") + 1) + 0.12 for name in names])
    caption = textwrap.fill(plain(prediction.caption or ""), 52)
    footer = _footer(prediction.key, method)

    # Inches from the left and from the top.
    tall, wide = image.shape[:2]
    scale = min(COLUMN / wide, 1.15 * COLUMN / tall)
    above, below = 0.45, LINE * (footer.count("\n") + 1) + 0.2
    bottom = above + scale * tall + 0.15 + 0.18 * (caption.count("\n") + 1)
    begin = above + 0.45  # of the bars: two labels stand above
    end = begin + rows.sum()
    height = max(bottom, end + 0.6 + LINE * len(TOLD)) + below + 0.1
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    start = COLUMN + 0.45 + 0.068 * longest
    width = start + 4.2
    figure = Figure(figsize=(width, height))

    def place(x: float, y: float, w: float, h: float) -> Any:
        return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))

    left = place(0.15 + (COLUMN - scale * wide) / 2, above, scale * wide, scale * tall)
    right = place(start, begin, 3.5, max(rows.sum(), 0.3))
    _draw_boxes(left, image, objects, effects[len(effects) - len(objects) :])
    middle = (0.15 + COLUMN / 2) / width
    title = f"{prediction.verdict}, P(fake) = {p_fake:.3f}"
    top: dict[str, Any] = {"ha": "center", "va": "top"}
    figure.text(middle, 1 - 0.1 / height, title, fontsize=14, weight="bold", **top)
    y = 1 - (above + scale * tall + 0.1) / height
    figure.text(middle, y, caption, fontsize=10.5, **top)
    figure.text(0.15 / width, 0.1 / height, footer, fontsize=8.5, color="dimgrey")
    if parts:
        _draw_bars(right, p_fake, names, values, effects, rows)
    threshold = None if method is None else method.threshold
    _draw_scale(right, p_fake, values, threshold)
    return figure


def _footer(key: str, method: FittedMethod | None) -> str:
    text = plain(key)
    if method is not None:
        text += f"  |  method {plain(method.name)}"
        if method.range()["toy_world"]:
            text += "  |  toy world: says nothing about photographs"
    return textwrap.fill(text, 110)


def _draw_bars(axis, p_fake: float, names, values, effects, rows: np.ndarray) -> None:
    """A bar from the score to each value, with the value at its end."""
    from matplotlib.patches import Patch

    centres = np.cumsum(rows) - rows / 2
    begin = logit(p_fake)
    ends = np.array([logit(value) for value in values])
    colours = [EFFECT_COLOURS[name] for name in effects]
    axis.barh(centres, ends - begin, 0.16, left=begin, color=colours)
    axis.scatter(ends, centres, 30, color=colours, zorder=3)
    for centre, end, value in zip(centres, ends, values):
        axis.annotate(
            _digits(value),
            (end, centre),
            xytext=(7 if end >= begin else -7, 0),
            textcoords="offset points",
            fontsize=9,
            va="center",
            ha="left" if end >= begin else "right",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    axis.set_yticks(centres, names, fontsize=9.5, ha="right")
    axis.set_ylim(rows.sum(), 0)
    axis.legend(
        handles=[Patch(color=EFFECT_COLOURS[name], label=TOLD[name]) for name in TOLD],
        fontsize=9,
        frameon=False,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.5 / rows.sum()),
        borderpad=0,
        borderaxespad=0,
    )


def _digits(p: float) -> str:
    """Three decimals, more near 0 and 1."""
    return f"{p:.3f}" if 0.001 < p < 0.999 else f"{p:.4g}"


def _draw_scale(axis, p_fake: float, values, threshold: float | None) -> None:
    """The lines of score and threshold, and an axis of logits that reads P(fake)."""
    axis.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)
    if not values:
        axis.set_yticks([])
    lines = [(p_fake, f"score {_digits(p_fake)}", "-")]
    if threshold is not None:
        lines.append((threshold, f"threshold {threshold:.4g}", ":"))
    begin = logit(p_fake)
    marked = [logit(p) for p in (*values, *(line[0] for line in lines))]
    low, high = min(marked), max(marked)
    margin = max(0.25 * (high - low), 1 - (high - low) / 2)
    axis.set_xlim(low - margin, high + margin)
    for place, (p, label, style) in enumerate(lines):
        # Where the two are near each other, the second label stands above the first.
        near = abs(logit(p) - begin) < 0.35 * (high - low + 2 * margin)
        axis.axvline(logit(p), color="black", linewidth=1, linestyle=style, zorder=0)
        axis.annotate(
            label,
            (logit(p), 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 18 if place and near else 4),
            textcoords="offset points",
            fontsize=9.5,
            ha="center",
        )
    ticks = [p for p in TICKS if low - margin < logit(p) < high + margin]
    gap = (high - low + 2 * margin) / 7
    kept: list[float] = []
    for p in sorted(ticks, key=TICKS.index):
        if all(abs(logit(p) - logit(other)) > gap for other in kept):
            kept.append(p)
    axis.set_xticks([logit(p) for p in kept], [f"{p:g}" for p in kept], fontsize=9)
    axis.set_xlabel("P(fake), on the scale of its logit", fontsize=9.5, labelpad=1)


TICKS = [0.5, 0.1, 0.9, 0.01, 0.99, 0.001, 0.999, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6]
TICKS += [0.05, 0.95, 0.02, 0.98, 0.005, 0.995, 1e-4, 0.9999, 1e-5, 0.99999]
"""Values of P(fake) that an axis may name, the most wanted first."""


def _draw_boxes(
    axis, image, objects: Sequence[ObjectEvidence], effects: Sequence[str]
) -> None:
    """The image with numbered boxes.

    Two phrases may share a box: the second is dashed, its number beside the first's.
    """
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    begun: Counter[tuple[float, ...]] = Counter()
    axis.imshow(image, aspect="auto")
    axis.set_axis_off()
    for number, (entry, name) in enumerate(zip(objects, effects), 1):
        x1, y1, x2, y2 = entry.object.box
        corner = (x1 * width - 0.5, y1 * height - 0.5)
        size = ((x2 - x1) * width, (y2 - y1) * height)
        before = begun[round(x1, 1), round(y1, 1)]
        begun[round(x1, 1), round(y1, 1)] += 1
        line: Any = (0, (4, 4)) if before else "-"
        box = Rectangle(
            corner, *size, fill=False, ec=EFFECT_COLOURS[name], lw=2.5, ls=line
        )
        axis.add_patch(box)
        axis.annotate(
            str(number),
            corner,
            xytext=(2 + 15 * before, -2),
            textcoords="offset points",
            fontsize=9.5,
            color="black",
            va="top",
            bbox={"facecolor": "white", "edgecolor": EFFECT_COLOURS[name], "pad": 1.5},
        )


def plain(text: str) -> str:
    """Returns text that matplotlib shows as it is: `$` would begin a formula."""
    return printable(text).replace("$", r"\$")
