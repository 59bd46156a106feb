"""The run loop of the sidecars: kills, ranks, resume, merge, bad images."""

import argparse
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_sidecars
import numpy as np
import pytest
from PIL import Image

from item_jax import files
from item_jax.datasets import folder
from item_sidecars import caption, shards
from item_sidecars import run as sidecar
from item_sidecars.ranks import ranks

ROOT = Path(__file__).parent.parent
BATCH, SHARD = 4, 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """53 pictures: five shards, the last not full; one is damaged, one has no
    caption, one has one only when asked again, one is refused by the processor."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    odd = {5: 17, 6: 19, 7: 13}
    for i in range(53):
        shape = (odd.get(i, 24 + i % 3), 20, 3)
        path = root / f"{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    damaged = root / "0" / "020.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    return root


def arguments(images, out, *more):
    return caption.parser().parse_args(
        [
            *("--images", str(images), "--out", str(out), "--model", "m"),
            *("--captioner", "fake_sidecars", "--workers", "2"),
            *("--batch-size", str(BATCH), "--shard-size", str(SHARD), *more),
        ]
    )


def run(images, out, *more):
    assert caption.caption(arguments(images, out, *more)) == 0
    return out / "captions.jsonl"


def environment(**more):
    paths = (str(ROOT), str(ROOT / "tests"))
    base = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    return base | {"PYTHONPATH": os.pathsep.join(paths)} | more


def program(images, out, *more):
    words = arguments(images, out, *more)
    command = [sys.executable, str(ROOT / "scripts" / "caption.py")]
    command += ["--images", str(words.images), "--out", str(out), "--model", "m"]
    command += ["--captioner", "fake_sidecars", "--workers", "2"]
    return [*command, "--batch-size", str(BATCH), "--shard-size", str(SHARD), *more]


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """The output folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole")
    run(pictures, out)
    return out


def rows(path):
    return [row for _, row in files.read_json_lines(path)]


# ------------------------------------------------------------------------------ rows


def test_every_image_has_a_row(pictures, whole):
    found = rows(whole / "captions.jsonl")
    assert [r["key"] for r in found] == list(folder.tree(pictures).sizes)
    names = {"key", "sha256", "width", "height", "caption", "status", "error"}
    assert set(found[0]) == names
    by_key = {r["key"]: r for r in found}
    bad = by_key["0/020.png"]
    assert bad["status"] == "failed" and "PNG" in bad["error"]
    assert bad["caption"] is None and bad["width"] is None and bad["sha256"]
    empty = by_key["1/005.png"]
    assert empty["caption"] is None and "'a photo of'" in empty["error"]
    again = by_key["0/006.png"]
    assert again["retry_prompt"] == "a photo of" and again["caption"]
    refused = by_key["1/007.png"]
    assert refused["error"] == "ValueError: height must not be 13"
    assert sum(r["status"] == "done" for r in found) == 50
    # A caption is one line.
    assert all("\n" not in (r["caption"] or "") for r in found)


def test_a_damaged_image_leaves_its_neighbours_their_batch(pictures, whole, tmp_path):
    """A blank takes its slot: the others say what they say beside a black picture."""
    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    Image.new("RGB", (224, 224)).save(copy / "0" / "020.png")
    there = rows(run(copy, tmp_path / "out"))
    here = rows(whole / "captions.jsonl")
    different = [a["key"] for a, b in zip(here, there) if a != b]
    assert different == ["0/020.png"]


def test_pictures_are_upright(tmp_path):
    """Width, height and pixels are those after the EXIF orientation."""
    pixels = np.zeros((24, 20, 3), np.uint8)
    pixels[0, -1] = 10, 20, 30  # top right; top left after a quarter turn to the left
    picture = Image.fromarray(pixels)
    turned = tmp_path / "turned"
    turned.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 8
    picture.save(turned / "a.png", exif=exif)
    (row,) = rows(run(turned, tmp_path / "out"))
    assert (row["width"], row["height"]) == (24, 20)
    assert row["caption"].startswith("a 10-20-30 corner")


