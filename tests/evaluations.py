"""A small evaluation on disk, as a workdir, and a large one that is made up."""

import dataclasses

import numpy as np
import pytest

from item_jax import config as config_lib
from item_jax import results, testing
from item_jax.embed import embed_records
from item_jax.evaluate import evaluate_methods
from item_jax.records import Record, write_records
from item_jax.train import fit_method, training_set
from item_jax.workdir import Workdir

# What others may write into keys, captions and names.
HOSTILE = "</script><script>hacked=1</script><img src=x onerror=hacked=2>\u202e$x^ {y}"


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory, towers):
    """A workdir with records, a cache, a head, two baselines, results: 24 images of two
    generators, of which one fails."""
    workdir = Workdir(tmp_path_factory.mktemp("evaluated"))
    root = workdir.path / "images"
    records = testing.save_random_images(root)
    bad = Record("test/vae/1_fake/gone.png", "fake", "own", "vae", "test", "x")
    write_records(workdir.records, [*records, bad])
    c = config_lib.default()
    c.embed.shard_size, c.embed.threads, c.train.epochs = 10, 2, 5
    c.evaluate.bootstrap = 20
    cache = embed_records(
        [*records, bad], towers, c, images=root, folder=workdir.cache()
    )
    data = training_set(cache, c)
    fitted = {"head": fit_method("item", data, c)}
    fitted |= {name: fit_method(name, data, c) for name in ("constant", "cosine")}
    for name, (one, *_) in fitted.items():
        one.save(workdir.method(name))
    evaluate_methods(cache, fitted, c, folder=workdir.results())
    return workdir


def enlarged(found: results.Results, count: int) -> results.Results:
    """The same with more images: random scores, hostile text in the first ten."""
    random = np.random.default_rng(0)
    rows, labels = [], random.integers(0, 2, count)
    for i in range(count):
        text = HOSTILE if i < 10 else f"a small dog on beach number {i}"
        generator = ("gan", "vae")[i % 2]
        rows.append(
            {
                "key": f"test/{i:06d} {text if i < 10 else ''}.png",
                "label": ("real", "fake")[labels[i]],
                "benchmark": "own",
                "generator": generator,
                "split": "test",
                "caption": text,
            }
        )
    noise = random.random((len(found.scores), count))
    return dataclasses.replace(
        found,
        rows=rows,
        labels=labels,
        cosines=random.random(count),
        scores={
            name: 0.5 * own + 0.5 * labels * random.random(count)
            for name, own in zip(found.scores, noise)
        },
        groups={name: np.arange(k, count, 2) for k, name in enumerate(("gan", "vae"))},
    )
