"""`report.html`: what an evaluation found, in one file that needs nothing else.

Tables and figures are made here, in Python; the page's own script only filters images.
It asks the network for nothing, and its content security policy would not let it. What
others wrote (keys, captions, phrases, names) is escaped once, where it enters the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from item_jax import (
    __version__,
    experiments,
    figures,
    files,
    gallery,
    report_tables,
)
from item_jax.experiments import output
from item_jax.experiments.artefact import Artefact
from item_jax.report_tables import escaped
from item_jax.results import Results

CAPTIONS = {
    "auc": "AUC per generator with its 95% interval, and how many real and fake images "
    "there are. 0.5 is chance.",
    "roc": "ROC of {first}, a line a generator. In the legend AUC, as in the table; "
    "the mean is the macro average.",
    "precision_recall": "Precision and recall of {first}, a line a generator. In the "
    "legend AP, as in the table; the mean is the macro average. Chance is the share of "
    "fakes.",
    "methods_roc": "ROC of each method, averaged over generators. In the legend the "
    "macro average of AUC, as in the table.",
    "methods_precision_recall": "Precision and recall of each method, averaged over "
    "generators. In the legend the macro average of AP, as in the table.",
    "reliability": "The share of fakes among images of a score. On the diagonal a "
    "score is a probability. Both classes count alike. The ECE in the legend is of the "
    "images of all generators together; the table below has the mean over generators.",
    "cosines": "Cosine of image and caption (ITEM Fig. 1): how well real and fake "
    "images match their captions.",
}

WIDE = ("auc", "cosines")
"""Figures that may take the width of the page."""

INK = "#010203"
"""What is drawn in it takes the colour of the page's text, light or dark."""

BEFORE = (
    ("use", "What it is good for", report_tables.use),
    ("results", "Results", report_tables.generators),
    ("methods", "Methods compared", report_tables.methods),
)
"""Sections before the images; most readers go no further than those."""


