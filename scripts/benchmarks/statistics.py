"""Time and memory of all intervals and differences, as `evaluate` computes them.

Each size runs in its own process, to measure its own peak memory.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SIZES = ((10_000, 1), (100_000, 1), (1_000_000, 1), (1_000_000, 2))  # rows, methods
GENERATORS = 8


def run(arguments):
    """Yields one row per number of images and methods."""
    for rows, methods in SIZES[:2] if arguments.quick else SIZES:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.statistics", str(rows), str(methods)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        yield json.loads(done.stdout.splitlines()[-1])


def measure(rows: int, methods: int) -> dict:
    """A fifth are real images that all generators share; the rest are their fakes."""
    from item_jax import statistics

    rng = np.random.default_rng(0)
    real = rows // 5
    fake = (rows - real) // GENERATORS
    labels = np.repeat([0, 1], [real, fake * GENERATORS])
    groups = {
        f"generator {k}": np.r_[:real, real + k * fake : real + (k + 1) * fake]
        for k in range(GENERATORS)
    }
    columns = {
        f"method {k}": 1 / (1 + np.exp(-rng.normal(labels))) for k in range(methods)
    }
    start = time.perf_counter()
    found = statistics.estimate(
        labels, groups, columns, means={"cosine": columns["method 0"]}
    )
    for figure in statistics.FIGURES:
        for group in (*groups, None):
            for name in columns:
                found.figure([name], figure, group)
                if name != "method 0":
                    found.difference([name], ["method 0"], figure, group)
    for group in groups:
        found.mean_difference("cosine", group)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()
    return {
        "rows": rows,
        "generators": GENERATORS,
        "methods": methods,
        "seconds": round(seconds, 2),
        "peak MiB": int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1024,
        "cores": len(os.sched_getaffinity(0)),
    }


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
