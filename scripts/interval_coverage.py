"""How often the 95% intervals of `item_jax.statistics` hold the truth, by simulation.

    python scripts/interval_coverage.py     # writes interval_coverage.json and .md
    python scripts/interval_coverage.py --trials 200 --out /tmp/coverage

Scores are normal, so that the true AUC, ACC and AP are known: real images N(0, 1),
fakes N(d, s), the threshold at d / 2 (of several generators, at half their mean d).
The default s = 1 is what the model of the variance supposes; s = 1.6 is not. `--out
NAME` names the files without their endings. Trials have fixed seeds: a second run
writes the same files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from item_jax import statistics

AUC = (0.6, 0.86, 0.95, 0.983, 0.995)
SIZES = (15, 50, 150, 500)
SEEDS = (2, 3, 5, 10)
SHARED = 0.7
"""Of the variance of scores, the part that all seeds and methods have in common."""

WITHIN = (0.93, 0.975)
"""What coverage should be between."""

OUT = Path(__file__).parent / "interval_coverage"


class Case(NamedTuple):
    """Test sets of one kind.

    Attributes:
      auc: of each method: one is tested for its figure, two for their difference.
      n_real, n_fake: images; of each generator, which share the real ones.
      generators: whose average is taken; their d is spread by +-20% around that of AUC.
      seeds: of each method.
      seed_error: standard deviation of a seed's d, in units of the standard error of an
        AUC from the images.
      spread: s, the standard deviation of fakes.
    """

    auc: tuple[float, ...]
    n_real: int
    n_fake: int
    generators: int = 1
    seeds: tuple[int, ...] = (1,)
    seed_error: float = 0.0
    spread: float = 1.0

    def shifts(self, auc: float) -> np.ndarray:
        """Returns d of each generator."""
        d = float(ndtri(auc)) * (1 + self.spread**2) ** 0.5
        around = np.linspace(-0.2, 0.2, self.generators) if self.generators > 1 else [0]
        return d * (1 + np.array(around))

    def tau(self, auc: float) -> float:
        """Returns the standard deviation of d over seeds."""
        d = float(ndtri(auc)) * (1 + self.spread**2) ** 0.5
        curve = statistics.influence.model("auc", self.n_real, self.n_fake)
        error = float(np.interp(auc, curve.true, curve.variance)) ** 0.5
        slope = math.exp(-(d**2) / 4) / (2 * math.pi**0.5)  # of the AUC by d
        return self.seed_error * error / slope


def truth(case: Case, auc: float, figure: str) -> float:
    """Returns the true figure: of all images and of all seeds."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    weights = weights / weights.sum()
    out = []
    for d in case.shifts(auc):
        middle = float(np.mean(case.shifts(auc))) / 2
        each = [
            _truth(case, figure, d + case.tau(auc) * x, middle=middle) for x in nodes
        ]
        out.append(float(weights @ each))
    return float(np.mean(out))


def _truth(case: Case, figure: str, d: float, *, middle: float) -> float:
    s, n, m = case.spread, case.n_real, case.n_fake
    if figure == "auc":
        return float(ndtr(d / (1 + s * s) ** 0.5))
    if figure in ("acc", "balanced_acc"):
        share = 0.5 if figure == "balanced_acc" else m / (n + m)
        return float((1 - share) * ndtr(middle) + share * ndtr((d - middle) / s))
    share = 0.5 if figure == "ap_balanced" else m / (n + m)
    at, step = np.linspace(min(-9, d - 9 * s), max(9, d + 9 * s), 4001, retstep=True)
    fakes, reals = share * ndtr((d - at) / s), (1 - share) * ndtr(-at)
    density = np.exp(-(((at - d) / s) ** 2) / 2) / s / (2 * math.pi) ** 0.5
    return float((fakes / (fakes + reals) * density).sum() * step)


