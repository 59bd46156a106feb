"""Many processes of a sidecar: ranks, torchrun, SLURM arrays."""

import subprocess
import sys

import pytest
from sidecar_program import arguments, environment, program, run

from item_sidecars import caption, shards
from item_sidecars.ranks import ranks

# ----------------------------------------------------------------------------- ranks


def test_three_ranks_give_what_one_gives(pictures, whole, tmp_path):
    """Three processes side by side, told apart as torchrun does."""
    out = tmp_path / "out"
    processes = [
        subprocess.Popen(
            program(pictures, out),
            env=environment(RANK=str(r), WORLD_SIZE="3", LOCAL_RANK=str(r)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(3)
    ]
    said = [p.communicate(timeout=120) for p in processes]
    assert [p.returncode for p in processes] == [0, 0, 0], said
    # The last to finish merges.
    expected = (whole / "captions.jsonl").read_bytes()
    assert (out / "captions.jsonl").read_bytes() == expected
    (out / "captions.jsonl").unlink()
    run(pictures, out, "--merge")
    assert (out / "captions.jsonl").read_bytes() == expected


def test_the_number_of_ranks_may_change(pictures, whole, tmp_path, capsys):
    out = tmp_path / "out"
    for rank in ("0", "2"):
        more = ("--rank", rank, "--world-size", "3")
        assert caption.caption(arguments(pictures, out, *more)) == 0
    assert "2 shards of other ranks" in capsys.readouterr().out
    assert not (out / "captions.jsonl").exists()
    with pytest.raises(ValueError, match="2 of 5 shards.*part-00001, part-00004"):
        caption.caption(arguments(pictures, out, "--merge"))
    merged = run(pictures, out)
    assert merged.read_bytes() == (whole / "captions.jsonl").read_bytes()


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, (0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, 1)),
        (
            {"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1"}
            | {"SLURM_STEP_ID": "0"},
            (5, 16, 1),
        ),
        # A batch script that runs the program without srun is one process.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "16"}, (0, 1, 0)),
        (
            {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "4"}
            | {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2"},
            (3, 4, 0),
        ),
        # torchrun inside the tasks of an array.
        (
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}
            | {"SLURM_ARRAY_TASK_MIN": "0", "RANK": "5", "WORLD_SIZE": "8"}
            | {"LOCAL_RANK": "5"},
            (21, 32, 5),
        ),
    ],
)
def test_ranks_come_from_the_environment(variables, expected):
    found = ranks(variables)
    assert (found.rank, found.world, found.local) == expected
    assert (ranks(variables, 1, 2).rank, ranks(variables, 1, 2).world) == (1, 2)


def array(task, first, last, count, step=1):
    names = ("ID", "MIN", "MAX", "COUNT", "STEP")
    values = (task, first, last, count, step)
    return {f"SLURM_ARRAY_TASK_{n}": str(v) for n, v in zip(names, values)}


def test_a_part_of_an_array_takes_the_ranks_it_had():
    """B5: `--array=3,7` of an array of 16 was "rank 4 of 2"."""
    begun = ranks(array(0, 0, 15, 16)).array
    assert begun == {"first": 0, "step": 1, "tasks": 16}
    again = ranks(array(7, 3, 7, 2), begun=begun)
    assert (again.rank, again.world) == (7, 16) and "part" in again.source
    assert again.array == begun
    # One task alone, or a range: they do not begin where the array did.
    for variables in (array(5, 5, 5, 1), array(5, 4, 6, 3)):
        found = ranks(variables, begun=begun)
        assert (found.rank, found.world) == (5, 16)
    # With processes inside, and with a step.
    inside = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    assert ranks(array(7, 3, 7, 2) | inside, begun=begun).rank == 15
    begun = ranks(array(1, 1, 7, 4, 2)).array
    assert ranks(array(5, 5, 5, 1, 1), begun=begun).rank == 2
    # The whole array again, or another whole one, is as before.
    assert ranks(array(5, 0, 15, 16), begun=begun).world == 16
    for wrong in (None, {}, {"first": "0"}, [], {"first": 0, "step": 0, "tasks": 2}):
        with pytest.raises(ValueError, match="run the whole array first"):
            ranks(array(7, 3, 7, 2), begun=wrong)
    with pytest.raises(ValueError, match="task 20 was not in the SLURM array"):
        ranks(array(20, 3, 20, 2), begun={"first": 0, "step": 1, "tasks": 16})


def test_a_part_of_an_array_finishes_the_run(pictures, whole, tmp_path):
    """The real program in the variables of SLURM; tasks 1 and 3 fail and run again."""
    out = tmp_path / "out"

    def task(*variables):
        done = subprocess.run(
            program(pictures, out),
            env=environment() | array(*variables),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    for number in (0, 2):
        task(number, 0, 3, 4)
    assert not (out / "captions.jsonl").exists()
    for number in (1, 3):
        task(number, 1, 3, 2)
    merged = (out / "captions.jsonl").read_bytes()
    assert merged == (whole / "captions.jsonl").read_bytes()


@pytest.mark.slow
def test_torchrun_with_two_processes(pictures, whole, tmp_path):
    """`torchrun` itself: the same bytes as of one process."""
    out = tmp_path / "out"
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = subprocess.run(
        [sys.executable, "-m", *launch, *program(pictures, out)[1:]],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "rank 1 of 2 (torchrun's RANK)" in done.stdout
    merged = (out / "captions.jsonl").read_bytes()
    assert merged == (whole / "captions.jsonl").read_bytes()


def test_impossible_ranks_are_refused():
    with pytest.raises(ValueError, match="belong together"):
        ranks({}, 1, None)
    with pytest.raises(ValueError, match="rank 2 of 2 processes.*0 to 1"):
        ranks({}, 2, 2)


def test_two_writers_of_a_shard_are_refused(tmp_path):
    first = shards.Shard(tmp_path, 0, ["a"], 1)
    first.open()
    with pytest.raises(ValueError, match="another process.*--rank"):
        shards.Shard(tmp_path, 0, ["a"], 1).open()
    first.close()
