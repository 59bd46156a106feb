import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from item_jax import train as train_lib
from item_jax.cache import EmbeddingCache
from item_jax.embed import embed_records
from item_jax.fitted import FittedMethod, load_seeds
from item_jax.train import fit_method, train, training_set


@pytest.fixture(scope="module")
def cache(photos, towers, tmp_path_factory):
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads = 10, 2
    root, records = photos
    folder = tmp_path_factory.mktemp("cache")
    return embed_records(records, towers, c, images=root, folder=folder)


@pytest.fixture
def config(config):
    config.train.epochs = 2
    return config


def part_of(cache):
    return next(iter(cache.select(split="test")))


def test_a_head_is_written_with_its_seeds_and_read_again(cache, config, tmp_path):
    config.train.seeds = 2
    training = train(cache, config, workdir=tmp_path)
    made, new = training.methods, training.new
    assert new
    assert sorted(p.name for p in (tmp_path / "head").iterdir()) == [
        *("README.md", "config.json", "seed-1", "weights.safetensors")
    ]
    part = part_of(cache)
    for one, again in zip(made, load_seeds(tmp_path / "head")):
        assert again.config | {"schema": 0, "item_jax": 0} == json.loads(
            json.dumps(one.config)
        ) | {"schema": 0, "item_jax": 0}
        np.testing.assert_array_equal(again.score(part), one.score(part))
    training = made[0].config["training"]
    assert (training["real"], training["fake"]) == (6, 6)
    assert training["generators"] == ["gan", "vae"]
    assert training["benchmarks"] == ["own"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert not (tmp_path / "checkpoints").exists()
    mode = (tmp_path / "head/weights.safetensors").stat().st_mode
    assert mode & 0o044 == 0o044 & ~umask(), "a group can read it"


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_same_settings_again_change_nothing(cache, config, tmp_path):
    train(cache, config, workdir=tmp_path)
    before = (tmp_path / "head/weights.safetensors").stat().st_mtime_ns
    config.train.checkpoint_every = 1  # on which no head depends
    training = train(cache, config, workdir=tmp_path)
    made, new = training.methods, training.new
    assert not new and len(made) == 1
    assert (tmp_path / "head/weights.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.train.update(seeds=1), "seeds was 3 and is 1"),
        (
            lambda c: c.misalignment.update(name="tidy"),
            "misalignment.name was 'item' and is 'tidy'",
        ),
        (lambda c: c.train.update(threshold=0.9), "threshold was 0.5 and is 0.9"),
        (lambda c: c.train.update(generators=("vae",)), "training.fake was 6 and is 3"),
        (lambda c: c.update(seed=5), "training.seed was 0 and is 5"),
    ],
)
def test_nothing_fitted_is_replaced_unasked(cache, config, tmp_path, change, words):
    config.train.seeds = 3
    train(cache, config, workdir=tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "head").rglob("*") if p.is_file()}
    change(config)
    with pytest.raises(ValueError, match=f"{words}.*--as NAME.*--force"):
        train(cache, config, workdir=tmp_path)
    after = {p: p.read_bytes() for p in (tmp_path / "head").rglob("*") if p.is_file()}
    assert after == before
    train(cache, config, workdir=tmp_path, name="other")  # beside it
    assert (tmp_path / "methods/other/config.json").is_file()