def images(case: Case) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns labels and groups."""
    n, m = case.n_real, case.n_fake
    labels = np.repeat([0, 1], [n, m * case.generators])
    return labels, {
        f"g{k}": np.r_[:n, n + k * m : n + (k + 1) * m] for k in range(case.generators)
    }


def draw(case: Case, rng: np.random.Generator) -> dict[tuple[int, int], np.ndarray]:
    """Returns scores of each method and seed, `d / 2` subtracted."""
    many = case.n_real + case.n_fake * case.generators
    fake = np.arange(many) >= case.n_real
    common = rng.normal(size=many)
    several = len(case.auc) > 1 or case.seeds[0] > 1
    columns = {}
    for method, auc in enumerate(case.auc):
        own = np.repeat(case.shifts(auc), case.n_fake)
        middle = float(np.mean(case.shifts(auc))) / 2
        for k in range(case.seeds[method]):
            noise = rng.normal(size=many)
            if several:
                noise = SHARED**0.5 * common + (1 - SHARED) ** 0.5 * noise
            noise[fake] = noise[fake] * case.spread + own
            noise[fake] += case.tau(auc) * rng.normal()
            columns[method, k] = noise - middle
    return columns


def coverage(
    case: Case, figures: tuple[str, ...], trials: int, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Simulates.

    Returns:
      For each figure the case, `figure`, `truth`, `coverage`, `below` and `above` (the
      share of intervals that the truth lies below or above), `width` (mean) and
      `trials`.
    """
    labels, groups = images(case)
    signs = (1, -1)
    true = {
        f: sum(s * truth(case, a, f) for s, a in zip(signs, case.auc)) for f in figures
    }
    rng = np.random.default_rng([seed, *(hash_of(case))])
    ends: dict[str, list] = {f: [] for f in figures}
    for _ in range(trials):
        columns = draw(case, rng)
        found = statistics.estimate(
            labels, groups, columns, thresholds=dict.fromkeys(columns, 0.0)
        )
        sides = [[c for c in columns if c[0] == m] for m in range(len(case.auc))]
        for f in figures:
            if len(sides) == 1:
                own = found.figure(sides[0], f)
            else:
                own = found.difference(sides[0], sides[1], f)
            ends[f].append(own.ends)
    rows = []
    for f in figures:
        low, high = np.array(ends[f]).T
        below, above = (float(x.mean()) for x in (true[f] < low, true[f] > high))
        rows.append(
            case._asdict()
            | {"figure": f, "truth": round(true[f], 6), "trials": trials}
            | {"coverage": round(1 - below - above, 4), "below": round(below, 4)}
            | {"above": round(above, 4), "width": round(float((high - low).mean()), 5)}
        )
    return rows


def hash_of(case: Case) -> list[int]:
    """Returns numbers that differ from case to case, the same in every process."""
    return [int.from_bytes(json.dumps(case).encode(), "little") % (1 << 63)]


def cases() -> Iterator[tuple[str, Case, tuple[str, ...], float]]:
    """Yields section, case, figures, and the share of the trials."""
    point = ("auc", "acc", "ap")
    every = (*point, "balanced_acc", "ap_balanced")
    for auc, n in itertools.product(AUC, SIZES):
        yield "one generator", Case((auc,), n, n), point, 1
    for auc, (n, m) in itertools.product(AUC, ((50, 15), (500, 150), (15, 50))):
        yield "unequal classes", Case((auc,), n, m), every, 0.5
    for auc, n in itertools.product(AUC, SIZES):
        yield "fakes vary more", Case((auc,), n, n, spread=1.6), point, 0.5
    for auc, n in itertools.product(AUC, SIZES):
        yield "average of 5", Case((auc,), n, n, generators=5), point, 0.5
    for error, k, auc in itertools.product((1, 2), SEEDS, AUC):
        case = Case((auc,), 150, 150, seeds=(k,), seed_error=error)
        yield "seeds", case, point, 0.5
    for k, auc in itertools.product((3, 5), AUC):
        case = Case((auc,), 50, 50, generators=5, seeds=(k,), seed_error=1)
        yield "average of 5, seeds", case, point, 0.25
    for a, n in itertools.product(AUC, SIZES):
        yield "difference, none", Case((a, a), n, n, seeds=(1, 1)), point, 0.5
    for (a, b), n in itertools.product(itertools.pairwise(AUC), SIZES):
        yield "difference", Case((b, a), n, n, seeds=(1, 1)), point, 0.5
    for pair, a in itertools.product(((2, 2), (3, 3), (5, 5)), AUC):
        case = Case((a, a), 150, 150, seeds=pair, seed_error=1)
        yield "difference, none, seeds", case, point, 0.25
    for a in AUC:
        case = Case((a, a), 50, 50, generators=5, seeds=(3, 3), seed_error=1)
        yield "difference of averages, none, seeds", case, point, 0.1


