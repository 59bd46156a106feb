import json

import numpy as np
import pytest

from item_jax import protocol
from item_jax.embed import embed_records
from item_jax.evaluate import evaluate_methods
from item_jax.records import Record
from item_jax.tables import table
from item_jax.train import fit_method
from item_jax.training_data import training_set


def rows(*groups):
    """Rows of `(benchmark, generator, label, count)`."""
    return [
        {"benchmark": b, "generator": g, "label": label, "key": f"{b}/{g}/{label}/{i}"}
        for b, g, label, count in groups
        for i in range(count)
    ]


def sizes(found):
    return {name: len(index) for name, index in found.items()}


def test_shared_real_images_serve_every_generator():
    r = rows(
        ("u", "laion", "real", 5), ("u", "ldm", "fake", 3), ("u", "dalle", "fake", 2)
    )
    pairs = {"ldm": "laion", "dalle": "laion", "guided": "imagenet"}
    found = protocol.groups(r, real_sources=pairs)
    assert sizes(found) == {"dalle": 7, "ldm": 8}
    np.testing.assert_array_equal(found["dalle"], [0, 1, 2, 3, 4, 8, 9])
    # Without the sources it shows: real images alone and fakes alone.
    assert sizes(protocol.groups(r)) == {"dalle": 2, "laion": 5, "ldm": 3}


def test_own_real_images_and_unlabelled_ones():
    r = rows(("g", "adm", "real", 2), ("g", "adm", "fake", 3), ("g", "adm", None, 4))
    assert sizes(protocol.groups(r)) == {"adm": 5}
    assert protocol.groups(rows(("g", "", None, 1))) == {}
    assert sizes(protocol.groups(rows(("g", "", "fake", 1)))) == {"unnamed": 1}


def test_real_sources_do_not_cross_benchmarks():
    r = rows(
        *(("u", "laion", "real", 5), ("u", "ldm", "fake", 3)),
        *(("d", "laion", "real", 2), ("d", "ldm", "fake", 1)),
    )
    found = protocol.groups(r, real_sources={"ldm": "laion"})
    assert sizes(found) == {"d/ldm": 3, "u/ldm": 8}


def test_a_lone_folder_of_real_images_serves_whoever_has_none():
    """`train/real`, `test/real`, `test/sdv14/ai`: the layout that the README shows."""
    r = rows(("", "", "real", 5), ("", "sdv14", "fake", 3), ("", "adm", "fake", 2))
    sources = protocol.complete_real_sources(r)
    assert sources == {"adm": "", "sdv14": ""}
    assert sizes(protocol.groups(r, real_sources=sources)) == {"adm": 7, "sdv14": 8}


def test_two_folders_of_real_images_are_not_chosen_between():
    r = rows(("", "coco", "real", 5), ("", "lsun", "real", 5), ("", "sdv14", "fake", 3))
    assert protocol.complete_real_sources(r) == {}
    # One of them is spoken for, so that the other is alone.
    known = protocol.complete_real_sources(r, {"adm": "coco"})
    assert known == {"adm": "coco", "sdv14": "lsun"}


def test_generators_with_real_images_keep_their_own():
    r = rows(
        *(("", "", "real", 5), ("", "gan", "real", 2), ("", "gan", "fake", 2)),
        ("", "adm", "fake", 2),
    )
    assert protocol.complete_real_sources(r) == {"adm": ""}


def chosen(name, real, fake):
    r = rows(("b", "g", "real", real), ("b", "g", "fake", fake))
    labels = np.array([row["label"] == "fake" for row in r]).astype(int)
    (index,) = protocol.groups(r).values()
    keys = [row["key"] for row in r]
    picked = protocol.select(name, index, labels, keys)
    assert len(set(picked.tolist())) == len(picked)
    return picked, (int((labels[picked] == 0).sum()), int((labels[picked] == 1).sum()))


@pytest.mark.parametrize(
    ("real", "fake", "counts"),
    [
        (6000, 6000, (1000, 1000)),
        (1000, 1000, (1000, 1000)),
        (1000, 500, (100, 100)),  # DALLE-2 of DiffusionForensics
        (1000, 100, (100, 100)),  # Midjourney
        (30, 20, (30, 20)),
    ],
)
def test_unifd_takes_a_thousand_or_a_hundred(real, fake, counts):
    assert chosen("unifd", real, fake)[1] == counts


@pytest.mark.parametrize(
    ("real", "fake", "total"),
    [(1000, 1000, 1920), (1000, 500, 1408), (1000, 100, 1024)],
)
def test_paper_compat_drops_the_last_batch(real, fake, total):
    """The sizes that the cells of the papers' tables fit."""
    _, (kept_real, kept_fake) = chosen("paper_compat", real, fake)
    assert kept_real == real and kept_real + kept_fake == total


