"""Which of how many processes this is: from torchrun, SLURM or the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The place of this process among all.

    Attributes:
      rank: its number, from 0.
      world: how many processes there are.
      local: its number on its machine, from 0.
      source: where these numbers come from, for messages.
    """

    rank: int
    world: int
    local: int
    source: str


def ranks(
    environment: Mapping[str, str],
    rank: int | None = None,
    world_size: int | None = None,
) -> Ranks:
    """Finds out which process this is.

    A SLURM array multiplies what runs inside each of its tasks: 4 array tasks of 8
    processes are 32 ranks.

    Args:
      environment: of the process.
      rank: from the command line, or None.
      world_size: from the command line, or None.

    Raises:
      ValueError: when only one of the two is given, when they do not fit together, or
        when a variable is not a number.
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
        found = (
            _in_array(inner, number) if "SLURM_ARRAY_TASK_ID" in environment else inner
        )
    if not 0 <= found.rank < found.world:
        raise ValueError(
            f"rank {found.rank} of {found.world} processes ({found.source}); ranks go "
            f"from 0 to {found.world - 1}"
        )
    return found


def _in_array(inner: Ranks, number) -> Ranks:
    """Places the processes of one task among those of all tasks of a SLURM array."""
    tasks = number("SLURM_ARRAY_TASK_COUNT", 1)
    past = number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN")
    task = past // max(number("SLURM_ARRAY_TASK_STEP", 1), 1)
    source = inner.source if tasks == 1 else f"SLURM array and {inner.source}"
    return Ranks(
        task * inner.world + inner.rank, tasks * inner.world, inner.local, source
    )