def run(trials: int, workers: int) -> list[dict[str, Any]]:
    """Returns all rows, in order."""
    every = list(cases())
    with ProcessPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(coverage, case, figures, max(1, round(trials * share)))
            for _, case, figures, share in every
        ]
        rows = []
        for (section, *_), job in zip(every, jobs):
            rows += [{"section": section} | row for row in job.result()]
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the tables, at most 80 columns wide."""
    low, high = WITHIN
    within = sum(low <= r["coverage"] <= high for r in rows)
    errors = [error(r["trials"]) for r in rows]
    lines = [
        "# Coverage of the 95% intervals",
        "",
        "Written by `python scripts/interval_coverage.py`; it says how it simulates. A",
        "cell is the share of intervals that hold the true figure, in percent, with a",
        f"standard error of {100 * min(errors):.1f} to {100 * max(errors):.1f} points.",
        f"{within} of {len(rows)} cells are between {100 * low:g} and {100 * high:g}.",
        f"{sum(map(outside, rows))} are outside by more than two standard errors:",
        "these are in **bold**.",
        "",
        "A row is a number of images (real + fake, of each generator) and of seeds;",
        "the error of seeds is their standard deviation in standard errors of the",
        "images. Columns are true AUCs. Where there is no difference, the share",
        "outside the interval is the rate of false positives at p < 0.05.",
    ]
    for section, group in itertools.groupby(rows, lambda r: r["section"]):
        own = list(group)
        aucs = list(dict.fromkeys(tuple(r["auc"]) for r in own))
        lines += ["", f"## {section[0].upper()}{section[1:]}", ""]
        names = [" - ".join(f"{a:g}" for a in auc) for auc in aucs]
        if "none" in section:
            names = [f"{auc[0]:g}" for auc in aucs]
        lines += ["| figure | images | " + " | ".join(names) + " |"]
        lines += ["|" + "---|" * (2 + len(names))]
        for key in dict.fromkeys(map(row_key, own)):
            cells = {tuple(r["auc"]): r for r in own if row_key(r) == key}
            shown = []
            for row in map(cells.__getitem__, aucs):
                text = f"{100 * row['coverage']:.1f}"
                shown.append(f"**{text}**" if outside(row) else text)
            lines.append(f"| {key[0]} | {key[1]} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def error(trials: int) -> float:
    """Returns the standard error of a coverage of 95%."""
    return (0.05 * 0.95 / trials) ** 0.5


def outside(row: dict[str, Any]) -> bool:
    """Says whether a coverage is not within the bounds, chance aside."""
    more = 2 * error(row["trials"])
    return not WITHIN[0] - more <= row["coverage"] <= WITHIN[1] + more


def row_key(row: dict[str, Any]) -> tuple[str, str]:
    """Returns figure and images, as a line of a table has them."""
    images = f"{row['n_real']} + {row['n_fake']}"
    if max(row["seeds"]) > 1:
        images += f", {row['seeds'][0]} seeds, error {row['seed_error']:g}"
    return row["figure"], images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--trials", type=int, default=1200, help="of one generator; fewer of the others"
    )
    parser.add_argument("--workers", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=OUT, help="default: %(default)s")
    args = parser.parse_args()
    if args.trials < 1:
        parser.error(f"--trials is {args.trials}; at least 1 is needed")
    rows = run(args.trials, args.workers)
    lines = ",\n".join(json.dumps(row) for row in rows)
    args.out.with_suffix(".json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    args.out.with_suffix(".md").write_text(page(rows), encoding="utf-8")
    print(f"written: {args.out.with_suffix('.md')}")


if __name__ == "__main__":
    main()
