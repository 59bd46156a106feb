"""Progress of a training: by steps, or by the clock if that runs out first."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tqdm import tqdm


class Pace:
    """Iterates over (step, done), where done in [0, 1) is the finished share.

    Learning rates follow `done`, so that a run that the clock cuts short still
    completes its schedule. Without a time limit the run depends on the seed alone.

    Attributes:
        taken: steps taken so far.
        minutes: since the start.
    """

    def __init__(self, name: str, steps: int, minutes: float):
        self.steps, self.limit, self.taken = steps, 60 * minutes, 0
        self.bar = tqdm(desc=name, total=steps, mininterval=15)
        self.started = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    def __iter__(self) -> Iterator[tuple[int, float]]:
        while True:
            done = max(self.taken / self.steps, 60 * self.minutes / self.limit)
            if done >= 1:
                self.bar.close()
                return
            yield self.taken, done
            self.taken += 1
            self.bar.update()

    def facts(self) -> dict[str, float]:
        """Returns steps and minutes, for the README of the world."""
        return {"steps": self.taken, "minutes": round(self.minutes, 1)}
