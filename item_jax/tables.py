"""Results as tables for people, 80 columns wide; figures in percent."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from item_jax import files
from item_jax.config import leaves
from item_jax.protocol import generators_text

WIDE = 80
"""Columns of a table."""

WIDEST = 24
"""Longer names of generators and methods are cut in figures; tables cut sooner."""

SHOWN = {
    "acc": "ACC",
    "balanced_acc": "bal.ACC",
    "ap": "AP",
    "ap_balanced": "AP(1/2)",
    "auc": "AUC",
}
"""The figures of a table by what they are called."""


def table(results: Mapping[str, Any]) -> str:
    """Returns the results of `item_jax.evaluate_methods` as text.

    A line for each generator, their averages, what chance gives, a line for each other
    method, and notes on what the figures rest on.
    """
    first = results["method"]
    others = [name for name in results["methods"] if name != first]
    lines = _generators(results)
    if others:
        lines += ["", *_others(results, others)]
    cosines = _cosines(results)
    if cosines:
        lines += ["", *cosines]
    notes = [_wrapped(note) for note in _notes(results)]
    return "\n".join([*lines, "", *notes])


def _wrapped(note: str) -> str:
    start = note[: len(note) - len(note.lstrip())]
    return textwrap.fill(
        note.strip(),
        WIDE,
        initial_indent=start,
        subsequent_indent=start + "  ",
        break_long_words=False,  # keys and paths are to be copied
        break_on_hyphens=False,
    )


def figures_shown(results: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the figures of a table.

    Balanced accuracy, and AP as it would be with as many real images as fakes, stand
    beside ACC and AP where a generator has not as many of each.
    """
    if all(own["n_real"] == own["n_fake"] for own in results["generators"].values()):
        return "acc", "ap", "auc"
    return tuple(SHOWN)


