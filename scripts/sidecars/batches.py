"""From images to rows: decoding ahead of the model, on a grid of fixed batches.

Batch k of a shard always holds the same images. An image that cannot be used keeps its
slot, filled with a blank, so that its neighbours are computed in a batch of the same
size: in the last digit, the output of a model depends on its batch.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import images, perturb

AHEAD = 2  # batches decoded ahead of the model

# What an image can provoke in a processor or a model. Not OSError: that is the disk's.
_FAULTS = (ValueError, ArithmeticError, LookupError, RuntimeError)


class Skipped(Exception):
    """There is nothing to do for an image; the message says why."""


class AdapterError(Exception):
    """A captioner or grounder returned something other than its interface says."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One image: its key, and the row of an earlier stage if there is one."""

    key: str
    row: Mapping[str, Any] | None = None


class Step(abc.ABC):
    """What a sidecar does with images; each program defines one.

    Attributes:
      stage: "caption", "ground" or "reconstruct".
      output: name of the merged file.
      columns: which of sha256, width and height go into a row.
      empty: the result of an image that failed.
      words: whether results have words that a canary can be asked for.
    """

    stage: str
    output: str
    columns: tuple[str, ...]
    empty: Mapping[str, Any]
    words: bool = True

    @abc.abstractmethod
    def prepare(self, image: np.ndarray, job: Job | None) -> Any:
        """Makes model input of uint8 [H, W, 3]; runs in threads. job None is a blank.

        Raises:
          Skipped: when there is nothing to do for the image.
          ValueError: when it cannot be used.
        """

    @abc.abstractmethod
    def process(self, prepared: list) -> list[dict[str, Any]]:
        """Returns per image the fields of its row, or `{"error": reason}`."""

    @abc.abstractmethod
    def canary(self, image: np.ndarray, word: str) -> str:
        """Returns what the model finds in an image that should yield `word`."""

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:  # noqa: B027
        """Looks at the rows of a shard so far; for a model that gives nonsense.

        Raises:
          ValueError: to stop the run, with the remedy.
        """


@dataclasses.dataclass
class Loaded:
    """An image that was read: facts for its row, model input, and its status so far."""

    facts: dict[str, Any]
    prepared: Any
    status: str = "done"
    error: str | None = None


class Loader:
    """Reads, decodes, perturbs and prepares one image; runs in worker threads.

    Args:
      step: prepares the pixels.
      image_root: the folder the keys are relative to.
      perturbation: as `item_jax.perturb.parse` reads it.
    """

    def __init__(self, step: Step, image_root: Path, perturbation: str):
        self.step, self.image_root = step, image_root
        self.perturbation = perturb.parse(perturbation)
        self.blank = step.prepare(np.zeros((224, 224, 3), np.uint8), None)

    def __call__(self, job: Job) -> Loaded:
        """Loads one image; what is wrong with it becomes its status."""
        facts: dict[str, Any] = {"sha256": None, "width": None, "height": None}
        try:
            data = images.read_bytes(self.image_root, job.key)
            facts["sha256"] = hashlib.sha256(data).hexdigest()
            before = job.row and job.row.get("sha256")
            if before and before != facts["sha256"]:
                raise ValueError("the file is not the one that was captioned")
            image = images.decode(data)
            image = perturb.perturb(image, *self.perturbation, key=job.key)
            facts["height"], facts["width"] = image.shape[:2]
            return Loaded(facts, self.step.prepare(image, job))
        except Skipped as e:
            return Loaded(facts, self.blank, "skipped", encodable(str(e)))
        except (ValueError, ArithmeticError, MemoryError) as e:
            return Loaded(facts, self.blank, "failed", _reason(e))


def is_encodable(text: str) -> bool:
    """Whether text is valid Unicode; JSON can bring in half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encodable(text: str) -> str:
    """Returns text with what is not valid Unicode as an escape, such as `\\ud800`."""
    return text.encode("utf-8", "backslashreplace").decode()


def _reason(error: Exception) -> str:
    # A memory address would make two runs differ.
    text = re.sub(r" at 0x[0-9a-f]+", "", str(error)) or "no reason given"
    return encodable(f"{type(error).__name__}: {text}")


def ahead(
    pool: Executor, load: Callable[[Job], Loaded], jobs: Sequence[Job], size: int
) -> Iterator[list[tuple[Job, Loaded]]]:
    """Yields loaded batches of `size` in order, while the next ones are decoded."""
    waiting: deque[list[tuple[Job, Future[Loaded]]]] = deque()
    for start in range(0, len(jobs), size):
        batch = jobs[start : start + size]
        waiting.append([(job, pool.submit(load, job)) for job in batch])
        if len(waiting) > AHEAD:
            yield [(job, future.result()) for job, future in waiting.popleft()]
    while waiting:
        yield [(job, future.result()) for job, future in waiting.popleft()]


class Runner:
    """Runs loaded batches through the model, in smaller parts once memory ran out.

    Args:
      step: runs the model.
      blank: model input that takes the slot of an image that cannot be used.
      limit: the most images given to the model at once; halved when memory runs out.
    """

    def __init__(self, step: Step, blank: Any, limit: int):
        self.step, self.blank, self.limit, self.failed = step, blank, limit, 0

    def rows(self, batch: list[tuple[Job, Loaded]]) -> list[dict[str, Any]]:
        """Returns the rows of a batch, one per image, in order."""
        prepared = [loaded.prepared for _, loaded in batch]
        try:
            results = self._process(prepared)
        except _FAULTS as e:
            results = self._without_culprits(prepared, e)
        rows = []
        for (job, loaded), result in zip(batch, results):
            status, error = loaded.status, loaded.error
            if status == "done" and result.get("error"):
                status, error = "failed", result["error"]
            good = result if status == "done" else dict(self.step.empty)
            facts = {name: loaded.facts[name] for name in self.step.columns}
            row = {"key": job.key, **facts, **good, "status": status, "error": error}
            rows.append(row)
        return rows

    def _without_culprits(self, prepared: list, error: Exception) -> list[dict]:
        """Finds the images the model fails on, and runs the others beside blanks.

        Raises:
          Exception: the model's, when it fails on blanks as well; `error` itself, when
            it fails on no image alone.
        """
        faults: dict[int, dict[str, Any]] = {}
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
                        "model: use a smaller model, or --dtype float16"
                    ) from e
                self.limit = max(len(part) // 2, 1)
            else:
                continue
            # Outside the handler: the error holds the tensors of the failed call.
            _empty_cache()
        return results


def out_of_memory(error: Exception) -> bool:
    """Whether an error is torch's OutOfMemoryError; by name, to need no torch."""
    return type(error).__name__ == "OutOfMemoryError"


def _empty_cache() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
