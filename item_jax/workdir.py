"""Where things lie in a workdir. Standard library only.

    W/records.jsonl   W/embeddings/    W/head/           W/results/        plain
                      W/caches/NAME/   W/methods/NAME/   W/results/NAME/   named

`--cache NAME` reads and writes `caches/NAME/` instead of `embeddings/`, and an
evaluation of it goes to `results/NAME/`; `train --as NAME` writes `methods/NAME/`
instead of `head/`, `evaluate --as NAME` `results/NAME/` instead of `results/`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

PLAIN_METHOD = "head"
RESERVED = (PLAIN_METHOD, "paper")
_NAME = r"\w[\w.-]*"


class Workdir:
    """A folder of one study.

    Args:
      path: of the folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def records(self) -> Path:
        """The records made by `item-jax index`."""
        return self.path / "records.jsonl"

    def cache(self, name: str = "") -> Path:
        """The embedding cache of a name, or the plain one."""
        if not name:
            return self.path / "embeddings"
        return self.path / "caches" / checked_name(name)

    def method(self, name: str = PLAIN_METHOD) -> Path:
        """The fitted method of a name, or the plain one."""
        if name == PLAIN_METHOD:
            return self.path / PLAIN_METHOD
        return self.path / "methods" / checked_name(name)

    def results(self, name: str = "") -> Path:
        """The results of a name, or the plain ones."""
        folder = self.path / "results"
        return folder / checked_name(name) if name else folder

    def checkpoints(self, name: str) -> Path:
        """The checkpoints of a method while it trains."""
        return self.path / "checkpoints" / name

    @property
    def metrics(self) -> Path:
        """The losses of all trainings, a JSON line an epoch."""
        return self.path / "metrics.jsonl"

    def methods(self) -> dict[str, Path]:
        """The places of fitted methods: the plain one first, then those of a name.

        What has the name of a method is listed whether or not it can be loaded: a
        broken folder or link must not look like no method at all. Hidden files and
        what is not whole yet (`*.partial`) have no such name.
        """
        head = self.method()
        there = [head] if os.path.lexists(head) else []
        there += sorted(
            p
            for p in (self.path / "methods").glob("*")
            if re.fullmatch(_NAME, p.name) and not p.name.endswith(".partial")
        )
        return {p.name: p for p in there}


def checked_name(name: str) -> str:
    """Returns the name of a cache or method.

    Raises:
      ValueError: if it cannot be one, with what is allowed.
    """
    if not re.fullmatch(_NAME, name) or name in RESERVED:
        raise ValueError(
            f"name {name!r}; allowed: letters, digits, '_', '-' and '.', but not "
            f"{' or '.join(map(repr, RESERVED))}"
        )
    return name
