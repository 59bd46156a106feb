"""Several devices and several processes: equal results, and their overhead.

Emulated CPU devices and processes share the cores of one machine, so they bring no
speed-up here. The suite checks that their results equal those of one device.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.embedding import make_records
from benchmarks.race import unit
from item_jax import testing
from item_jax.cache import EmbeddingCache
from item_jax.records import write_records


def run(arguments):
    """Yields one row per number of devices, mode and number of processes."""
    count = 64 if arguments.quick else 512
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        testing.save_random_clip(folder / "clip", "tiny")
        (folder / "images").mkdir()
        records = make_records(folder / "images", count)
        write_records(folder / "records.jsonl", records)
        reference = None
        settings = [(d, m, 1) for d in (1, 2, 4, 8) for m in ("jit", "pmap")]
        settings += [(1, "jit", p) for p in (2, 3, 4)]
        for devices, mode, processes in settings:
            workdir = folder / f"{devices}-{mode}-{processes}"
            start = time.perf_counter()
            embed(folder, workdir, devices, mode, processes)
            seconds = time.perf_counter() - start
            found = everything(workdir)
            reference = found if reference is None else reference
            yield {
                "devices": devices,
                "mode": mode,
                "processes": processes,
                "images": count,
                "seconds, start to end": seconds,
                "largest difference": float(np.abs(found - reference).max()),
            }


def embed(folder, workdir, devices, mode, processes) -> None:
    """Runs `item-jax embed` in `processes` processes of `devices` emulated devices."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    command = [
        *(sys.executable, "-m", "item_jax", "embed", "--workdir", str(workdir)),
        f"--config.tower={folder / 'clip'}",
        f"--config.data.records={folder / 'records.jsonl'}",
        f"--config.data.images={folder / 'images'}",
        f"--config.embed.mode={mode}",
        "--config.embed.shard_size=37",
        "--config.embed.batch_size=64",
        "--config.embed.threads=2",
    ]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    runs = []
    for index in range(processes):
        own = dict(environment)
        if processes > 1:
            own |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(index),
            }
        extra = ["--distributed"] if processes > 1 else []
        runs.append(
            subprocess.Popen(
                command + extra, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    for process in runs:
        _, error = process.communicate()
        if process.returncode:
            raise SystemExit(error.decode())


def everything(workdir) -> np.ndarray:
    """Returns all embeddings of a cache as unit vectors, float64 [N, D]."""
    parts = [e.arrays() for e, _ in EmbeddingCache(workdir / "embeddings")]
    names = ("image_emb", "text_emb", "object_emb", "phrase_emb")
    return unit(np.concatenate([p[name] for p in parts for name in names]))


if __name__ == "__main__":
    print(json.dumps(list(run(None))))
