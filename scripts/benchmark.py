"""Measures speed beside the usual alternatives: all speed figures of the README.

Ours and its peers run in one process, in turn, after their results have been compared.
Figures are medians of repeated rounds; ratios are within rounds. Needs torch; onnx,
onnxscript and onnxruntime add a peer of the towers on CPU.

    python scripts/benchmark.py --suite towers
    python scripts/benchmark.py --suite all --json scripts/benchmark_results/cpu.json
    python scripts/benchmark.py --table scripts/benchmark_results/cpu.json

Suites: towers, embedding, head, growth, devices, statistics, one_command. On a GPU add
--dtype bfloat16.

One more suite measures nothing: `compiled` asks the compilers of TPUs and GPUs that are
not here what they make of the towers (pip install '.[tpu]' or '.[cuda]').

    python scripts/benchmark.py --suite compiled --sizes ViT-L-14 --blocks 3
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.util
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

SUITES = (
    *("towers", "embedding", "head", "growth", "devices", "statistics"),
    "one_command",
)
COMPILED = "compiled"  # estimates, no measurement: not part of "all"


def machine() -> dict[str, Any]:
    """Describes the machine and the versions, for the report."""
    import jax

    device = jax.devices()[0]
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(": ")[1] for x in lines if x.startswith("model name")), cpu)
    names = ("jax", "jaxlib", "flax", "torch", "transformers", "numpy", "onnxruntime")
    names += ("libtpu", "jax-cuda12-plugin")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "backend": jax.default_backend(),
        "device": device.device_kind if jax.default_backend() != "cpu" else cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def table(report: dict) -> str:
    """Returns the rows of a report as Markdown, one table per suite."""
    m = report["machine"]
    lines = [
        f"{m['device']}, {m['cores']} cores, {m['backend']}, {m['date']}; "
        + ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    ]
    for suite, rows in report["suites"].items():
        columns = list(dict.fromkeys(k for row in rows for k in row))
        lines += ["", f"**{suite}**", "", "| " + " | ".join(columns) + " |"]
        lines.append("|" + " --- |" * len(columns))
        for row in rows:
            cells = [_cell(row.get(column)) for column in columns]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def main() -> int:
    """Runs the suites and prints their tables; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=(*SUITES, COMPILED, "all"), default="all")
    parser.add_argument("--json", type=Path, help="write this report, or add to it")
    parser.add_argument("--table", type=Path, help="print the table of a report")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--sizes", nargs="+", default=["ViT-B-32", "ViT-B-16", "ViT-L-14"]
    )
    parser.add_argument(
        "--targets",
        nargs="+",
        default=["v4", "v5e", "v5p", "v6e", "h100", "h200"],
        help="of the suite compiled; v5e:16x16 is a whole slice",
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=int,
        default=[16, 64, 256],
        help="of the suite compiled: views a device (a v4 chip has two)",
    )
    parser.add_argument(
        "--programs",
        nargs="+",
        default=["image", "text", "head"],
        choices=["image", "text", "head", "block"],
        help="of the suite compiled; block is one block of the image tower alone, "
        "which compiles in half a minute",
    )
    parser.add_argument(
        "--attention",
        nargs="+",
        default=["preferred"],
        choices=["preferred", "written_out"],
        help="of the suite compiled: what the towers choose there, or the reference's "
        "layout, to compare",
    )
    parser.add_argument(
        "--blocks",
        type=int,
        default=0,
        help="of the suite compiled: compile towers of so many blocks and of one less, "
        "and count the others as the difference; 0 compiles whole towers",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small counts, to try it out"
    )
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text())))
        return 0

    if arguments.blocks < 0 or arguments.blocks in (1, 2):
        parser.error("--blocks is 0 for whole towers, or at least 3")
    if arguments.suite == COMPILED:
        # The process stays on the CPU, whatever compilers are installed. Tuning a
        # program for a GPU would run it.
        os.environ["JAX_PLATFORMS"] = "cpu"
        flags = os.environ.get("XLA_FLAGS", "")
        if importlib.util.find_spec("jax_cuda12_plugin"):
            os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()
    # JAX and torch share a GPU here: neither may take all of its memory at once.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    report = {"machine": machine(), "suites": {}}
    if arguments.json and arguments.json.exists():
        older = json.loads(arguments.json.read_text())
        same = ("device", "cores", "versions")
        if any(older["machine"][name] != report["machine"][name] for name in same):
            raise SystemExit(
                f"{arguments.json} was measured on another machine or with other "
                "versions: give another file"
            )
        report["suites"] = older["suites"]
    chosen = SUITES if arguments.suite == "all" else (arguments.suite,)
    for name in chosen:
        print(f"== {name}", file=sys.stderr, flush=True)
        rows = []
        for row in importlib.import_module(f"benchmarks.{name}").run(arguments):
            print(json.dumps(row), file=sys.stderr, flush=True)
            rows.append(row)
        report["suites"][name] = rows
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
