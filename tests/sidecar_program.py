"""A whole run of `caption.py` with a captioner that needs no model, for the tests."""

import json
import os
import sys
from pathlib import Path

import nltk
import numpy as np
import pytest
from PIL import Image

from item_jax import files
from item_sidecars import caption, phrases

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


# The real tagger needs data that must be downloaded: phrases of a file stand in.
@pytest.fixture(scope="session")
def nltk_data(tmp_path_factory):
    """A tagger with a small vocabulary, where NLTK looks for its own."""
    model = nltk.tag.PerceptronTagger(load=False)
    sentences = [
        [("a", "DT"), ("corner", "NN"), ("in", "IN"), ("batch", "NN"), ("1", "CD")],
        [("the", "DT"), ("dog", "NN"), ("runs", "VBZ"), (".", ".")],
        [("a", "DT"), ("red", "JJ"), ("ball", "NN"), ("rolls", "VBZ")],
    ]
    model.train(sentences * 30, nr_iter=5)
    root = tmp_path_factory.mktemp("nltk_data")
    data = root / "taggers" / phrases.DATA
    data.mkdir(parents=True)
    learnt = {
        "weights": model.model.weights,
        "tagdict": model.tagdict,
        "classes": sorted(model.classes),
    }
    for name, value in learnt.items():
        (data / f"{phrases.DATA}.{name}.json").write_text(json.dumps(value))
    return root