def test_perturbed_pictures_are_captioned(pictures, whole, tmp_path):
    out = run(pictures, tmp_path / "out", "--perturb", "blur:2")
    changed = rows(out)
    before = rows(whole / "captions.jsonl")
    assert [r["sha256"] for r in changed] == [r["sha256"] for r in before]
    assert changed[0]["caption"] != before[0]["caption"]
    assert shards.read_run(out.parent)["settings"]["perturbation"] == "blur:2"
    with pytest.raises(ValueError, match="unknown perturbation 'blurr'.*'blur'"):
        caption.caption(arguments(pictures, tmp_path / "new", "--perturb", "blurr:2"))


# ------------------------------------------------------------------ kills and resume


@pytest.mark.slow
@pytest.mark.parametrize("count", [20])
def test_killed_at_random_points_the_output_is_the_same(
    pictures, whole, tmp_path, count
):
    """The real program, SIGKILLs while it works, byte for byte."""
    expected = (whole / "captions.jsonl").read_bytes()
    chance = random.Random(0)
    kills = turn = 0
    while kills < count:
        out = tmp_path / f"out-{turn}"
        turn += 1
        while not (out / "captions.jsonl").exists():
            process = subprocess.Popen(
                program(pictures, out),
                env=environment(FAKE_SECONDS="0.02"),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            said = process.stdout.readline()  # it begins to work
            assert "53 images in 5 shards" in said
            time.sleep(chance.uniform(0, 0.12))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
            process.stdout.close()
        assert (out / "captions.jsonl").read_bytes() == expected
        for path in sorted((whole / "parts").iterdir()):
            assert (out / "parts" / path.name).read_bytes() == path.read_bytes()
    assert turn >= 1


def test_a_torn_tail_is_cut_at_every_byte(pictures, whole, tmp_path):
    """Whatever a kill left of the last line, the shard ends the same."""
    expected = (whole / "parts" / "part-00000.jsonl").read_bytes()
    keys = [json.loads(line)["key"] for line in expected.splitlines()]
    lines = expected.splitlines(keepends=True)
    shard = shards.Shard(tmp_path, 0, keys, BATCH)
    shard.partial.parent.mkdir()
    for length in range(len(lines[4]) + 1):
        # One whole batch, then a line torn off at `length`.
        shard.partial.write_bytes(b"".join(lines[:4]) + lines[4][:length])
        assert len(shard.open()) == 4
        shard.append([json.loads(line) for line in lines[4:8]])
        shard.append([json.loads(line) for line in lines[8:]])
        shard.finish()
        assert shard.path.read_bytes() == expected


def test_rows_after_the_last_whole_batch_are_made_again(whole, tmp_path):
    expected = (whole / "parts" / "part-00000.jsonl").read_bytes()
    keys = [json.loads(line)["key"] for line in expected.splitlines()]
    lines = expected.splitlines(keepends=True)
    shard = shards.Shard(tmp_path, 0, keys, BATCH)
    shard.partial.parent.mkdir()
    for damage, kept in (
        (b"".join(lines[:7]), 4),  # three rows of the second batch
        (b"".join(lines[:4]) + b"\0" * 100, 4),  # a hole of a power cut
        (b"".join(lines[:2]) + lines[3] + lines[2], 0),  # rows of other images
        (b"\xff\xfe" + expected, 0),
        (b"".join(lines[:4]) + b"{}\n" + lines[5], 4),
        (b"".join(lines[:4]) + b"3\n", 4),
        (b"", 0),
    ):
        shard.partial.write_bytes(damage)
        assert len(shard.open()) == kept
        shard.close()
        assert shard.partial.read_bytes() == b"".join(lines[:kept])


class NearlyFullDisk:
    """Writes seven bytes at a time, and none once `room` bytes are used."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self.file.write(data[: min(7, self.room)])
        self.room -= count
        return count


def test_a_full_disk_loses_no_row_and_is_named(whole, tmp_path):
    expected = (whole / "parts" / "part-00000.jsonl").read_bytes()
    batches = [json.loads(line) for line in expected.splitlines()]
    keys = [row["key"] for row in batches]
    shard = shards.Shard(tmp_path, 0, keys, BATCH)
    assert len(shard.open()) == 0
    shard._file = NearlyFullDisk(shard._file, room=len(expected) - 10)
    shard.append(batches[:4])
    shard.append(batches[4:8])
    with pytest.raises(OSError, match="No space left.*part-00000.partial"):
        shard.append(batches[8:])
    shard.close()
    assert len(shard.open()) == 8
    shard.append(batches[8:])
    shard.finish()
    assert shard.path.read_bytes() == expected


def test_a_kill_between_the_shard_and_its_mark(pictures, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    mark = out / "parts" / "part-00001.done.json"
    said = mark.read_bytes()
    mark.unlink()
    (out / "captions.jsonl").unlink()
    run(pictures, out)
    assert mark.read_bytes() == said


def test_a_finished_run_is_not_run_again(pictures, whole, monkeypatch, capsys):
    def never(*_):
        raise AssertionError("the model was asked")

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", never)
    run(pictures, whole)
    assert "50 done + 3 failed + 0 skipped" in capsys.readouterr().out


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


# --------------------------------------------------------------- fingerprint, merging


@pytest.mark.parametrize(
    "more, words",
    [
        (("--preset", "lavis-beam"), "captioner.preset is 'hf-greedy'.*'lavis-beam'"),
        (("--perturb", "jpeg:1"), "perturbation is 'none'.*'jpeg:1'"),
        (("--batch-size", "6"), "batch_size is 4.*6 now"),
        (("--shard-size", "8"), "shard_size is 12.*8 now"),
        (("--model", "n"), "captioner.id is 'fake-m'.*'fake-n'"),
    ],
)
def test_another_setting_is_refused_by_name(pictures, whole, more, words):
    before = {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=words):
        caption.caption(arguments(pictures, whole, *more))
    assert {p: p.read_bytes() for p in whole.rglob("*") if p.is_file()} == before


def test_other_images_are_refused(pictures, whole, tmp_path):
    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    (copy / "new.png").write_bytes((copy / "0" / "000.png").read_bytes())
    with pytest.raises(ValueError, match=r"images.count is 53.*54.*images.sha256"):
        caption.caption(arguments(copy, whole))


def test_a_changed_shard_or_run_is_noticed(pictures, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    old = (out / "captions.jsonl").read_bytes()
    part = out / "parts" / "part-00002.jsonl"
    part.write_bytes(part.read_bytes().replace(b"corner", b"korner", 1))
    with pytest.raises(ValueError, match="part-00002.jsonl is not what its mark"):
        caption.caption(arguments(pictures, out, "--merge"))
    assert (out / "captions.jsonl").read_bytes() == old
    run_json = out / "run.json"
    run_json.write_text(run_json.read_text().replace("hf-greedy", "hf-greasy"))
    with pytest.raises(ValueError, match="run.json is damaged.*fingerprint"):
        caption.caption(arguments(pictures, out))
    with pytest.raises(ValueError, match="no sidecar has run"):
        caption.caption(arguments(pictures, tmp_path / "nowhere", "--merge"))


def test_a_shard_is_made_of_whole_batches(pictures, tmp_path):
    with pytest.raises(ValueError, match="--shard-size 12 would"):
        caption.caption(arguments(pictures, tmp_path, "--shard-size", "14"))
    assert (
        sidecar.shard_size(argparse.Namespace(batch_size=48, shard_size=None)) == 1968
    )
    for batch, size in ((48, 1968), (9999, 9999)):
        words = argparse.Namespace(batch_size=batch, shard_size=None)
        assert sidecar.shard_size(words) == size


# ---------------------------------------------------------------- memory, canary, help


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize("most", [1, 2, 3])
def test_short_memory_halves_the_batch(
    pictures, whole, tmp_path, monkeypatch, most, capsys
):
    """The rows stay whole and in order; only what runs together shrinks."""
    sizes = []

    def caption_few(self, prepared, prompt=None):
        sizes.append(len(prepared))
        if len(prepared) > most:
            raise OutOfMemoryError("CUDA out of memory")
        return [f"{image.shape}" for image in prepared]

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", caption_few)
    found = rows(run(pictures, tmp_path / "out"))
    expected = rows(whole / "captions.jsonl")
    assert [r["key"] for r in found] == [r["key"] for r in expected]
    read = [r for r in found if r["status"] == "done"]
    assert all(r["caption"] == f"({r['height']}, {r['width']}, 3)" for r in read)
    assert max(sizes[sizes.index(2) :]) <= 2 and sizes[0] == 4
    assert "memory ran out" in capsys.readouterr().out


def test_no_memory_for_one_image_stops(pictures, tmp_path, monkeypatch):
    def never(self, prepared, prompt=None):
        raise OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", never)
    with pytest.raises(MemoryError, match="does not hold one image"):
        caption.caption(arguments(pictures, tmp_path / "out"))


def test_an_image_the_model_fails_on_fails_alone(
    pictures, whole, tmp_path, monkeypatch
):
    """Its neighbours run again with a blank in its place; a dead GPU stops all."""
    plain, asked = fake_sidecars.Captioner.caption, []

    def picky(self, prepared, prompt=None):
        asked.append(len(prepared))
        if any(image.shape[0] == 26 for image in prepared):
            raise RuntimeError("The size of tensor a (26) must match")
        return plain(self, prepared, prompt)

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", picky)
    found = rows(run(pictures, tmp_path / "out"))
    tall = {r["key"] for r in found if "tensor a (26)" in (r["error"] or "")}
    heights = {r["key"]: r["height"] for r in rows(whole / "captions.jsonl")}
    assert tall == {key for key, height in heights.items() if height == 26} != set()
    captions = [r["caption"] for r in found if r["status"] == "done"]
    batches = [c.split()[-1] for c in captions]
    # 14 batches of the grid, and the second try of the image without a caption.
    assert len(set(batches)) == 15 and asked[0] == 4

    def dead(self, prepared, prompt=None):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", dead)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        caption.caption(arguments(pictures, tmp_path / "dead"))
    assert not list((tmp_path / "dead" / "parts").glob("*.jsonl"))


def test_the_canary_is_asked_first(pictures, tmp_path, capsys):
    bird = tmp_path / "bird.png"
    Image.new("RGB", (20, 20), (1, 2, 3)).save(bird)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="should yield 'cat' and yielded 'a 1-2-3"):
        caption.caption(arguments(pictures, out, "--canary", f"{bird}=cat"))
    assert not out.exists()
    with pytest.raises(ValueError, match="not FILE=WORD"):
        caption.caption(arguments(pictures, out, "--canary", "cat"))
    run(pictures, out, "--canary", f"{bird}=corner")
    assert "the canary yields" in capsys.readouterr().out


def test_errors_are_messages(pictures, tmp_path):
    def stderr(*more):
        done = subprocess.run(
            [*program(pictures, tmp_path / "out"), *more],
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr

    message = stderr("--images", "nowhere")
    assert "no folder" in message and "nowhere" in message
    assert "Did you mean 'blip2'?" in stderr("--captioner", "blip-2")
    assert "json has no 'Captioner'" in stderr("--captioner", "json")


def test_unusual_names_survive(tmp_path):
    """Decomposed, quoted and foreign names; the index finds the same keys."""
    root = tmp_path / "images"
    root.mkdir()
    picture = Image.new("RGB", (20, 20), (9, 9, 9))
    for name in ("cafe\u0301.png", 'a "b".png', "\u65e5\u672c.PNG", "x\u2028y.png"):
        picture.save(root / name, "PNG")
    (root / "note.txt").write_text("no image")
    found = rows(run(root, tmp_path / "out"))
    assert [r["key"] for r in found] == list(folder.tree(root).sizes)
    assert all(r["status"] == "done" for r in found) and len(found) == 4


# ------------------------------------------------------------- files made by others


def settings_of(out):
    return json.loads((out / "run.json").read_text())["settings"]


def rewrite_run(out, **changes):
    """Changes settings of run.json as somebody would who also knows the fingerprint."""
    settings = settings_of(out) | changes
    run_json = {"settings": settings, "fingerprint": shards.digest(settings)}
    (out / "run.json").write_text(json.dumps(run_json))


def test_a_run_of_an_older_version_is_refused(pictures, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    rewrite_run(out, schema="item-sidecar/1")
    for more in ((), ("--merge",)):
        with pytest.raises(ValueError, match="item-sidecar/1.*no longer 'ok'.*--out"):
            caption.caption(arguments(pictures, out, *more))


@pytest.mark.parametrize(
    "text, words",
    [
        ("[]", "run.json: expected a JSON object, found"),
        ("{", "run.json: not JSON"),
        ("[" * 200_000, "run.json: JSON nested too deeply"),
        ("{}", "run.json: 'settings' is missing"),
        ('{"settings": {}}', "run.json: 'fingerprint' is missing"),
        ('{"settings": 3, "fingerprint": "x"}', "run.json: 'settings' is 3"),
        ('{"settings": {"a": NaN}}', "run.json: not JSON .NaN is not a finite number"),
        ('{"settings": {"a": "\\ud800"}, "fingerprint": ""}', "run.json is damaged"),
    ],
)
def test_a_damaged_run_is_named(pictures, tmp_path, text, words):
    """E4, E7: file and field, never a traceback."""
    (tmp_path / "run.json").write_text(text)
    for more in ((), ("--merge",)):
        with pytest.raises(ValueError, match=words):
            caption.caption(arguments(pictures, tmp_path, *more))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"images": 3}, "'images.count' is missing"),
        ({"images": {"count": "53", "sha256": ""}}, "'images.count' is '53'"),
        ({"images": {"count": -1, "sha256": ""}}, "images.count is below 1"),
        ({"images": {"count": 53}}, "'images.sha256' is missing"),
        ({"shard_size": 0}, "shard_size is below 1"),
        ({"shard_size": True}, "'shard_size' is True"),
        # Answers at once, whatever the file claims.
        (
            {"images": {"count": 10**15, "sha256": ""}, "shard_size": 1},
            "999999999999995 of 1000000000000000 shards.*part-00005, part-00006",
        ),
    ],
)
def test_impossible_settings_of_a_run_are_named(
    pictures, whole, tmp_path, changes, words
):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    rewrite_run(out, **changes)
    with pytest.raises(ValueError, match=words):
        caption.caption(arguments(pictures, out, "--merge"))


@pytest.mark.parametrize(
    "mark, words",
    [
        ("[]", "part-00001.done.json: expected a JSON object"),
        ("{}", "part-00001.done.json: 'sha256' is missing"),
        ('{"sha256": 3}', "part-00001.done.json: 'sha256' is 3"),
    ],
)
def test_a_damaged_mark_is_named(pictures, whole, tmp_path, mark, words):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (out / "parts" / "part-00001.done.json").write_text(mark)
    with pytest.raises(ValueError, match=words):
        caption.caption(arguments(pictures, out, "--merge"))


@pytest.mark.parametrize(
    "row, words",
    [
        ({"key": "0/000.png", "error": None}, "line 1: 'status' is missing"),
        ({"key": "0/000.png", "status": "ok", "error": None}, "line 1: status is 'ok'"),
        ({"key": 3, "status": "done", "error": None}, "line 1: 'key' is 3"),
        ([], "line 1: 'key' is missing"),
    ],
)
def test_a_damaged_row_is_named(pictures, whole, tmp_path, row, words):
    """Also when the mark was made to fit it."""
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    part = out / "parts" / "part-00001.jsonl"
    part.write_text(json.dumps(row) + "\n")
    mark = {"sha256": files.sha256(part)}
    (out / "parts" / "part-00001.done.json").write_text(json.dumps(mark))
    with pytest.raises(ValueError, match=f"part-00001.jsonl, {words}"):
        caption.caption(arguments(pictures, out, "--merge"))


def test_a_shard_with_a_row_without_status_is_not_finished(whole, tmp_path):
    """A shard file without its mark counts as finished if every line is a row."""
    expected = (whole / "parts" / "part-00000.jsonl").read_bytes()
    keys = [json.loads(line)["key"] for line in expected.splitlines()]
    shard = shards.Shard(tmp_path, 0, keys, BATCH)
    shard.path.parent.mkdir()
    shard.path.write_bytes(expected.replace(b'"status": "done"', b'"state": "done"', 1))
    assert not shard.done()
    shard.path.write_bytes(expected)
    assert shard.done()


# -------------------------------------------------------------------------- adapters


class Surrogate(fake_sidecars.Captioner):
    """Half of a surrogate pair, which is not valid Unicode."""

    def caption(self, prepared, prompt=None):
        return [
            "a \ud800 dog" if i == 1 else f"a dog {i}" for i in range(len(prepared))
        ]


class TooFew(fake_sidecars.Captioner):
    def caption(self, prepared, prompt=None):
        return ["a dog"] * (len(prepared) - 1)


class NotText(fake_sidecars.Captioner):
    def caption(self, prepared, prompt=None):
        return [None] * len(prepared)


def own_captioner(images, out, name):
    return caption.caption(arguments(images, out, "--captioner", f"{__name__}:{name}"))


def test_a_captioner_comes_from_any_module(pictures, whole, tmp_path):
    """package.module:Name of somebody else's; `fake_sidecars` is a bare module."""
    words = ("--captioner", "fake_sidecars:Captioner")
    found = run(pictures, tmp_path / "out", *words)
    assert found.read_bytes() == (whole / "captions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="no 'Captionr'.*Did you mean 'Captioner'"):
        caption.caption(
            arguments(pictures, tmp_path, "--captioner", "fake_sidecars:Captionr")
        )
    with pytest.raises(ValueError, match="captioner .* lacks caption; a captioner has"):
        caption.caption(
            arguments(pictures, tmp_path, "--captioner", "fake_sidecars:Grounder")
        )
    with pytest.raises(ValueError, match="tried to import no.such: ModuleNotFound"):
        caption.caption(arguments(pictures, tmp_path, "--captioner", "no.such"))


def test_a_caption_that_is_not_unicode_fails_its_row(pictures, tmp_path):
    """E4: a lone surrogate stops nothing and reaches no file."""
    assert own_captioner(pictures, tmp_path, "Surrogate") == 0
    found = rows(tmp_path / "captions.jsonl")
    second = [r for i, r in enumerate(found) if i % SHARD % BATCH == 1]
    assert all("not valid Unicode" in r["error"] for r in second) and len(second) == 13
    assert sum(r["status"] == "failed" for r in found) == 13 + 2  # and two bad images
    json.dumps(found, ensure_ascii=False).encode()  # raises on half a surrogate pair


@pytest.mark.parametrize("name", ["TooFew", "NotText"])
def test_a_captioner_that_breaks_its_interface_stops_the_run(pictures, tmp_path, name):
    """Rows were once lost without a word when an adapter returned too few."""
    with pytest.raises(
        sidecar.AdapterError, match=f"{name}.caption returned.*4 images"
    ):
        own_captioner(pictures, tmp_path, name)
    assert not list((tmp_path / "parts").glob("*.jsonl"))


# -------------------------------------------------------------------------- signals


@pytest.mark.parametrize("name, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_end_with_a_message(pictures, whole, tmp_path, name, status):
    """E3; the same command then continues to the same bytes."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        program(pictures, out),
        env=environment(FAKE_SECONDS="0.3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "53 images" in process.stdout.readline()
    process.send_signal(name)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert "stopped; the same command continues from here" in stderr
    assert "Traceback" not in stderr
    assert run(pictures, out).read_bytes() == (whole / "captions.jsonl").read_bytes()


def test_options_that_make_no_sense_are_refused(pictures, tmp_path, capsys):
    for more in (("--workers", "0"), ("--batch-size", "-1"), ("--shard-size", "x")):
        with pytest.raises(SystemExit) as stopped:
            arguments(pictures, tmp_path, *more)
        assert stopped.value.code == 2
        assert f"argument {more[0]}: invalid positive value" in capsys.readouterr().err
    with pytest.raises(ValueError, match="variable RANK is 'abc', not a number"):
        ranks({"RANK": "abc", "WORLD_SIZE": "2"})


# --------------------------------------------------------------------------- imports


def test_the_sidecars_load_no_jax():
    code = (
        "import caption, ground, compare_groundings\n"
        "import sys, item_sidecars.caption, item_sidecars.ground\n"
        "item_sidecars.caption.captioner_for('none')\n"
        "item_sidecars.ground.grounders()\n"
        "print(*sorted(sys.modules))"
    )
    path = os.pathsep.join((str(ROOT), str(ROOT / "scripts")))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "item_jax.records" in loaded
    # The environment of GLIP has none of these (scripts/requirements-glip.txt), or
    # they take seconds to import.
    absent = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "ml_collections"}
    absent |= {"absl", "etils", "safetensors", "sklearn", "tensorflow_datasets"}
    heavy = {"tensorflow", "torch", "transformers", "nltk", "matplotlib"}
    assert not loaded & (absent | heavy)
