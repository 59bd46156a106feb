"""The output folder of a sidecar: kills, resumption, merge, damage by others."""

import argparse
import errno
import json
import random
import shutil
import signal
import subprocess
import time

import fake_sidecars
import pytest
from sidecar_program import (
    BATCH,
    arguments,
    environment,
    program,
    run,
)

from item_jax import files
from item_sidecars import caption, shards
from item_sidecars import run as sidecar

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