def test_full_is_everything_and_names_are_checked():
    assert chosen("full", 30, 20)[1] == (30, 20)
    with pytest.raises(ValueError, match="Did you mean 'paper_compat'"):
        chosen("paper-compat", 1, 1)
    with pytest.raises(ValueError, match="whole batches of 128.* with 50 images"):
        chosen("paper_compat", 30, 20)


def test_a_shared_image_is_embedded_once_and_scored_with_each(
    photos, towers, config, tmp_path
):
    root, records = photos
    pairs = {"a": "source", "b": "source"}
    test = [r for r in records if r.split == "test"]
    shared = [
        Record(
            r.key,
            r.label,
            "u",
            "source" if r.label == "real" else "ab"[i // 2 % 2],
            r.split,
            r.caption,
        )
        for i, r in enumerate(test)
    ]
    train = [r for r in records if r.split == "train"]
    options = dict(images=root, folder=tmp_path / "embeddings")
    facts = {"real_sources": pairs}
    cache = embed_records([*train, *shared], towers, config, facts=facts, **options)
    assert cache.counts()["in"] == 24  # each file once
    fitted = {"head": fit_method("item", training_set(cache, config), config)}
    results = evaluate_methods(cache, fitted, config, folder=tmp_path / "results")
    real = sum(r.label == "real" for r in shared)
    assert {n: f["n_real"] for n, f in results["generators"].items()} == {
        "a": real,
        "b": real,
    }
    assert all(f["auc"] is not None for f in results["generators"].values())
    assert results["counts"]["done"] == 12
    written = json.loads((tmp_path / "results/results.json").read_text())
    assert (
        written["protocol"]["name"] == "full"
        and written["protocol"]["real_sources"] == pairs
    )
    assert {f["protocol"] for f in written["generators"].values()} == {"full"}
    assert "protocol full: every image" in table(results)
    # A generator brings the source of its real images along.
    keys = {row["key"] for part in cache.select(generators=["a"]) for row in part.rows}
    assert {r.key for r in shared if r.generator in ("a", "source")} <= keys
    assert not {r.key for r in shared if r.generator == "b"} & keys
    # Other sources need no new embedding.
    before = {p.name: p.stat().st_mtime_ns for p in cache.folder.glob("shard*")}
    cache = embed_records(
        [*train, *shared],
        towers,
        config,
        facts={"real_sources": {"a": "source"}},
        **options,
    )
    assert {p.name: p.stat().st_mtime_ns for p in cache.folder.glob("shard*")} == before
    assert sorted(evaluate_methods(cache, fitted, config)["generators"]) == [
        *("a", "b")
    ]
    assert evaluate_methods(cache, fitted, config)["single_class"] == {"b": "fake"}


def test_the_protocol_is_recorded_and_counts_follow(photos, towers, config, tmp_path):
    root, records = photos
    cache = embed_records(records, towers, config, images=root, folder=tmp_path)
    fitted = {"head": fit_method("item", training_set(cache, config), config)}
    config.evaluate.protocol = "unifd"
    results = evaluate_methods(cache, fitted, config)
    assert results["protocol"]["name"] == "unifd"
    assert {f["protocol"] for f in results["generators"].values()} == {"unifd"}
    assert "protocol unifd: at most 1,000" in table(results)
    config.evaluate.protocol = "unfd"
    with pytest.raises(ValueError, match="Did you mean 'unifd'"):
        evaluate_methods(cache, fitted, config)
    config.evaluate.protocol = "paper_compat"
    with pytest.raises(ValueError, match="whole batches of 128"):
        evaluate_methods(cache, fitted, config)


def test_which_printed_cells_whole_batches_fit():
    """The counts that the docstring of `PROTOCOLS` gives."""
    from decimal import ROUND_HALF_UP, Decimal

    from item_jax.experiments.artefact import published

    def fits(acc, n):
        step = Decimal("0.01")
        printed = Decimal(str(round(100 * acc, 2))).quantize(step)
        near = round(acc * n)
        return any(
            (Decimal(100 * k) / n).quantize(step, ROUND_HALF_UP) == printed
            for k in (near - 1, near, near + 1)
        )

    def counted(table, system):
        sets = {"forensynths/whichfaceisreal", "genimage/ADM", "genimage/glide"}
        sets |= {"genimage/VQDM"}
        found = {
            r["column"]: r["acc"] for r in published(table) if r["method"] == system
        }
        few = {"dalle2": 1408, "midjourney": 1024}  # 11 and 8 batches
        out = [0, 0]
        for column, acc in found.items():
            own = few.get(column.rpartition("_")[2])
            if own:
                assert fits(acc, own) and not fits(acc, 1920)
            elif column in sets or column.startswith(("unifd/", "diffusionforensics/")):
                out[0] += fits(acc, 1920)
                out[1] += 1
        return tuple(out)

    assert counted("tables 1 and 2", "TIDY") == (9, 9)
    assert counted("tables 1 and 2", "ITEM") == (3, 9)
    assert counted("table 3", "ITEM") == (10, 10)
