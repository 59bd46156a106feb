"""Images to verdicts with evidence: `item-jax predict` alone, against its stages.

The stages are four processes: `caption.py`, `ground.py`, `item-jax index`, and
`item-jax predict --records`, which embeds, scores and draws. The one command runs the
same captioner and grounder; a second run finds their answers in the cache. On 50 images
of the miniature world, with its own captioner and detector, and a head fitted
here. NLTK's tagger needs its data (scripts/README.md).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import config as config_lib
from item_jax import embed, train, training_data
from item_jax.datasets import miniature
from item_jax.datasets.dataset import RecordList
from item_jax.datasets.folder import FolderDataset
from item_jax.towers.towers import load_towers

SCRIPTS = Path(__file__).resolve().parent.parent
IMAGES = 50
JAX = ("-m", "item_jax")


def run(arguments):
    """Yields one row: seconds of each stage, and of all in one command."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        world = miniature.unpack(folder)
        records = FolderDataset(world / "images", *miniature.text_files(world)).records
        photos = folder / "photos"
        photos.mkdir()
        test = [record for record in records if record.split == "test"]
        count = 10 if arguments.quick else IMAGES
        for record in test[:: len(test) // count][:count]:
            name = record.key.replace("/", "-")
            shutil.copy(world / "images" / record.key, photos / name)
        _fit(world, records, folder)
        rounds = [_round(folder, world, i) for i in range(min(arguments.rounds, 3))]
        row = {name: float(np.median([r[name] for r in rounds])) for name in rounds[0]}
        yield {"images": count, "rounds": len(rounds), **row}


def _fit(world: Path, records: list[Any], folder: Path) -> None:
    """Fits a head on a few images; how well it judges does not matter here."""
    config = miniature.get_config(world)
    config.train.epochs = 3
    wanted = [r for r in records if r.split == "train" and r.generator in ("", "vae")]
    data = RecordList(wanted[::10], world / "images")
    towers = load_towers(config.tower, config.dtype)
    cache = embed.embed_records(data, towers, config, folder=folder / "embeddings")
    config_lib.check(config)
    train.fit_method("item", training_data.training_set(cache, config), config)[0].save(
        folder / "head"
    )


def _round(folder: Path, world: Path, number: int) -> dict[str, float]:
    """Runs the stages, then the one command twice; compares what they say."""
    out = folder / f"round-{number}"
    photos, records = str(folder / "photos"), str(out / "records.jsonl")
    captions = str(out / "captions" / "captions.jsonl")
    models = ("grounder", "--ground-model", str(world / "detector"))
    judge = (*JAX, "predict", photos, "--head", str(folder / "head"))
    staged = {
        "caption s": (
            *(str(SCRIPTS / "caption.py"), "--images", photos),
            *("--out", str(out / "captions"), "--model", str(world / "captioner")),
        ),
        "ground s": (
            *(str(SCRIPTS / "ground.py"), "--images", photos, "--captions", captions),
            *("--grounder", "grounder", "--model", str(world / "detector")),
            *("--out", str(out / "objects")),
        ),
        "index s": (
            *(*JAX, "index", "--images", photos, "--captions", captions),
            *("--objects", str(out / "objects" / "objects.jsonl"), "--out", records),
        ),
        "embed, score, draw s": (
            *(*judge, "--records", records, "--json", str(out / "staged.jsonl")),
            *("--save-dir", str(out / "staged")),
        ),
    }
    one = (
        *(*judge, "--caption-with", str(world / "captioner"), "--ground-with", *models),
        *("--sidecar-cache", str(out / "cache"), "--json", str(out / "one.jsonl")),
        *("--save-dir", str(out / "one")),
    )
    stages = {name: _seconds(words) for name, words in staged.items()}
    together, again = _seconds(one), _seconds(one)
    if _scores(out / "staged.jsonl") != _scores(out / "one.jsonl"):
        raise SystemExit("the one command gives other scores than its stages")
    total, processor = np.sum(list(stages.values()), axis=0)
    return {
        **{name: wall for name, (wall, _) in stages.items()},
        "one command s": together[0],
        "of the sum": together[0] / total,
        "of the sum, processor time": together[1] / processor,
        "again s": again[0],
    }


def _seconds(words: tuple[str, ...]) -> tuple[float, float]:
    """Runs a program; returns its seconds, and those of the processor.

    The second number is what is left of the first on a machine that has other work.
    """
    paths = (str(SCRIPTS.parent), str(SCRIPTS / "miniature"))
    start, before = time.perf_counter(), _processor_seconds()
    done = subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start, _processor_seconds() - before


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _scores(path: Path) -> list[tuple[str, float]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [(Path(row["image"]).name, row["p_fake"]) for row in rows]
