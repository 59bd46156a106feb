"""Runs contestants in turn, round after round, so that noise affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def race(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """Times functions against each other.

    Args:
      contestants: name -> function that returns when all its work is done; the first
        is ours. Each is called once without measuring.
      rounds: the number of measured calls of each.

    Returns:
      name -> {"seconds": median, "spread": interquartile range over median}, and for
      every name but the first "ratio": the median over rounds of its time over ours in
      the same round (above 1: ours is faster).
    """
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    ours = np.array(next(iter(times.values())))
    result = {}
    for name, seconds in times.items():
        seconds = np.array(seconds)
        low, median, high = np.percentile(seconds, (25, 50, 75))
        result[name] = {
            "seconds": float(median),
            "spread": float((high - low) / median),
        }
        result[name]["ratio"] = float(np.median(seconds / ours))
    return result


def unit(x) -> np.ndarray:
    """Returns rows divided by their L2 norm, float64."""
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def check_equal(name: str, ours, theirs, dtype: str) -> None:
    """Stops the benchmark when two results are not the same embeddings.

    In float32 the coordinates of unit vectors may differ by 1e-5. In bfloat16, where
    single coordinates are inexact, their cosine must be at least 0.999.
    """
    ours, theirs = unit(ours), unit(theirs)
    worst = np.abs(ours - theirs).max()
    cosine = (ours * theirs).sum(-1).min()
    if not (worst <= 1e-5 if dtype == "float32" else cosine >= 0.999):
        raise SystemExit(
            f"{name} gives other embeddings: coordinates differ by up to {worst:.1e}, "
            f"the lowest cosine is {cosine:.5f}; not timed"
        )
