"""How cost grows: time and peak memory of embed and evaluate with the number of rows.

Each count runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import random_clip

EMBED = (1000, 2000, 4000, 8000, 16_000)
EVALUATE = (10_000, 100_000, 1_000_000)


def run(arguments):
    """Yields a row per stage and count."""
    quick = arguments.quick
    with tempfile.TemporaryDirectory() as folder:
        random_clip.save_random_clip(Path(folder) / "clip", "tiny")
        for stage, counts in (("embed", EMBED), ("evaluate", EVALUATE)):
            for count in counts[:2] if quick else counts:
                command = [sys.executable, "-m", "benchmarks.growth", stage]
                done = subprocess.run(
                    [*command, str(count), folder],
                    capture_output=True,
                    text=True,
                    cwd=Path(__file__).parent.parent,
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                yield json.loads(done.stdout.splitlines()[-1])


def embed(count: int, folder: Path) -> None:
    """Embeds `count` images (200 files, met again and again) with a tiny tower."""
    from benchmarks.embedding import make_records
    from item_jax import config, embed_records, load_towers, write_records
    from item_jax.datasets import jsonl

    root = folder / "images"
    root.mkdir(exist_ok=True)
    files = make_records(root, 200)
    import dataclasses

    def links():
        for i in range(count):
            record = files[i % len(files)]
            link = root / f"{i}-{record.key}"
            if not link.exists():
                link.symlink_to(record.key)
            yield dataclasses.replace(record, key=link.name)

    write_records(folder / f"{count}.jsonl", links())
    towers = load_towers(folder / "clip")
    records, _ = jsonl.load(folder / f"{count}.jsonl")
    c = config.default()
    c.embed.threads = 2
    embed_records(records, towers, c, images=root, folder=folder / f"e{count}")


def evaluate(count: int, folder: Path) -> None:
    """Evaluates a cache of `count` rows, 2 objects each, D = 32."""
    from item_jax import config, evaluate_heads, train_heads
    from item_jax.cache import EmbeddingCache, Embeddings

    c = config.default()
    c.train.epochs, c.evaluate.bootstrap = 1, 0
    size, rng = 8192, np.random.default_rng(0)
    manifest = {
        "fingerprint": {"storage": "float32", "dtype": "float32", "records_sha256": ""},
        "towers": "benchmark",
        "embed_dim": 32,
        "records": count,
        "shards": -(-count // size),
    }
    cache = EmbeddingCache.create(folder / f"c{count}", manifest)
    for shard in range(manifest["shards"]):
        n = min(size, count - shard * size)
        rows = [
            {
                "key": f"{shard}-{i}",
                "label": ("real", "fake")[i % 2],
                "benchmark": "b",
                "generator": f"g{i % 8}",
                "split": "train" if shard == 0 and i < n // 2 else "test",
                "status": "done",
                "error": None,
                "caption": "a caption of ordinary length, as captions go",
                "objects": [],
            }
            for i in range(n)
        ]
        draw = lambda k: rng.normal(size=(k, 32)).astype(np.float32)  # noqa: E731
        offsets = np.arange(n + 1, dtype=np.int64) * 2
        cache.write(
            shard,
            Embeddings(rows, draw(n), draw(n), draw(2 * n), draw(2 * n), offsets),
            rows,
        )
    heads = train_heads(cache, c)
    evaluate_heads(cache, heads, c, workdir=folder / f"r{count}")


if __name__ == "__main__":
    stage, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    start = time.perf_counter()
    globals()[stage](count, folder)
    # Linux's own count: getrusage's also knows the memory of whoever started this.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10
    seconds = time.perf_counter() - start
    row = {"stage": stage, "rows": count, "seconds": seconds}
    print(json.dumps(row | {"rows/s": count / seconds, "peak MiB": peak}))
