"""An audit as a report for people."""

from __future__ import annotations

from typing import Any

from item_jax.audit import FEATURES, brief
from item_jax.files import printable
from item_jax.records import LABELS


def text(result: dict[str, Any]) -> str:
    """Returns an audit as a report for people."""
    failures, done = result["failures"], result["images"] - len(result["failures"])
    lines = [
        f"{result['images']:,} files of {result['root']} = {done:,} read + "
        f"{len(failures):,} failed",
        "",
    ]
    lines += _files_table(result["generators"]) + [""]
    lines += _leak_table(result["generators"])
    if any("pixels" in entry for entry in result["generators"].values()):
        lines += ["", *_pixel_table(result["generators"])]
    copies = sum(len(keys) - 1 for keys in result["duplicates"])
    lines += [
        "",
        f"{copies:,} files are copies of another; {len(result['near_empty']):,} are "
        "almost empty, such as pictures of one colour",
    ]
    lines += [printable(f"failed: {f['key']}: {f['error']}") for f in failures[:5]]
    if len(failures) > 5:
        lines.append(f"failed: ... and {len(failures) - 5:,} more")
    lines += [printable(f"warning: {w}") for w in result["warnings"]]
    if (
        any("headers alone" in w for w in result["warnings"])
        and not result["neutralise"]["quality"]
    ):
        lines.append(
            "To make all files equal: --config.neutralise.quality=96 "
            "--config.neutralise.size=256, here to see the effect, and with embed"
        )
    return "\n".join(lines)


def _files_table(generators: dict[str, Any]) -> list[str]:
    """What the files of each generator and label are, one line each."""
    wide = _width(generators)
    title = f"{'generator':<{wide}}{'label':<6}{'files':>8}  {'files are':<40}"
    lines = [f"{title}{'EXIF':>6}{'ICC':>6}"]
    for name, entry in generators.items():
        first = printable(name)
        for label in LABELS:
            e = entry[label]
            if e["n"]:
                lines.append(
                    f"{first:<{wide}}{label:<6}{e['n']:>8,}  {brief(e):<40}"
                    f"{e['exif']:>6.0%}{e['icc']:>6.0%}"
                )
                first = ""
    return lines


def _leak_table(generators: dict[str, Any]) -> list[str]:
    """The AP of headers alone, one line for each generator that has one."""
    wide = _width(generators)
    columns = ["chance", "all", *FEATURES]
    title = f"{'generator':<{wide}}"
    title += "".join(f"{c.removeprefix('JPEG '):>10}" for c in columns)
    if any("neutralised" in entry for entry in generators.values()):
        title += f"{'neutralised':>13}"
    lines = [
        "AP of a classifier that sees headers alone (chance: the share of fakes)",
        title,
    ]
    for name, entry in generators.items():
        figures, after = entry["headers"], entry.get("neutralised")
        if figures is not None:
            line = f"{printable(name):<{wide}}"
            line += "".join(f"{figures[c]:>10.3f}" for c in columns)
            lines.append(line + (f"{after['all']:>13.3f}" if after else ""))
    return lines


def _pixel_table(generators: dict[str, Any]) -> list[str]:
    """The AUC of pixel statistics, a line for each source of real images."""
    wide = _width(generators)
    sources = [s for entry in generators.values() for s in entry["pixels"]]
    second = max(len(s) for s in [*map(printable, sources), "real images of"]) + 2
    title = f"{'generator':<{wide}}{'real images of':<{second}}{'files':>8}{'AUC':>8}"
    title += f"  {'95%':<12}"
    if any("pixels_neutralised" in entry for entry in generators.values()):
        title += "neutralised"
    lines = [
        "AUC of a classifier that sees 80 statistics of the pixels (chance: 0.5)",
        title.rstrip(),
    ]
    for name, entry in generators.items():
        for source, probed in entry["pixels"].items():
            if probed is None:
                continue
            low, high = probed["interval_95"]
            after = entry.get("pixels_neutralised", {}).get(source)
            line = f"{printable(name):<{wide}}{printable(source):<{second}}"
            line += f"{probed['n_real'] + probed['n_fake']:>8,}{probed['auc']:>8.3f}"
            line += f"  {f'{low:.3f}-{high:.3f}':<12}"
            lines.append((line + (f"{after['auc']:>11.3f}" if after else "")).rstrip())
    return lines


def _width(generators: dict[str, Any]) -> int:
    return max(len("generator"), *(len(printable(name)) for name in generators), 0) + 2
