"""A small evaluation on disk, as a workdir, and a large one that is made up."""

import dataclasses

import numpy as np
import pytest

from item_jax import config as config_lib
from item_jax import results, testing
from item_jax.embed import embed_records
from item_jax.evaluate import evaluate_methods
from item_jax.experiments import get, output
from item_jax.experiments.artefact import Artefact
from item_jax.experiments.study import Missing
from item_jax.records import Record, write_records
from item_jax.train import fit_method
from item_jax.training_data import training_set
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
    scores = {
        name: 0.5 * own + 0.5 * labels * random.random(count)
        for name, own in zip(found.scores, noise)
    }
    return dataclasses.replace(
        found,
        rows=rows,
        labels=labels,
        cosines=random.random(count),
        scores=scores,
        seeds={name: [own] for name, own in scores.items()},
        groups={name: np.arange(k, count, 2) for k, name in enumerate(("gan", "vae"))},
    )


def write_experiments(folder) -> list[str]:
    """Three of the papers' drawings with figures that are made up; their titles."""
    random = np.random.default_rng(0)

    def row(method, **more):
        ap = random.uniform(0.5, 0.9)
        return {
            "method": method,
            "column": "average",
            **{"n": 100, "n_real": 60, "n_fake": 40, "trained": False},
            **{"seeds": 1, "covers": "test images", "chance": {"ap": 0.4}},
            "ap": ap,
            "interval_95": {"ap": (ap - 0.04, ap + 0.05)},
            "protocol": "full",
            "towers": "tiny",
            "dtype": "float32",
            "range": f"trained on nothing {HOSTILE}",
            "warnings": [],
        } | more

    perturbed = [
        {"condition": f"{kind}:{k}", "perturbation": f"{kind}:{k}", "captions": "kept"}
        for kind in ("noise", "blur", "jpeg")
        for k in (1, 2, 3)
    ]
    clean = {"condition": "clean", "perturbation": "none", "captions": "same"}
    spaces = [(m, c) for m in ("ITEM's D", "TIDY's D") for c in ("gan", "vae")]
    points = [
        {"method": m, "column": c, "label": label, "x": float(x), "y": float(y)}
        for m, c in spaces
        for label in ("real", "fake")
        for x, y in random.normal(size=(200, 2))
    ]
    found = {
        "robustness": Artefact(
            [row(m, **c) for m in ("item", "cosine") for c in (clean, *perturbed)],
            columns_by="condition",
            missing=[Missing("captions made again", "there are none", ())],
        ),
        "distances": Artefact(
            [
                row(m, column=c)
                for m in ("both", "global", "local")
                for c in ("gan", "vae", "average")
            ]
        ),
        "tsne": Artefact(
            [
                {"method": m, "column": c, "n": 400, "silhouette": 0.01}
                for m, c in spaces
            ],
            figures=("silhouette",),
            points=points,
        ),
    }
    for name, artefact in found.items():
        output.write(folder, name, get(name), artefact)
    return [get(name).TITLE for name in found]