def write(
    path: str | Path,
    results: Results,
    *,
    title: str = "",
    pictures: Mapping[int, gallery.Picture] | None = None,
    audit: Mapping[str, Any] | None = None,
    gate: Mapping[str, Any] | None = None,
    paper: Mapping[str, tuple[str, Artefact]] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes the report.

    Args:
      path: of the HTML file.
      results: of `item_jax.results.read`.
      title: of the page; default: by the first method.
      pictures: of `item_jax.gallery.pictures`, by row number.
      audit: what `item-jax audit --json` wrote.
      gate: what `scripts/miniature/gate.py` wrote.
      paper: experiments by name, each its title and artefact, of
        `item_jax.experiments.output.read`.
      notes: what a reader should know besides the warnings of the evaluation, such as
        why there are no pictures.

    Raises:
      ValueError: if the audit or the gate is not one.
    """
    shown = pictures or {}
    summary = results.summary
    before = [(name, heading, made(summary, notes)) for name, heading, made in BEFORE]
    after = [
        ("figures", "Figures", _figures(results)),
        ("threshold", "Thresholds and calibration", report_tables.calibration(summary)),
    ]
    if paper:
        after.append(("paper", "Experiments", _experiments(paper)))
    if audit is not None:
        body = _checked(report_tables.audit, audit, "`item-jax audit --json`")
        after.append(("audit", "What the files give away", body))
    if gate is not None:
        body = _checked(report_tables.gate, gate, "scripts/miniature/gate.py")
        after.append(("gate", "Are the fakes worth detecting?", body))
    after += [
        ("failures", "Images that failed", report_tables.failures(summary)),
        ("settings", "Settings", report_tables.settings(summary)),
    ]
    before, after = ([s for s in part if s[2]] for part in (before, after))
    links = [*before, ("gallery", "Images", ""), *after]
    script = _asset("report.js")
    page = Template(_asset("report.html")).substitute(
        title=escaped(title or f"Evaluation of {summary['method']}"),
        style=_asset("report.css"),
        script=script,
        # The browser hashes what stands between the tags.
        script_hash=f"sha256-{_base64(hashlib.sha256(script.encode()).digest())}",
        facts=report_tables.facts(summary, __version__),
        contents="\n".join(
            f'<li><a href="#{name}">{heading}</a></li>' for name, heading, _ in links
        ),
        before="\n".join(_section(*section) for section in before),
        after="\n".join(_section(*section) for section in after),
        pictures=escaped(
            f"{sum(p.jpeg is not None for p in shown.values()):,} of "
            f"{len(results.rows):,} images have a picture here: the surest and the "
            "least sure of each method and generator."
            + (
                " Scores, verdicts and evidence are of the first training seed."
                if any("seeds" in own for own in summary["methods"].values())
                else ""
            )
        ),
        data=_json(gallery.data(results, shown)),
    )
    with files.atomic_file(path) as f:
        f.write(page)


def _asset(name: str) -> str:
    return resources.files("item_jax").joinpath("assets", name).read_text("utf-8")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _json(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _section(name: str, heading: str, content: str) -> str:
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{heading}</h2>\n{content}\n</section>'
    )


def _checked(body: Any, content: Mapping[str, Any], writer: str) -> str:
    try:
        return body(content)
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise ValueError(f"not what {writer} writes: {type(e).__name__}: {e}") from e


def _experiments(paper: Mapping[str, tuple[str, Artefact]]) -> str:
    """The drawings of experiments, with what they rest on and lack."""
    import matplotlib

    parts = []
    for name, (title, artefact) in paper.items():
        with matplotlib.rc_context(_style()):  # type: ignore[arg-type]
            figure = experiments.get(name).draw(artefact)
            drawing = svg(figure, title)
            start = _wide(figure.get_size_inches()[0])
        lines = output.notes(artefact)
        lines += [f"missing: {m.what}: {m.why}" for m in artefact.missing]
        listed = "\n".join(f"<li>{escaped(line)}</li>" for line in lines)
        parts.append(
            f"<h3>{escaped(title)}</h3>\n{start}{drawing}</figure>\n"
            f"<details><summary>What it rests on</summary>\n<ul>{listed}</ul></details>"
        )
    return "\n".join(parts)


def _figures(results: Results) -> str:
    first = results.summary["method"]
    drawn = []
    for name, (image, inches) in _drawings(results).items():
        caption = escaped(CAPTIONS[name].format(first=first))
        start = _wide(inches) if name in WIDE else "<figure>"
        drawn.append(f"{start}{image}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="figures">\n{chr(10).join(drawn)}\n</div>' if drawn else ""


def _wide(inches: float) -> str:
    """The start of a figure that may take the width of the page; a phone scrolls it."""
    return f'<figure class="wide" tabindex="0" style="--inches: {inches:.1f}">'


def _style() -> dict[str, Any]:
    """Settings of matplotlib for drawings in the colours of the page."""
    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color")
    style: dict[str, Any] = dict.fromkeys((*ink, "ytick.color"), INK)
    style |= {"axes.facecolor": "none", "legend.facecolor": "none"}
    style |= {"legend.edgecolor": "none", "legend.framealpha": 0.0}
    # Text stays text, in the page's font; equal files give equal pages.
    return style | {"svg.fonttype": "none", "svg.hashsalt": "item_jax"}


def _drawings(results: Results) -> dict[str, tuple[str, float]]:
    """The figures as SVG, with their widths in inches."""
    import matplotlib

    with matplotlib.rc_context(_style()):  # type: ignore[arg-type]
        drawings = {}
        for name, figure in figures.of_results(results).items():
            drawing = svg(figure, CAPTIONS[name].split(".")[0])
            drawings[name] = drawing, figure.get_size_inches()[0]
    return drawings


def svg(figure: Any, label: str) -> str:
    """Returns a matplotlib figure as an `<svg>` element for a page.

    Args:
      figure: with `INK` for what takes the colour of the text; black does so too.
      label: what a screen reader says.
    """
    file = io.StringIO()
    figure.savefig(
        file, format="svg", facecolor="none", metadata={"Date": None}, dpi=150
    )
    text = file.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Names of groups come again in every figure of a page, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(f"{INK}|#000000", "currentColor", text)
    text = re.sub(r"<svg [^>]*?viewBox=", "<svg viewBox=", text, count=1)
    text = re.sub(r'font: ([^;"]*?)px [^;"]*', r"font-size: \1px", text)
    head = f'<svg role="img" aria-label="{html.escape(label)}" '
    return text.replace("<svg ", head, 1)