def test_force_replaces_all_seeds_of_the_old(cache, config, tmp_path):
    config.train.seeds = 3
    train(cache, config, workdir=tmp_path)
    config.train.seeds = 2
    train(cache, config, workdir=tmp_path, force=True)
    seeds = sorted(p.name for p in (tmp_path / "head").glob("seed-*"))
    assert seeds == ["seed-1"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert not list(tmp_path.glob("*.partial"))


def test_metrics_hold_every_epoch_once_after_a_kill(cache, config, tmp_path):
    config.train.epochs, config.train.checkpoint_every = 7, 3

    class Killed(Exception):
        pass

    def kill(epoch, losses):
        if epoch == 5:
            raise Killed

    with pytest.raises(Killed):
        train(cache, config, workdir=tmp_path, on_epoch=kill)
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"stage": "train", "epo')  # torn
    train(cache, config, workdir=tmp_path)
    train(cache, config, workdir=tmp_path, method="tidy", name="tidy")
    rows = [
        json.loads(r) for r in (tmp_path / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    epochs = {
        name: [r["epoch"] for r in rows if r["method"] == name]
        for name in ("head", "tidy")
    }
    assert epochs == {"head": [1, 2, 3, 4, 5, 6, 7], "tidy": [1, 2, 3, 4, 5, 6, 7]}


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_head(cache, config, tmp_path):
    """SIGKILL in the real program; the second run goes on from its checkpoint."""
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    for name in ("killed", "whole"):
        (tmp_path / name / "embeddings").symlink_to(cache.folder)

    def command(name):
        return [
            *(sys.executable, "-m", "item_jax", "train", "--workdir", tmp_path / name),
            *("--config.train.epochs=400", "--config.train.checkpoint_every=20"),
            "--config.train.baselines=",
        ]

    subprocess.run(command("whole"), check=True, capture_output=True)
    run = subprocess.Popen(command("killed"), stderr=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.poll() is None:
        if metrics.is_file() and metrics.read_bytes().count(b"\n") > 60:
            break
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "it was over before the kill"
    subprocess.run(command("killed"), check=True, capture_output=True)
    for file in ("config.json", "weights.safetensors"):
        killed = (tmp_path / "killed/head" / file).read_bytes()
        assert killed == (tmp_path / "whole/head" / file).read_bytes()
    epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert epochs == list(range(1, 401))


def test_training_generators_are_chosen(cache, config):
    config.train.generators = ("vae",)
    data = training_set(cache, config)
    assert data.facts["generators"] == ["vae"] and data.facts["real"] == 3
    config.train.generators = ("vea",)
    with pytest.raises(ValueError, match="image of 'vea' in split 'train'; allowed: "):
        training_set(cache, config)
    config.train.generators, config.train.split = (), "trian"
    with pytest.raises(
        ValueError, match="split 'trian'; allowed: test, train. Did you mean 'train'"
    ):
        training_set(cache, config)


def test_only_generators_with_training_images_are_allowed(
    photos, towers, config, tmp_path
):
    root, records = photos
    changed = [
        dataclasses.replace(
            r,
            generator="" if r.label == "real" else r.generator,
            split="test" if (r.label, r.generator) == ("fake", "gan") else r.split,
        )
        for r in records
    ]
    cache = embed_records(changed, towers, config, images=root, folder=tmp_path / "a")
    config.train.generators = ("gan",)
    with pytest.raises(ValueError) as refused:
        training_set(cache, config)
    assert str(refused.value) == (
        "train.generators: no labelled image of 'gan' in split 'train'; allowed: vae."
    )
    config.train.generators, config.train.split = ("vae",), "test"
    cache = embed_records(
        [dataclasses.replace(r, split="test", label="fake") for r in records],
        *(towers, config),
        images=root,
        folder=tmp_path / "b",
    )
    with pytest.raises(ValueError, match="in split 'test', of generators vae; those "):
        training_set(cache, config)


def test_shared_real_images_come_along(photos, towers, config, tmp_path):
    """`train/real` beside `train/sdv14/ai`: choosing sdv14 keeps the real images."""
    root, records = photos
    changed = [
        dataclasses.replace(r, generator="" if r.label == "real" else r.generator)
        for r in records
    ]
    cache = embed_records(changed, towers, config, images=root, folder=tmp_path)
    assert cache.real_sources == {"gan": "", "vae": ""}
    config.train.generators = ("vae",)
    data = training_set(cache, config)
    assert (data.facts["real"], data.facts["fake"]) == (6, 3)
    assert data.facts["generators"] == ["vae"]


def test_validation_images_are_those_of_the_generators_trained_on(
    photos, towers, config, tmp_path
):
    root, records = photos
    splits = {("gan", 0): "val", ("vae", 0): "val", ("vae", 1): "test"}
    seen = {}

    def moved(record):
        kind = record.generator, record.label
        seen[kind] = seen.get(kind, -1) + 1
        split = splits.get((record.generator, seen[kind]), record.split)
        return dataclasses.replace(record, split=split)

    cache = embed_records(
        list(map(moved, records)), towers, config, images=root, folder=tmp_path / "a"
    )

    def keys(parts):
        return {row["key"] for part in parts for row in part.rows}

    def labelled(**others):
        wanted = {"split": "val", **others}
        return {
            row["key"]
            for part, _ in cache
            for row in part.rows
            if row["label"] and all(row[k] == v for k, v in wanted.items())
        }

    data = training_set(cache, config)
    assert keys(data.validation) == labelled() != set()
    assert not keys(data.validation) & keys(data.parts)
    config.train.generators = ("vae",)
    assert keys(training_set(cache, config).validation) == labelled(generator="vae")
    # Nothing judges what was trained on: any split, or the validation images.
    for split in ("", "val"):
        config.train.split, config.train.generators = split, ()
        assert training_set(cache, config).validation == []
    # Of one label they judge nothing.
    only = [dataclasses.replace(r, split="val") for r in records if r.label == "fake"]
    rest = [r for r in records if r.key not in {o.key for o in only[:2]}]
    config.train.split = "train"
    cache = embed_records(
        [*only[:2], *rest], towers, config, images=root, folder=tmp_path / "b"
    )
    assert training_set(cache, config).validation == []


def test_settings_that_a_method_ignores_are_refused():
    refuse = train_lib.refuse_unused
    refuse("item", ["train.epochs", "misalignment.w2", "seed"])
    refuse("cosine", ["train.split"])
    with pytest.raises(ValueError, match="'cosine' does not use 'head.hidden_dim'"):
        refuse("cosine", ["head.hidden_dim"])
    with pytest.raises(ValueError, match="'constant' does not use 'seed'"):
        refuse("constant", ["seed"])
    with pytest.raises(ValueError, match="'tidy' sets misalignment.name = 'tidy'"):
        refuse("tidy", ["misalignment.name"])


def test_tidy_is_the_head_on_tidys_misalignment(cache, config):
    data = training_set(cache, config)
    (tidy,) = fit_method("tidy", data, config)
    config.misalignment.name = "tidy"
    (item,) = fit_method("item", data, config)
    part = part_of(cache)
    np.testing.assert_array_equal(tidy.score(part), item.score(part))
    assert tidy.config["training"]["settings"]["misalignment"]["name"] == "tidy"


@pytest.mark.parametrize("name", ["image_only", "text_only"])
def test_a_twin_is_the_head_on_one_modality_of_both_levels(name, cache, config):
    """It does not see the other modality, and sees the objects of its own."""
    config.misalignment.levels = "concat"
    (twin,) = fit_method(name, training_set(cache, config), config)
    part = part_of(cache)
    p = twin.score(part)
    noise = np.random.default_rng(0)

    def changed(field):
        values = getattr(part, field)
        drawn = noise.normal(size=values.shape).astype(np.float32)
        return twin.score(dataclasses.replace(part, **{field: drawn}))

    own, other = ("image", "object"), ("text", "phrase")
    if name == "text_only":
        own, other = other, own
    for field in other:
        np.testing.assert_array_equal(changed(f"{field}_emb"), p)
    for field in own:
        assert not np.allclose(changed(f"{field}_emb"), p)


def test_an_unfinished_cache_is_refused(cache, config, tmp_path):
    import shutil

    shutil.copytree(cache.folder, tmp_path / "c")
    (tmp_path / "c/shard-00001.safetensors").unlink()
    with pytest.raises(ValueError, match="1 of 3 shards are missing"):
        training_set(EmbeddingCache(tmp_path / "c"), config)
    assert isinstance(
        fit_method("constant", training_set(cache, config), config)[0], FittedMethod
    )
