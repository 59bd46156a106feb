"""Growth of time and peak memory of embed and evaluate with the number of rows.

Each count runs in its own process, to measure its own peak memory.
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

from item_jax import settings, testing

EMBED = (1000, 2000, 4000, 8000, 16_000)
EVALUATE = (10_000, 100_000, 1_000_000)


def run(arguments):
    """Yields one row per stage and count."""
    quick = arguments.quick
    with tempfile.TemporaryDirectory() as folder:
        testing.save_random_clip(Path(folder) / "clip", "tiny")
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
    """Embeds `count` images (links to 200 files) with a tiny tower."""
    from benchmarks.embedding import make_records
    from item_jax import config, embed_records, load_towers, write_records
    from item_jax.datasets.dataset import open_dataset

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
    dataset = open_dataset(folder / f"{count}.jsonl", root)
    c = config.default()
    c.embed.threads = 2
    embed_records(dataset, towers, c, folder=folder / f"e{count}")


def evaluate(count: int, folder: Path) -> None:
    """Evaluates a cache of `count` rows, 2 objects each, D = 32."""
    from item_jax import config, evaluate_methods, fit_method, training_set
    from item_jax.cache import EmbeddingCache
    from item_jax.embeddings import Embeddings

    c = config.default()
    c.train.epochs = 1
    size, rng = 8192, np.random.default_rng(0)
    tower = {"name": "benchmark", "family": "", "checkpoint_sha256": ""}
    tower |= {"embed_dim": 32, "image_size": 32}
    embedding = {"tower": tower, "dtype": "float32", "captioner": None}
    embedding |= {"grounder": None}
    embedding |= {n: config.to_json(c[n]) for n in settings.SECTIONS}
    cache = EmbeddingCache.create(
        folder / f"c{count}",
        embedding,
        records=count,
        records_sha256="",
        shard_size=size,
        storage="float32",
        real_sources={},
    )
    box = {"phrase": "a thing", "box": [0.1, 0.1, 0.9, 0.9], "score": 0.9}
    for shard in range(-(-count // size)):
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
                "objects": [box, box],
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
    fitted = {"item": fit_method("item", training_set(cache, c), c)}
    evaluate_methods(cache, fitted, c, folder=folder / f"r{count}")


if __name__ == "__main__":
    stage, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    start = time.perf_counter()
    globals()[stage](count, folder)
    # From /proc: the peak of getrusage includes that of the parent process.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**10
    seconds = time.perf_counter() - start
    row = {"stage": stage, "rows": count, "seconds": seconds}
    print(json.dumps(row | {"rows/s": count / seconds, "peak MiB": peak}))
