"""Which of how many processes this is: from torchrun, SLURM or the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The place of this process among all.

    Attributes:
      rank: its number, from 0.
      world: how many processes there are.
      local: its number on its machine, from 0.
      source: where these numbers come from, for messages.
      array: of a whole SLURM array: its "first" task, "step" and "tasks" (their
        count), kept in `run.json` for when a part of it runs again; else None.
    """

    rank: int
    world: int
    local: int
    source: str
    array: Mapping[str, int] | None = None


def ranks(
    environment: Mapping[str, str],
    rank: int | None = None,
    world_size: int | None = None,
    *,
    begun: Any = None,
) -> Ranks:
    """Finds out which process this is.

    A SLURM array multiplies what runs inside each of its tasks: 4 array tasks of 8
    processes are 32 ranks. A part of an array, such as `--array=3,7`, takes the ranks
    that the same tasks had when the whole array ran.

    Args:
      environment: of the process.
      rank: from the command line, or None.
      world_size: from the command line, or None.
      begun: the `array` of the run that began in the output folder, or None.

    Raises:
      ValueError: when only one of the two is given, when they do not fit together, when
        a variable is not a number, or for a part of an array that never ran.
    """

    def number(name: str, default: int = 0) -> int:
        text = environment.get(name) or str(default)
        try:
            return int(text)
        except ValueError as e:
            raise ValueError(
                f"the environment variable {name} is {text!r}, not a number"
            ) from e

    if rank is not None and world_size is not None:
        found = Ranks(rank, world_size, rank, "--rank")
    elif rank is not None or world_size is not None:
        raise ValueError("--rank and --world-size belong together; one is missing")
    else:
        inner = Ranks(0, 1, 0, "a single process")
        if "RANK" in environment and "WORLD_SIZE" in environment:
            inner = Ranks(
                number("RANK"),
                number("WORLD_SIZE"),
                number("LOCAL_RANK"),
                "torchrun's RANK",
            )
        elif "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
            # A batch script without srun has SLURM_PROCID 0 as well, but no step.
            inner = Ranks(
                number("SLURM_PROCID"),
                number("SLURM_STEP_NUM_TASKS") or number("SLURM_NTASKS", 1),
                number("SLURM_LOCALID"),
                "SLURM_PROCID",
            )
        found = inner
        if "SLURM_ARRAY_TASK_ID" in environment:
            found = _in_array(inner, number, begun)
    if not 0 <= found.rank < found.world:
        raise ValueError(
            f"rank {found.rank} of {found.world} processes ({found.source}); ranks go "
            f"from 0 to {found.world - 1}"
        )
    return found


def _in_array(inner: Ranks, number: Callable[..., int], begun: Any) -> Ranks:
    """Places the processes of one task among those of all tasks of a SLURM array."""
    task, first = number("SLURM_ARRAY_TASK_ID"), number("SLURM_ARRAY_TASK_MIN")
    own = {
        "first": first,
        "step": max(number("SLURM_ARRAY_TASK_STEP", 1), 1),
        "tasks": number("SLURM_ARRAY_TASK_COUNT", 1),
    }
    last = number("SLURM_ARRAY_TASK_MAX", first + (own["tasks"] - 1) * own["step"])
    gaps = first + (own["tasks"] - 1) * own["step"] != last
    array = own
    if _is_array(begun) and (gaps or (first > begun["first"])):
        array = begun
    elif gaps:
        raise ValueError(
            f"the SLURM array has {own['tasks']} of the tasks {first} to {last}: run "
            "the whole array first, in this --out, then a part of it again; or give "
            "--rank and --world-size"
        )
    past = task - array["first"]
    place, rest = divmod(past, array["step"])
    if rest or not 0 <= place < array["tasks"]:
        raise ValueError(
            f"task {task} was not in the SLURM array that began in this --out: tasks "
            f"{array['first']} to "
            f"{array['first'] + (array['tasks'] - 1) * array['step']}"
        )
    source = inner.source
    if array["tasks"] > 1:
        source = f"SLURM array and {source}"
    return Ranks(
        place * inner.world + inner.rank,
        array["tasks"] * inner.world,
        inner.local,
        source if array is own else f"{source}, a part of it again",
        array if array["tasks"] > 1 else None,
    )


def _is_array(value: Any) -> bool:
    """Whether `run.json` has a usable array; a person may have edited it."""
    return (
        isinstance(value, dict)
        and all(type(value.get(name)) is int for name in ("first", "step", "tasks"))
        and value["step"] > 0
        and value["tasks"] > 1
    )
