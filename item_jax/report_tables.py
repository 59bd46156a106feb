"""The sections of a report that are tables and text, as HTML."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from item_jax import tables
from item_jax.files import printable
from item_jax.records import LABELS

MOST_FAILURES = 200
"""More failed images than this are counted; `scores.csv` has all."""

LIMITS = (
    "A score is a hint, not evidence: it depends on the generators the method was "
    "trained on, on the captions and boxes it is given, and on how an image was "
    "resized and compressed.",
    "The figures hold for these generators, captions, boxes and towers. They say "
    "nothing about other generators, about edited photographs, or about one image.",
    "ACC depends on the threshold and on the share of fakes; AP on the share of fakes "
    "too. Compare them only on the same images.",
)


def escaped(text: object) -> str:
    """Returns text for a page: one line, no control characters, no markup."""
    return html.escape(printable(text))


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text: Sequence[int] = (),
    total: int = 0,
) -> str:
    """Returns a table.

    Args:
      caption: what it shows, escaped text.
      head: of the columns, HTML, as all cells are.
      rows: their cells; the first of each names the row.
      text: numbers of columns that are text and not numbers.
      total: so many last rows are sums of those above.
    """
    lines = list(rows)
    own = [' class="text"' if k in text else "" for k in range(len(head))]
    top = "".join(f'<th scope="col"{c}>{cell}</th>' for c, cell in zip(own, head))
    body = []
    for number, row in enumerate(lines):
        cells = "".join(f"<td{c}>{cell}</td>" for c, cell in zip(own[1:], row[1:]))
        strong = ' class="total"' if number >= len(lines) - total else ""
        body.append(f'<tr{strong}><th scope="row">{row[0]}</th>{cells}</tr>')
    return (  # wide tables scroll, also from the keyboard
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">\n'
        "<table>\n"
        f"<caption><span>{caption}</span></caption>\n<thead><tr>{top}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(body)}\n</tbody>\n</table>\n</div>"
    )


def percent(value: float | None, ends: Sequence[float] | None = None) -> str:
    """Returns a fraction in percent, with its interval if there is one."""
    if value is None:
        return "-"
    return f"{100 * value:.2f}{_ends(ends)}"


def _ends(ends: Sequence[float] | None) -> str:
    if not ends:
        return ""
    return f" <small>{100 * ends[0]:.1f} to {100 * ends[1]:.1f}</small>"


def signed(value: float, ends: Sequence[float] | None) -> str:
    """Returns a difference in percent with its interval."""
    small = ends and f" <small>{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}</small>"
    return f"{100 * value:+.2f}{small or ''}"


def p_value(p: float | None) -> str:
    """Returns a p as text."""
    return "-" if p is None else "&lt; 0.001" if p < 0.001 else f"{p:.3f}"


def facts(results: Mapping[str, Any], version: str) -> str:
    """The header: what was evaluated."""
    counts, embedding = results["counts"], results["embedding"]
    entries = {
        "Images": f"{counts['in']:,} = {counts['done']:,} done + {counts['failed']:,} "
        "failed",
        "First method": results["method"],
        "Protocol": f"{results['protocol']['name']}: {results['protocol']['images']}",
        "Towers": f"{tables.last(embedding['tower']['name'])}, {embedding['dtype']}"
        + tables.altered(embedding),
        "Captions": (embedding["captioner"] or {}).get("id") or "unknown captioner",
        "Boxes": (embedding["grounder"] or {}).get("id") or "unknown grounder",
        "Made by": f"item_jax {version}",
    }
    pairs = (
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>"
        for name, value in entries.items()
    )
    return f'<dl class="facts">\n{chr(10).join(pairs)}\n</dl>'


def use(results: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """What the figures rest on, and what they may not be used for."""
    methods = results["methods"]
    parts = []
    if any(method["range"]["toy_world"] for method in methods.values()):
        parts.append(
            '<p class="warning"><strong>Toy world.</strong> These methods were trained '
            "on the miniature that comes with item_jax. Nothing here says how well "
            "they do on photographs.</p>"
        )
    parts += [
        f'<p class="warning">{escaped(text)}</p>'
        for text in [*results["warnings"], *notes]
    ]
    ranges: dict[str, list[str]] = {}
    for name, method in methods.items():
        ranges.setdefault(method["range"]["text"], []).append(name)
    listed = [
        f"<li><strong>{escaped(', '.join(names))}</strong>: {escaped(text)}</li>"
        for text, names in ranges.items()
    ]
    listed += [f"<li>{escaped(text)}</li>" for text in LIMITS]
    return "\n".join([*parts, f"<ul>\n{chr(10).join(listed)}\n</ul>"])


def generators(results: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """The figures per generator: the first method, then the others folded."""
    first, *others = results["methods"]
    parts = [_of_method(results, first)]
    for name in others:
        parts.append(
            f"<details><summary>{escaped(name)}</summary>\n"
            f"{_of_method(results, name)}</details>"
        )
    below = [
        *tables.explained(results),
        *tables.rests_on(results, results["methods"][first]),
        *tables.over_seeds(results["methods"][first]),
        *tables.left_out(results),
    ]
    return "\n".join(
        [*parts, *(f'<p class="note">{escaped(text)}</p>' for text in below)]
    )


def _of_method(results: Mapping[str, Any], name: str) -> str:
    method = results["methods"][name]
    shown = tables.figures_shown(results)
    head = ["Generator", "real", "fake", *(tables.SHOWN[f] for f in shown)]
    head += ["TPR at 5% FPR", "EER", "cosine, fake - real"]

    def row(label: str, counts, own, ends, cosine: str = "") -> list[str]:
        return [
            label,
            *(f"{counts[f'n_{k}']:,}" if counts else "" for k in LABELS),
            *(percent(own.get(f), (ends or {}).get(f)) for f in shown),
            percent(own.get("tpr_at_fpr_5")),
            percent(own.get("eer")),
            cosine,
        ]

    rows = []
    for group, own in method["generators"].items():
        means = results["cosine"].get(group, {})
        cosine = "-"
        if means.get("interval_95"):
            low, high = means["interval_95"]
            cosine = f"{means['difference']:+.4f} <small>{low:+.4f} to {high:+.4f}"
            cosine += "</small>"
        label = escaped(group + tables.star(results, group))
        rows.append(row(label, own, own, own.get("interval_95"), cosine))
    averages = tables.averages(results)
    for label, (figures, counts) in averages.items():
        ends = method[f"{figures}_interval_95"]
        rows.append(row(label, counts, method[figures], ends))
    base = tables.chance(results)
    if base:
        chance = base[1] | {"tpr_at_fpr_5": 0.05, "eer": 0.5}
        rows.append(row(base[0], None, chance, None))
    caption = f"{escaped(name)}: percent, 95% intervals in small figures"
    return table(caption, head, rows, total=len(averages) + bool(base))


def methods(results: Mapping[str, Any], notes: Sequence[str] = ()) -> str:
    """What the methods are, their averages, differences from the first, seeds."""
    first, *others = results["methods"]
    about = [
        f"<li><strong>{escaped(name)}</strong>: {escaped(method['about'])}</li>"
        for name, method in results["methods"].items()
        if method.get("about")
    ]
    parts = [f"<ul>\n{chr(10).join(about)}\n</ul>"] if about and others else []
    if others:
        for label, (figures, counts) in tables.averages(results).items():
            parts.append(_compared(results, label, figures, counts))
        below = tables.otherwise(results)
        parts += [f'<p class="note">{escaped(text.strip())}</p>' for text in below]
        parts.append(_paired(results, first, others))
    seeds = [n for n, m in results["methods"].items() if "seeds" in m]
    if seeds:
        parts.append(_seeds(results, seeds))
    return "\n".join(filter(None, parts))


def _compared(
    results: Mapping[str, Any], label: str, figures: str, counts: Mapping[str, Any]
) -> str:
    """The methods by one of the averages over generators."""
    shown = tables.figures_shown(results)
    marked = tables.other_trainings(results)
    head = ["Method", *(tables.SHOWN[f] for f in shown)]
    head += [f"AUC less {escaped(results['method'])}", "p (Holm)", "training AUC"]
    rows = []
    for name, method in results["methods"].items():
        macro, ends = method[figures], method[f"{figures}_interval_95"]
        own = method.get("difference", {}).get(figures, {}).get("auc")
        learnt = [auc for auc in method["train_auc"] if auc is not None]
        rows.append(
            [
                escaped(name) + "~" * (name in marked),
                *(percent(macro.get(f), ends.get(f)) for f in shown),
                signed(own["value"], own["interval_95"]) if own else "-",
                p_value(own["p_holm"]) if own else "-",
                tables.span(learnt, ".3f") if learnt else "-",
            ]
        )
    base = tables.chance(results) if figures == "macro" else None
    if base:
        rows.append([base[0], *(percent(base[1][f]) for f in shown), "", "", ""])
    caption = (
        f"{label} over {len(counts['generators'])} generators, percent; "
        f"{counts['n_real']:,} real and {counts['n_fake']:,} fake images"
    )
    return table(caption, head, rows, total=bool(base))


def _paired(results: Mapping[str, Any], first: str, others: Sequence[str]) -> str:
    """The differences of each method from the first on each generator."""
    shown = tables.figures_shown(results)
    rows = []
    for name in others:
        found = results["methods"][name].get("difference", {}).get("generators", {})
        for group, figures in found.items():
            cells = [escaped(name), escaped(group)]
            for figure in shown:
                own = figures.get(figure)
                cells.append(signed(own["value"], own["interval_95"]) if own else "-")
                cells.append(p_value(own["p_holm"]) if own else "-")
            rows.append(cells)
    if not rows:
        return ""
    head = ["Method", "Generator"]
    head += [cell for figure in shown for cell in (tables.SHOWN[figure], "p")]
    caption = f"less {escaped(first)}, on the same images, percent; p adjusted by Holm"
    return (
        "<details><summary>Paired differences on each generator</summary>\n"
        f"{table(caption, head, rows, text=(1,))}</details>"
    )


def _seeds(results: Mapping[str, Any], names: Sequence[str]) -> str:
    shown = tables.figures_shown(results)
    rows = []
    for name in names:
        seeds = results["methods"][name]["seeds"]
        spread = {**seeds["generators"], "macro average": seeds["macro"]}
        for group, figures in spread.items():
            cells = [f"{escaped(name)}, {seeds['n']} seeds", escaped(group)]
            for figure in shown:
                own = figures.get(figure)
                ends = (own or {}).get("interval_95")
                cells.append(
                    f"{percent(own['mean'])} &plusmn; {100 * own['std']:.2f}"
                    f"{_ends(ends)}"
                    if own
                    else "-"
                )
            rows.append(cells)
    head = ["Method", "Generator", *(tables.SHOWN[figure] for figure in shown)]
    caption = "mean and standard deviation over seeds; 95% over seeds and images"
    return (
        "<details><summary>Several seeds</summary>\n"
        f"{table(caption, head, rows, text=(1,))}</details>"
    )


def calibration(results: Mapping[str, Any]) -> str:
    """What the threshold costs, and how honest P(fake) is, on average."""
    figures = {
        "ACC": "acc",
        "ACC at 0.5": "acc_at_half",
        "ACC, best threshold": "oracle_acc",
        "false alarms": "transferred_fpr",
        "fakes found": "transferred_tpr",
    }
    rows = []
    for name, method in results["methods"].items():
        macro = method["macro"]
        rows.append(
            [
                escaped(name),
                escaped(tables.threshold(method)),
                *(percent(macro.get(figure)) for figure in figures.values()),
                *(
                    "-" if macro.get(figure) is None else f"{macro[figure]:.3f}"
                    for figure in ("ece_balanced", "ece_balanced_floor", "nll", "brier")
                ),
            ]
        )
    base = tables.chance(results)
    if base:
        rows.append([base[0], "", *[percent(base[1]["acc"])] * 3, *[""] * 6])
    head = ["Method", "Threshold", *figures, "ECE", "its floor", "log loss", "Brier"]
    caption = (
        f"means over generators, percent; {tables.counts_text(results)}; the best "
        "threshold is found on the test images themselves and cannot be had in use; "
        "false alarms and fakes found are those of a threshold fitted by `item-jax "
        "calibrate`; floor: the ECE of perfect probabilities on so many images"
    )
    return table(caption, head, rows, text=(1,), total=bool(base))


def failures(results: Mapping[str, Any]) -> str:
    """The images that have no score."""
    failed = results["failures"]
    rows = [[escaped(f["key"]), escaped(f["error"])] for f in failed[:MOST_FAILURES]]
    if not rows:
        return ""
    more = len(failed) - len(rows)
    note = f"; {more:,} more are in scores.csv" if more else ""
    return table(f"{len(failed):,} images{note}", ["Image", "Reason"], rows, text=(1,))


def settings(results: Mapping[str, Any]) -> str:
    """What the embeddings and the figures depend on."""
    shown = {"embedding": results["embedding"], **results["config"]}
    text = json.dumps(shown, indent=2, ensure_ascii=True)
    return (
        "<details><summary>What embeddings and figures depend on</summary>\n"
        f'<pre tabindex="0">{html.escape(text)}</pre></details>'
    )


def audit(result: Mapping[str, Any]) -> str:
    """What headers and simple pixel statistics tell of real and fake.

    Args:
      result: of `item-jax audit --json`.

    Raises:
      KeyError, TypeError: if it is another thing.
    """
    rows = []
    for name, entry in result["generators"].items():
        headers = entry["headers"]
        probed = [p for p in entry.get("pixels", {}).values() if p is not None]
        if headers is None and not probed:
            continue
        worst = max(probed, key=lambda p: p["auc"]) if probed else None
        rows.append(
            [
                escaped(name),
                *(f"{entry[label]['n']:,}" for label in LABELS),
                f"{headers['chance']:.3f}" if headers else "-",
                f"{headers['all']:.3f}" if headers else "-",
                f"{worst['auc']:.3f} <small>{worst['interval_95'][0]:.3f} to "
                f"{worst['interval_95'][1]:.3f}</small>"
                if worst
                else "-",
            ]
        )
    head = ["Generator", "real", "fake", "chance AP", "AP of headers", "AUC of pixels"]
    caption = (
        "how well real and fake files are told apart without looking at what they "
        "show: by file headers alone, and by 80 simple statistics of the "
        "pixels (of several sources of real images the one most easily told)"
    )
    warnings = [
        f'<p class="warning">{escaped(text)}</p>' for text in result["warnings"]
    ]
    return "\n".join([*warnings, table(caption, head, rows)])


def gate(result: Mapping[str, Any]) -> str:
    """Whether the fakes of the miniature are good enough to be worth detecting.

    Args:
      result: the content of `gate.json`.

    Raises:
      KeyError, TypeError: if it is another thing.
    """
    rows = []
    for name, family in result["families"].items():
        worst, auc = max(family["spectrum_auc"].items(), key=lambda pair: pair[1])
        rows.append(
            [
                escaped(name),
                percent(family["judge"]["phrase"]),
                f"{percent(auc)} <small>on {escaped(worst)}</small>",
                "holds" if family["holds"] else "does not hold",
            ]
        )
    head = ["Family", "Phrases", "Spectrum", "The gate"]
    caption = (
        "phrases: how often an independent network reads a thing of a fake as its "
        "prompt says, percent, at least 70; spectrum: AUC of a probe trained on the "
        "family's fakes, on the worst of the other families, below 80"
    )
    return table(caption, head, rows, text=(3,))
