"""Results as tables for people, at most 100 columns wide; figures in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from item_jax import files
from item_jax.config import leaves
from item_jax.protocol import generators_text
from item_jax.statistics import FEWEST

WIDEST = 24
"""Longer names of generators and methods are cut."""


def table(results: Mapping[str, Any]) -> str:
    """Returns the results of `item_jax.evaluate_methods` as text.

    A line for each generator, their average, a line for each other method, and notes
    on what the figures rest on.
    """
    first = results["method"]
    others = [name for name in results["methods"] if name != first]
    lines = _generators(results)
    if others:
        lines += ["", *_others(results, others)]
    return "\n".join([*lines, "", *_notes(results)])


def _generators(results: Mapping[str, Any]) -> list[str]:
    method = results["methods"][results["method"]]
    trained = set(method["config"]["training"]["generators"])
    names = {
        name: name + ("*" if name.split("/")[-1] in trained else "")
        for name in results["generators"]
    }
    wide = _width([*map(cut, names.values()), "macro average"])
    title = f"{'generator':<{wide}}{'n':>8}{'ACC':>8}{'AP':>8}{'AUC':>8}  {'95%':<11}"
    cosine = results["cosine"]
    directed = any("direction" in means for means in cosine.values())
    lines = [(title + ("  cosine, fake - real" if directed else "")).rstrip()]

    def line(name: str, n: int, figures, interval, direction: str = "") -> str:
        own = "".join(_percent(figures.get(k), 8) for k in ("acc", "ap", "auc"))
        start = f"{cut(name):<{wide}}{n:>8}{own}  {_interval(interval):<11}"
        return f"{start}  {direction}".rstrip()

    for name, shown in names.items():
        summary = results["generators"][name]
        interval = summary.get("interval_95", {}).get("auc")
        lines.append(
            line(shown, summary["n"], summary, interval, _direction(cosine[name]))
        )
    total = sum(s["n"] for s in results["generators"].values())
    interval = method.get("macro_interval_95", {}).get("auc")
    lines.append(line("macro average", total, results["macro"], interval))
    return lines


def _others(results: Mapping[str, Any], others: Sequence[str]) -> list[str]:
    """A line for each other method: its average and how it differs from the first."""
    marked = other_trainings(results)
    shown = {name: cut(name) + "~" * (name in marked) for name in others}
    wide = _width([*shown.values(), "other method"])
    first = cut(results["method"])
    lines = [
        f"{'other method':<{wide}}{'macro AUC':>10}  {'95%':<11}  less {first}, 95%"
    ]
    for name in others:
        method = results["methods"][name]
        interval = method.get("macro_interval_95", {}).get("auc")
        auc = _percent(method["macro"].get("auc"), 10)
        line = f"{shown[name]:<{wide}}{auc}  {_interval(interval):<11}"
        found = method.get("difference", {}).get("macro", {}).get("auc")
        if found:
            line += f"  {100 * found['value']:+.2f}"
            if found["interval_95"]:
                low, high = (100 * end for end in found["interval_95"])
                line += f" ({low:+.1f} to {high:+.1f})"
            if found["p_holm"] is not None:
                line += f", {_p(found['p_holm'])}"
        lines.append(line.rstrip())
    return lines


def _direction(means: Mapping[str, Any]) -> str:
    if "direction" not in means:
        return ""
    low, high = means["interval_95"]
    return f"{means['difference']:+.4f} ({low:+.4f} to {high:+.4f})"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


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


def cut(name: str) -> str:
    """Returns a name that fits into a table or figure."""
    name = files.printable(name)
    return name if len(name) <= WIDEST else name[: WIDEST - 3] + "..."


def _percent(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{100 * value:{width}.2f}"


def _interval(ends: Sequence[float] | None) -> str:
    return f"{100 * ends[0]:.1f}-{100 * ends[1]:.1f}" if ends else ""


def _notes(results: Mapping[str, Any]) -> list[str]:
    """What the figures of a table rest on."""
    method = results["methods"][results["method"]]
    counts, embedding = results["counts"], results["embedding"]
    notes = [
        f"percent; ACC at P(fake) > {threshold(method)}; * trained on this generator",
        *without_looking(results),
        *resampled(results, method),
        *otherwise(results),
        f"protocol {results['protocol']['name']}: {results['protocol']['images']}",
        f"{counts['in']} images = {counts['done']} done + {counts['failed']} failed; "
        f"{described(method['config'])}, towers {embedding['tower']['name']}, "
        f"{embedding['dtype']}{altered(embedding)}",
        f"{results['method']}: {method['range']['text']}",
    ]
    notes += [
        f"  failed: {files.printable(f['key'])}: {files.printable(f['error'])}"
        for f in results["failures"][:5]
    ]
    if len(results["failures"]) > 5:
        notes.append(f"  ... and {len(results['failures']) - 5} more in scores.csv")
    if "seeds" in method:
        spread = "; ".join(
            f"{name} {100 * f['auc']['mean']:.2f} +- {100 * f['auc']['std']:.2f}"
            for name, f in method["seeds"]["generators"].items()
            if "auc" in f
        )
        macro = method["seeds"]["macro"].get("auc")
        if macro:
            spread += (
                f"; macro {100 * macro['mean']:.2f} +- {100 * macro['std']:.2f} "
                f"(95%, seeds and images: {_interval(macro['interval_95'])})"
            )
        notes.append(f"AUC over {method['seeds']['n']} seeds: {spread}")
    notes += left_out(results)
    return notes + [f"warning: {warning}" for warning in results["warnings"]]


def without_looking(results: Mapping[str, Any]) -> list[str]:
    """What ACC is worth where a set has more of one class than of the other."""
    shares = [
        s["n_real"] / s["n"]
        for s in results["generators"].values()
        if min(s["n_real"], s["n_fake"]) >= FEWEST
    ]
    real = sum(shares) / len(shares) if shares else 0.5
    if abs(real - 0.5) < 0.005:
        return []
    verdict, acc = ("real", real) if real > 0.5 else ("fake", 1 - real)
    return [f"calling every image {verdict} has ACC {100 * acc:.2f} and AUC 50"]


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
    return (
        f"{method['threshold']:.4f}, fitted for {100 * c['fpr']:g}% false alarms on "
        f"{c['n_real']} real images of split {c['split']!r}"
    )


def resampled(results: Mapping[str, Any], method: Mapping[str, Any]) -> list[str]:
    """How the intervals were made, and the generator with the lowest AUC."""
    replicates = results["config"]["evaluate"]["bootstrap"]
    if not replicates:
        return []
    notes = [
        f"95%: of the AUC, by {replicates} draws of the images, the same for all "
        "generators and methods; p: adjusted by Holm"
    ]
    least = method["minimum"].get("auc")
    if least and len(results["generators"]) > 1:
        notes.append(
            f"lowest AUC {100 * least['value']:.2f} "
            f"({_interval(least['interval_95'])}), on {cut(least['generator'])}"
        )
    return notes


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
