"""How far a training is: by steps, or by the clock where that runs out first."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tqdm import tqdm


class Pace:
    """Iterates over (step, done), done in [0, 1) being the share behind it.

    Learning rates follow `done`, so that a run cut short by the clock still ends on
    its schedule. Without the clock's help the run depends on the seed alone.

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
        """For the world's README."""
        return {"steps": self.taken, "minutes": round(self.minutes, 1)}
