"""From images to rows: decoding ahead of the model, on a grid of fixed batches.

Batch k of a shard is always the same images. One that cannot be used keeps its slot,
which a blank takes, so that its neighbours share their batch with as many rows as on
any other day: what a model says can change, in the last digit, with its batch.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import images, perturb

AHEAD = 2  # batches decoded ahead of the model

# What a picture can do to a processor or a model. Not OSError: that is the disk's.
_FAULTS = (ValueError, ArithmeticError, LookupError, RuntimeError)


class Skipped(Exception):
    """There is nothing to do for an image; the message says why."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One image: its key, and the row of an earlier stage if there is one."""

    key: str
    row: Mapping[str, Any] | None = None


class Step(abc.ABC):
    """What a sidecar does with images; `caption.py` and `ground.py` define one each.

    Attributes:
      stage: "caption" or "ground".
      output: name of the merged file.
      columns: which of sha256, width and height go into a row.
      empty: the result of an image that failed.
    """

    stage: str
    output: str
    columns: tuple[str, ...]
    empty: Mapping[str, Any]

    @abc.abstractmethod
    def prepare(self, image: np.ndarray, job: Job | None) -> Any:
        """Makes model input of uint8 [H, W, 3]; job None is a blank. In threads."""

    @abc.abstractmethod
    def process(self, prepared: list) -> list[dict[str, Any]]:
        """Returns per image the fields of its row, or `{"error": why}`."""

    @abc.abstractmethod
    def canary(self, image: np.ndarray, word: str) -> str:
        """Returns what the model sees in a picture that should yield `word`."""


@dataclasses.dataclass
class Loaded:
    facts: dict[str, Any]
    prepared: Any
    status: str = "ok"
    error: str | None = None


class Loader:
    """Reads, decodes, perturbs and prepares one image; runs in worker threads."""

    def __init__(self, step: Step, root: Path, perturbation: str):
        self.step, self.root = step, root
        self.perturbation = perturb.parse(perturbation)
        self.blank = step.prepare(np.zeros((224, 224, 3), np.uint8), None)

    def __call__(self, job: Job) -> Loaded:
        facts = {"sha256": None, "width": None, "height": None}
        try:
            data = images.read_bytes(self.root, job.key)
            facts["sha256"] = hashlib.sha256(data).hexdigest()
            before = job.row and job.row.get("sha256")
            if before and before != facts["sha256"]:
                raise ValueError("the file is not the one that was captioned")
            image = images.decode(data)
            image = perturb.perturb(image, *self.perturbation, key=job.key)
            facts["height"], facts["width"] = image.shape[:2]
            return Loaded(facts, self.step.prepare(image, job))
        except Skipped as e:
            return Loaded(facts, self.blank, "skipped", str(e))
        except (ValueError, ArithmeticError, MemoryError) as e:
            return Loaded(facts, self.blank, "error", _reason(e))


def _reason(error: Exception) -> str:
    # An address of memory would make two runs differ.
    said = re.sub(r" at 0x[0-9a-f]+", "", str(error)) or "no reason given"
    return f"{type(error).__name__}: {said}"


def ahead(pool, load, jobs, size) -> Iterator[list[tuple[Job, Loaded]]]:
    """Yields loaded batches in order, the next ones being decoded meanwhile."""
    waiting: deque[list[tuple[Job, Future]]] = deque()
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        waiting.append([(job, pool.submit(load, job)) for job in batch])
        if len(waiting) > AHEAD:
            yield [(job, future.result()) for job, future in waiting.popleft()]
    while waiting:
        yield [(job, future.result()) for job, future in waiting.popleft()]


class Runner:
    """Gives loaded batches to the model, in smaller parts once memory was short."""

    def __init__(self, step: Step, blank: Any, limit: int):
        self.step, self.blank, self.limit, self.failed = step, blank, limit, 0

    def rows(self, batch: list[tuple[Job, Loaded]]) -> list[dict[str, Any]]:
        prepared = [loaded.prepared for _, loaded in batch]
        try:
            results = self._process(prepared)
        except _FAULTS as e:
            results = self._without_culprits(prepared, e)
        rows = []
        for (job, loaded), result in zip(batch, results):
            status, error = loaded.status, loaded.error
            if status == "ok" and result.get("error"):
                status, error = "error", result["error"]
            good = result if status == "ok" else dict(self.step.empty)
            facts = {name: loaded.facts[name] for name in self.step.columns}
            row = {"key": job.key, **facts, **good, "status": status, "error": error}
            rows.append(row)
        return rows

    def _without_culprits(self, prepared: list, error: Exception) -> list[dict]:
        """Finds the images the model fails on, and runs the others with blanks.

        Raises:
          Exception: the model's, when it fails on blanks as well; `error` itself, when
            it fails on no image alone.
        """
        faults = {}
        for i, one in enumerate(prepared):
            try:
                self._process([one])
            except _FAULTS as e:
                faults[i] = {"error": _reason(e)}
        if not faults:
            raise error
        mended = [self.blank if i in faults else p for i, p in enumerate(prepared)]
        return [faults.get(i, r) for i, r in enumerate(self._process(mended))]

    def _process(self, prepared: list) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        while len(results) < len(prepared):
            part = prepared[len(results) :][: self.limit]
            try:
                results += self.step.process(part)
            except Exception as e:
                if not out_of_memory(e):
                    raise
                if len(part) == 1:
                    raise MemoryError(
                        "the memory of the GPU does not hold one image with this "
                        "model: take a smaller model, or --dtype float16"
                    ) from e
                self.limit = max(len(part) // 2, 1)
            else:
                continue
            # Outside the handler: the error holds the tensors of the failed call.
            _empty_cache()
        return results


def out_of_memory(error: Exception) -> bool:
    """Whether it is torch's; by name, so that the loop needs no torch."""
    return type(error).__name__ == "OutOfMemoryError"


def _empty_cache() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
