"""Every leaf of every JSON file that a command reads, replaced or removed.

Whatever is done to it, the command ends with a sentence and status 2, or is not
affected; never with a traceback.
"""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from item_jax.__main__ import main
from item_jax.embed import embed_records
from item_jax.train import train

VALUES = (None, [], {}, "x", "", -1, 10**9, 0.5, True, "\ud800", float("nan"))
GONE = object()


@pytest.fixture(scope="module")
def study(photos, towers, tmp_path_factory):
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads, c.train.epochs = 12, 2, 1
    c.head.hidden_dim = 4
    root, records = photos
    folder = tmp_path_factory.mktemp("study")
    some = records[:4]
    cache = embed_records(some, towers, c, images=root, folder=folder / "embeddings")
    c.train.split = ""
    train(cache, c, workdir=folder)
    train(cache, c, workdir=folder, method="cosine", name="cosine")
    return folder


def paths_of(value, above=()):
    """The place of every leaf and branch of a JSON value."""
    inner = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        inner = enumerate(value[:2])
    for name, child in inner:
        yield (*above, name)
        yield from paths_of(child, (*above, name))


def changed(value, path, new):
    value = copy.deepcopy(value)
    place = value
    for name in path[:-1]:
        place = place[name]
    if new is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return value


ASKED = "--methods=head,cosine"
"""What is not asked for by name may be left out, with a warning."""

FILES = ("embeddings/manifest.json", "head/config.json", "methods/cosine/config.json")


def tamperings(study, file):
    original = json.loads((study / file).read_text())
    return [
        (path, new) for path in paths_of(original) for new in (*VALUES, GONE)
    ], original


def tamper(study, file, cases, original, capsys, tmp_path):
    folder = tmp_path / "w"
    shutil.copytree(study, folder)
    refused = 0
    for path, new in cases:
        text = json.dumps(changed(original, path, new))
        (folder / file).write_text(text)
        options = ["--config.evaluate.split=", ASKED]
        status = main(["evaluate", "--workdir", str(folder), *options])
        error = capsys.readouterr().err
        assert status in (0, 2), (file, path, new)
        if status == 2:
            refused += 1
            assert error.startswith("item-jax evaluate: "), (file, path, new, error)
            assert len(error) < 2000, (file, path, new)
    return refused


@pytest.mark.parametrize("file", FILES)
def test_some_leaves(study, file, capsys, tmp_path):
    cases, original = tamperings(study, file)
    rng = np.random.default_rng(0)
    some = [cases[i] for i in rng.choice(len(cases), 12, replace=False)]
    assert tamper(study, file, some, original, capsys, tmp_path) > 2


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_every_leaf(study, file, capsys, tmp_path, monkeypatch):
    # Hundreds of evaluations: their figures are drawn from results, not from this file.
    monkeypatch.setattr("item_jax.figures.save", lambda found, folder: [])
    cases, original = tamperings(study, file)
    assert tamper(study, file, cases, original, capsys, tmp_path) > len(cases) / 3


def test_whole_files_that_are_not_json_objects(study, capsys, tmp_path):
    folder = tmp_path / "w"
    shutil.copytree(study, folder)
    for file in FILES:
        original = (folder / file).read_bytes()
        for data in (b"", b"[]", b"\xff\xfe", b"{", b"[" * 100_000, b"1e400"):
            (folder / file).write_bytes(data)
            assert main(["evaluate", "--workdir", str(folder), ASKED]) == 2
            assert Path(file).name in capsys.readouterr().err
        (folder / file).write_bytes(original)
