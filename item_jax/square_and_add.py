"""Square and add: intervals of weighted sums of figures that vary together.

The distances from each figure to the ends of its own interval are added as standard
errors are, with the correlations of the figures: Newcombe (Statistics in Medicine
1998), Zou and Donner (Statistics in Medicine 2008). Training seeds add the variance of
their mean; the quantile is then the mean of the normal one and Student's, weighted by
the variances (Cochran and Cox, 1950).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from item_jax.influence import Cell

SMALLEST_P = 1e-12
"""p values are no smaller; the normal distribution says nothing so far out."""

CHUNK = 1 << 16  # images whose influences are multiplied at a time


@dataclasses.dataclass(frozen=True)
class Sum:
    """A weighted sum of figures that vary together.

    Attributes:
      cells: the figures, by method, seed and group.
      weights: float `[C]`, below zero for the method that is subtracted.
      correlations: float `[C, C]`.
      centre: the sum of what the figures lie around.
      seeds: number of seeds of each method.
      spread: of each method, the variance over its seeds (n - 1); 0 for one seed.
    """

    cells: list[Cell]
    weights: np.ndarray
    correlations: np.ndarray
    centre: float
    seeds: list[int]
    spread: list[float]

    def ends(self, outside: float) -> tuple[float, float]:
        """Returns the interval outside which the truth lies with a probability."""
        found = {id(c): c.ends(outside) for c in self.cells}
        low, high = np.array([found[id(c)] for c in self.cells]).T
        middle = np.array([c.centre for c in self.cells])
        down, up = middle - low, high - middle
        if len(self.seeds) > 1:
            # What both methods share cancels only if both have errors of one length.
            down = up = ((down**2 + up**2) / 2) ** 0.5
        return (
            self.centre - self._reach(down, outside),
            self.centre + self._reach(up, outside),
        )

    def _reach(self, distances: np.ndarray, outside: float) -> float:
        normal = -float(ndtri(outside / 2))
        own = self._images(self.weights * distances) / normal**2
        variances = [v / k for v, k in zip(self.spread, self.seeds)]
        if not sum(variances):
            return normal * own**0.5
        degrees = welch(variances, [max(k - 1, 1) for k in self.seeds])
        student = -float(stdtrit(degrees, outside / 2))
        total = own + sum(variances)
        return (normal * own + student * sum(variances)) / total**0.5

    def _images(self, parts: np.ndarray) -> float:
        """Adds up what images move, but for what they move in one seed and not in all.

        That is in the variance over seeds already.
        """
        many = sum(self.seeds)
        each = len(parts) // many
        # Few errors say little of how much figures share: of one method they are taken
        # to share more than measured, of two methods less.
        errors = min(c.errors for c in self.cells)
        known = errors / (errors + 1)
        same = self.weights[:, None] * self.weights > 0
        shared = known * self.correlations + (1 - known) * same
        np.fill_diagonal(shared, 1)
        products = parts[:, None] * shared * parts
        products = products.reshape(many, each, many, each).sum((1, 3))
        total, start = 0.0, 0
        for k in self.seeds:
            own = products[start : start + k, start : start + k]
            if k > 1:
                total += (own.sum() - own.trace()) * k / (k - 1)
            else:
                total += own.sum()
            start += k
        if len(self.seeds) > 1:
            first = self.seeds[0]
            total += 2 * products[:first, first:].sum()
        return max(0.0, float(total))

    def p(self) -> float:
        """Returns the p at which the interval reaches zero."""
        if self.centre == 0:
            return 1.0
        side = 0 if self.centre > 0 else 1

        def end(log_p: float) -> float:
            return self.ends(np.exp(log_p))[side]

        lowest, highest = np.log(SMALLEST_P), np.log(1 - 1e-9)
        if (end(lowest) > 0) == (self.centre > 0):
            return SMALLEST_P
        if (end(highest) > 0) != (self.centre > 0):
            return 1.0
        return float(np.exp(brentq(end, lowest, highest, xtol=1e-6)))


def welch(variances: Sequence[float], degrees: Sequence[int]) -> float:
    """Degrees of freedom of a sum of variances, not all 0 (Welch 1947)."""
    each = sum(v**2 / d for v, d in zip(variances, degrees))
    return sum(variances) ** 2 / each


def products(cells: Sequence[Cell], rows: Sequence[np.ndarray]) -> np.ndarray:
    """Products of the influences of figures over the images that they share.

    Args:
      cells: the figures.
      rows: of each, the images, increasing.

    Returns:
      float `[C, C]`, with 1 on the diagonal.
    """
    out = np.zeros((len(cells), len(cells)))
    last = max(int(own[-1]) for own in rows)
    for start in range(0, last + 1, CHUNK):
        block = np.zeros((len(cells), min(CHUNK, last + 1 - start)))
        for i, (cell, own) in enumerate(zip(cells, rows)):
            a, b = np.searchsorted(own, [start, start + CHUNK])
            block[i, own[a:b] - start] = cell.influence[a:b]
        out += block @ block.T
    np.fill_diagonal(out, 1)
    return out
