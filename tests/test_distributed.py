"""Real processes with jax.distributed (gloo on CPU): the results are those of one."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from item_jax import sharding
from item_jax.records import write_records

ROOT = Path(__file__).parent.parent


def start(count, *words):
    """Starts a command in `count` processes with one emulated device each."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    common = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "item_jax", *map(str, words)]
    if count > 1:
        command.append("--distributed")
    runs = []
    for index in range(count):
        own = {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(index),
        }
        options = dict(text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        environment = common | (own if count > 1 else {})
        runs.append(subprocess.Popen(command, env=environment, **options))
    return runs


def run(count, *words):
    """Runs a command to its end and returns what each process printed."""
    runs = start(count, *words)
    outputs = [r.communicate(timeout=300) for r in runs]
    for r, (_, error) in zip(runs, outputs):
        assert r.returncode == 0, error
    # Gloo, the transport, has a word of its own on standard output.
    return [re.sub(r"^\[Gloo\].*\n", "", out, flags=re.M) for out, _ in outputs]


def stages(count, photos, clip, folder):
    root, records = photos
    folder.mkdir()
    write_records(folder / "records.jsonl", records)
    commands = {
        "embed": (
            *(f"--config.tower={clip}", f"--config.data.images={root}"),
            *("--config.embed.shard_size=5", "--config.embed.batch_size=8"),
        ),
        "train": ("--config.train.epochs=4", "--config.train.checkpoint_every=2"),
        "evaluate": (),
    }
    for command, options in commands.items():
        outputs = run(count, command, "--workdir", folder, *options)
        assert outputs[0] and not any(outputs[1:]), "process 0 alone speaks"
    found = {}
    for name in ("embeddings", "head", "methods"):
        for path in sorted((folder / name).rglob("*.*")):
            found[f"{name}/{path.name}"] = path.read_bytes()
    found["scores"] = (folder / "results/scores.csv").read_text()
    return found


@pytest.fixture(scope="module")
def alone(photos, tiny_clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "run"
    return stages(1, photos, tiny_clip[0], folder)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_give_the_bytes_of_one(count, photos, tiny_clip, alone, tmp_path):
    """24 records in 5 shards: the processes have unequal shares."""
    found = stages(count, photos, tiny_clip[0], tmp_path / "run")
    assert found == alone
    assert json.loads(found["embeddings/manifest.json"])["shards"] == 5


@pytest.mark.slow
def test_a_process_that_dies_leaves_a_resumable_state(
    photos, tiny_clip, alone, tmp_path
):
    """Process 1 of 2 is killed at work; one process alone finishes what is left."""
    root, records = photos
    write_records(tmp_path / "records.jsonl", records)
    options = (
        *("embed", "--workdir", tmp_path, f"--config.tower={tiny_clip[0]}"),
        f"--config.data.images={root}",
        *("--config.embed.shard_size=5", "--config.embed.batch_size=8"),
    )
    folder = tmp_path / "embeddings"
    runs = start(2, *options)
    wait_for(lambda: (folder / "manifest.json").exists(), runs)
    runs[1].kill()
    # Its peer does its own share all the same; then it waits for the dead in vain.
    mine = [folder / f"shard-{shard:05d}.safetensors" for shard in (0, 2, 4)]
    wait_for(lambda: all(path.exists() for path in mine), runs[:1])
    for process in runs:
        process.kill()
        process.communicate()
    (text,) = run(1, *options)
    assert "24 images = 24 embedded" in text
    whole = {name for name in alone if name.startswith("embeddings/")}
    for name in whole:
        assert (tmp_path / name).read_bytes() == alone[name]


def wait_for(condition, runs):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and all(r.poll() is None for r in runs)
        time.sleep(0.005)


def test_half_a_set_of_variables_is_named(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES"):
        sharding.initialize()
