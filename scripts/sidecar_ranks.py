"""Which of how many processes this is: from torchrun, SLURM or the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and which on its machine."""

    rank: int
    world: int
    local: int
    source: str


def ranks(environment: Mapping[str, str], rank=None, world_size=None) -> Ranks:
    """Finds out which process this is.

    A SLURM array counts on top of what runs inside each of its tasks: 4 array tasks of
    8 processes are 32 ranks.

    Args:
      environment: of the process.
      rank: of the command line, or None.
      world_size: of the command line, or None.

    Raises:
      ValueError: when only one of the two is given, or they do not fit.
    """

    def number(name: str, default: int = 0) -> int:
        return int(environment.get(name) or default)

    if (rank is None) != (world_size is None):
        raise ValueError("--rank and --world-size belong together; one is missing")
    if rank is not None:
        found = Ranks(rank, world_size, rank, "--rank")
    else:
        inner, outer = (0, 1, 0, "alone"), (0, 1)
        if "RANK" in environment and "WORLD_SIZE" in environment:
            place = number("RANK"), number("WORLD_SIZE"), number("LOCAL_RANK")
            inner = (*place, "torchrun's RANK")
        elif "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
            # Without srun, a batch script too has SLURM_PROCID, 0, but no step.
            world = number("SLURM_STEP_NUM_TASKS") or number("SLURM_NTASKS", 1)
            place = number("SLURM_PROCID"), world, number("SLURM_LOCALID")
            inner = (*place, "SLURM_PROCID")
        if "SLURM_ARRAY_TASK_ID" in environment:
            step = number("SLURM_ARRAY_TASK_STEP", 1)
            past = number("SLURM_ARRAY_TASK_ID") - number("SLURM_ARRAY_TASK_MIN")
            outer = past // step, number("SLURM_ARRAY_TASK_COUNT", 1)
        source = inner[3] if outer[1] == 1 else f"SLURM array and {inner[3]}"
        found = Ranks(
            outer[0] * inner[1] + inner[0], outer[1] * inner[1], inner[2], source
        )
    if not 0 <= found.rank < found.world:
        raise ValueError(
            f"rank {found.rank} of {found.world} processes ({found.source}); ranks go "
            f"from 0 to {found.world - 1}"
        )
    return found