def averages(results: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Returns the averages of a table by label.

    Returns:
      {label: (name of the figures in a method's results, what they are over)}; that of
      the unseen generators where some are unseen and some are not.
    """
    found = {"macro average": ("macro", results["average"])}
    if 0 < len(results["unseen"]) < len(results["average"]["generators"]):
        found["macro, unseen"] = ("macro_unseen", results["average_unseen"])
    return found


def chance(results: Mapping[str, Any]) -> tuple[str, dict[str, float]] | None:
    """Returns what no detector has to be better than, averaged over generators.

    ACC is that of calling every image by the more frequent label, AP the share of
    fakes, and the others are one half.

    Returns:
      A label and the figures of `SHOWN`; None without an average.
    """
    macro = results["macro"]
    if not results["average"]["generators"]:
        return None
    own = [results["generators"][name] for name in results["average"]["generators"]]
    classes = {each["majority_class"] for each in own} - {""}
    label = "chance"
    if classes:
        label = "majority class"
        if len(classes) == 1:
            label = f"always {classes.pop()}"
    half = dict.fromkeys(("balanced_acc", "ap_balanced", "auc"), 0.5)
    return label, {"acc": macro["majority"], "ap": macro["ap_chance"], **half}


def star(results: Mapping[str, Any], group: str) -> str:
    """Returns `*` for a generator that a method here was trained on."""
    return "*" if results["trained_on"].get(group) else ""


def counts_text(results: Mapping[str, Any]) -> str:
    """Returns how many images of each label a generator has, for a figure."""
    parts = []
    for label in ("real", "fake"):
        counts = {own[f"n_{label}"] for own in results["generators"].values()} or {0}
        parts.append(f"{span(counts, ',')} {label}")
    each = " a generator" if len(results["generators"]) > 1 else ""
    return f"{' + '.join(parts)} images{each}"


def _generators(results: Mapping[str, Any]) -> list[str]:
    method = results["methods"][results["method"]]
    shown = figures_shown(results)
    most = max(
        [results["average"]["n"], *(s["n"] for s in results["generators"].values())]
    )
    count = max(6, len(str(most)) + 1)
    figures = {name: len(SHOWN[name]) + 1 for name in shown}
    figures = {name: max(7, width) for name, width in figures.items()}
    widest = WIDE - 2 * count - sum(figures.values()) - len("  95.1-100.0")
    base = chance(results)
    labels = [*averages(results), *([base[0]] if base else [])]
    names = {
        name: cut(name, widest - 2) + star(results, name)
        for name in method["generators"]
    }
    wide = _width([*names.values(), *labels, "generator"])
    heads = "".join(f"{SHOWN[name]:>{width}}" for name, width in figures.items())
    lines = [f"{'generator':<{wide}}{'real':>{count}}{'fake':>{count}}{heads}  AUC 95%"]

    def line(name: str, counts, own, interval) -> str:
        n = "".join(f"{counts.get(k, ''):>{count}}" for k in ("n_real", "n_fake"))
        values = "".join(_percent(own.get(k), width) for k, width in figures.items())
        return f"{name:<{wide}}{n}{values}  {_interval(interval)}".rstrip()

    for name, label in names.items():
        own = results["generators"][name]
        lines.append(line(label, own, own, own.get("interval_95", {}).get("auc")))
    for label, (name, counts) in averages(results).items():
        interval = method[f"{name}_interval_95"].get("auc")
        lines.append(line(label, counts, method[name], interval))
    if base:
        lines.append(line(base[0], {}, base[1], None))
    return lines


def _others(results: Mapping[str, Any], others: Sequence[str]) -> list[str]:
    """A line for each other method: its average and how it differs from the first."""
    marked = other_trainings(results)
    shown = {name: cut(name, 16) + "~" * (name in marked) for name in others}
    wide = _width([*shown.values(), "other method"])
    first = cut(results["method"], 10)
    lines = [
        f"{'other method':<{wide}}{'bal.ACC':>8}{'AUC':>7}  {'95%':<10}  "
        f"{f'AUC less {first}, 95%':<23}  p"
    ]
    for name in others:
        method = results["methods"][name]
        interval = method.get("macro_interval_95", {}).get("auc")
        own = _percent(method["macro"].get("balanced_acc"), 8)
        own += _percent(method["macro"].get("auc"), 7)
        line = f"{shown[name]:<{wide}}{own}  {_interval(interval):<10}"
        found = method.get("difference", {}).get("macro", {}).get("auc")
        if found:
            low, high = (100 * end for end in found["interval_95"])
            less = f"{100 * found['value']:+.2f} ({low:+.1f} to {high:+.1f})"
            line += f"  {less:<23}  {_p(found['p_holm'])}"
        lines.append(line.rstrip())
    return lines


def _cosines(results: Mapping[str, Any]) -> list[str]:
    """How the captions of fakes fit, compared with those of real images."""
    found = {n: m for n, m in results["cosine"].items() if "direction" in m}
    if not found:
        return []
    names = {name: cut(name) for name in found}
    wide = _width([*names.values(), "generator"])
    lines = [f"{'generator':<{wide}}cosine of image and caption, fake - real, 95%"]
    for name, means in found.items():
        value, (low, high) = means["difference"], means["interval_95"]
        lines.append(f"{names[name]:<{wide}}{value:+.4f} ({low:+.4f} to {high:+.4f})")
    return lines


def _p(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def other_trainings(results: Mapping[str, Any]) -> dict[str, str]:
    """What methods were trained on, of those whose training is not the first one's.

    That is other images, or another number of seeds where both have seeds.
    """
    found = {}
    own, seeds = _training(results, results["method"])
    for name in results["methods"]:
        images, count = _training(results, name)
        if images != own or (seeds and count and seeds != count):
            found[name] = _training_text(results, name)
    return found


def _training(results: Mapping[str, Any], name: str) -> tuple[list[Any], int | None]:
    """The images a method was trained on, by number and origin; its seeds, if any."""
    training = results["methods"][name]["config"]["training"]
    images = [training[k] for k in ("real", "fake", "generators", "benchmarks")]
    train = (training.get("settings") or {}).get("train")
    seeds = train.get("seeds") if isinstance(train, Mapping) else None
    return images, seeds if isinstance(seeds, int) else None


def _training_text(results: Mapping[str, Any], name: str) -> str:
    (real, fake, generators, _), seeds = _training(results, name)
    if not real + fake:
        return "images that are not known here"
    text = f"{real:,} real + {fake:,} fake of {generators_text(generators)}"
    return f"{text}, {seeds} seed{'s' if seeds > 1 else ''}" if seeds else text


def _width(names: Sequence[str]) -> int:
    return max(len(name) for name in names) + 1


def cut(name: str, most: int = WIDEST) -> str:
    """Returns a name that fits into a table or figure.

    What is cut is in the middle, as in `stab...sion_v_1_5`: names that begin alike
    mostly differ at their ends.
    """
    name = files.printable(name)
    if len(name) <= most:
        return name
    start = (most - 3) // 3
    return f"{name[:start]}...{name[len(name) - (most - 3 - start) :]}"


def span(values: Iterable[float], form: str) -> str:
    """Returns the least and the largest value as text, once if they look the same."""
    known = list(values)
    ends = [format(value, form) for value in (min(known), max(known))]
    return " to ".join(dict.fromkeys(ends))


def _percent(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{100 * value:{width}.2f}"


def _interval(ends: Sequence[float] | None) -> str:
    return f"{100 * ends[0]:.1f}-{100 * ends[1]:.1f}" if ends else ""


def _notes(results: Mapping[str, Any]) -> list[str]:
    """What the figures of a table rest on."""
    method = results["methods"][results["method"]]
    counts, embedding = results["counts"], results["embedding"]
    tower = last(embedding["tower"]["name"])
    notes = [
        *explained(results),
        *rests_on(results, method),
        *over_seeds(method),
        *otherwise(results),
        f"protocol {results['protocol']['name']}: {results['protocol']['images']}",
        f"{counts['in']} images = {counts['done']} done + {counts['failed']} failed; "
        f"{described(method['config'])}, towers {tower}, "
        f"{embedding['dtype']}{altered(embedding)}",
        f"{results['method']}: {method['range']['text']}",
    ]
    notes += [
        f"  failed: {files.printable(f['key'])}: {files.printable(f['error'])}"
        for f in results["failures"][:5]
    ]
    if len(results["failures"]) > 5:
        notes.append(f"  ... and {len(results['failures']) - 5} more in scores.csv")
    notes += left_out(results)
    return notes + [f"warning: {warning}" for warning in results["warnings"]]


def explained(results: Mapping[str, Any]) -> list[str]:
    """Says what the columns, marks and averages of a table are."""
    method = results["methods"][results["method"]]
    notes = [f"percent; ACC at P(fake) > {threshold(method)}"]
    if len(figures_shown(results)) > 3:
        notes.append(
            "bal.ACC: the mean of the accuracies on real and on fake images; AP(1/2): "
            "AP as if there were as many real images as fakes"
        )
    average = results["average"]["generators"]
    marked = "* this generator was trained on"
    if len(results["methods"]) > 1:
        marked += ", by at least one of the methods"
    if not results["unseen"] and average:
        notes.append(f"{marked}; none of them is unseen")
    elif any(results["trained_on"].values()):
        notes.append(f"{marked}; macro, unseen: the average without those")
    shared = sum(own["n"] for own in results["generators"].values())
    if shared > results["average"]["n"] and len(average) == len(results["generators"]):
        notes.append("images that generators share are counted once in an average")
    return notes


def over_seeds(method: Mapping[str, Any]) -> list[str]:
    """Says how far training seeds are from each other, of a method that has several."""
    if "seeds" not in method:
        return []
    count = method["seeds"]["n"]
    start = f"means over {count} training seeds; AUC, mean and standard deviation:"
    spread = {**method["seeds"]["generators"], "macro": method["seeds"]["macro"]}
    told = [
        f"{cut(name)} {100 * f['auc']['mean']:.2f} +- {100 * f['auc']['std']:.2f}"
        for name, f in spread.items()
        if "auc" in f
    ]
    return [f"{start} {'; '.join(told) or 'undefined on every generator'}"]


def otherwise(results: Mapping[str, Any]) -> list[str]:
    """Which methods were trained differently from the first, and on what."""
    found = other_trainings(results)
    if not found:
        return []
    first = results["method"]
    return [
        f"~ trained differently from {cut(first)} ({_training_text(results, first)}): "
        "the difference is not of the methods alone",
        *(f"  {cut(name)}: trained on {text}" for name, text in found.items()),
    ]


def left_out(results: Mapping[str, Any]) -> list[str]:
    """Which figures cannot be computed, a line for each method and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, method in results["methods"].items():
        for group, why in method["left_out"].items():
            if group not in results["single_class"]:  # which has a warning
                found.setdefault((name, why), []).append(group)
    return [
        f"left out: AP and AUC of {name} on {', '.join(groups)}: {why}"
        for (name, why), groups in found.items()
    ]


def threshold(method: Mapping[str, Any]) -> str:
    """The threshold, and where it comes from if it was calibrated."""
    c = method["calibration"]
    if not c:
        return str(method["threshold"])
    text = span(method["thresholds"], ".4f")
    each = " (each seed its own)" if " to " in text else ""
    return (
        f"{text}{each}, fitted for {100 * c['fpr']:g}% false alarms on "
        f"{c['n_real']} real images of split {c['split']!r}"
    )


def rests_on(results: Mapping[str, Any], method: Mapping[str, Any]) -> list[str]:
    """What is in the intervals, and the generator with the lowest AUC."""
    if not method["covers"]:
        return []
    notes = [f"95%: {method['covers']}"]
    if any("difference" in other for other in results["methods"].values()):
        notes[0] += "; p: adjusted by Holm"
    least = method["minimum"].get("auc")
    if least and len(results["generators"]) > 1:
        notes.append(
            f"lowest AUC {100 * least['value']:.2f} "
            f"({_interval(least['interval_95'])}), on {cut(least['generator'])}"
        )
    return notes


def last(name: str) -> str:
    """Returns a folder by its last part: where it lies is nobody else's business."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith("/") else name


def described(config: Mapping[str, Any]) -> str:
    settings = leaves(config["training"]["settings"])
    name = settings.get("misalignment.name")
    method = f"method {config['method']!r}"
    if not name:
        return method
    levels = ""
    if settings.get("misalignment.levels") == "concat":
        levels = ", levels side by side"
    return f"{method}, misalignment {name!r}{levels}"


def altered(embedding: Mapping[str, Any]) -> str:
    """What was done to the images before they were embedded, if anything."""
    altered = ""
    perturb, neutralise = embedding["perturb"], embedding["neutralise"]
    if perturb["name"] != "none":
        altered += f", perturbation {perturb['name']}:{perturb['severity']}"
    if neutralise["quality"] or neutralise["size"]:
        altered += (
            f", neutralised (JPEG quality {neutralise['quality'] or '-'}, side "
            f"{neutralise['size'] or '-'})"
        )
    return altered
