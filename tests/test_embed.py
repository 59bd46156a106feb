import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from item_jax import images, pipeline, views
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import RecordList
from item_jax.embed import embed_images, embed_records, geometry_notice
from item_jax.records import Object, Record, write_records


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def everything(cache):
    parts = [embeddings.arrays() for embeddings, _ in cache]
    names = ("image_emb", "text_emb", "object_emb", "phrase_emb")
    return {name: np.concatenate([p[name] for p in parts]) for name in names}


def test_the_cache_holds_what_the_towers_say(photos, towers, config, tmp_path):
    """Against one image at a time, one view at a time."""
    root, records = photos
    cache = embed_records(records, towers, config, images=root, folder=tmp_path / "e")
    assert cache.counts() == {"in": 24, "done": 24, "failed": 0}
    assert cache.manifest["shards"] == 3
    rows = [row for embeddings, _ in cache for row in embeddings.rows]
    assert [row["key"] for row in rows] == [r.key for r in records]
    n = 0
    for embeddings, _ in cache:
        for i in range(len(embeddings)):
            record = records[n]
            n += 1
            image = images.read_image(root, record.key)
            whole = views.global_view(image, 32, geometry="item")
            expected = towers.encode_image(whole[None])[0]
            np.testing.assert_allclose(embeddings.image_emb[i], expected, atol=1e-5)
            expected = towers.encode_text([record.caption])[0]
            np.testing.assert_allclose(embeddings.text_emb[i], expected, atol=1e-5)
            own = slice(*embeddings.object_offsets[i : i + 2])
            assert own.stop - own.start == len(record.objects)
            for j, thing in enumerate(record.objects):
                view = views.object_view(image, thing.box, 32)
                expected = towers.encode_image(view[None])[0]
                found = embeddings.object_emb[own][j]
                np.testing.assert_allclose(found, expected, atol=1e-5)
                expected = towers.encode_text([thing.phrase])[0]
                found = embeddings.phrase_emb[own][j]
                np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 7, 24])
def test_jit_and_pmap_on_eight_devices_agree(photos, towers, config, tmp_path, count):
    root, records = photos
    found = {}
    for mode in ("jit", "pmap"):
        config.embed.mode = mode
        cache = embed_records(
            records[:count], towers, config, images=root, folder=tmp_path / mode
        )
        found[mode] = everything(cache)
    for name, value in found["jit"].items():
        np.testing.assert_allclose(value, found["pmap"][name], atol=1e-6)


def test_batch_sizes_do_not_matter(photos, towers, config, tmp_path):
    root, records = photos
    small = embed_records(records, towers, config, images=root, folder=tmp_path / "s")
    config.embed.batch_size = config.embed.text_batch_size = 64
    large = embed_records(records, towers, config, images=root, folder=tmp_path / "l")
    for name, value in everything(small).items():
        np.testing.assert_allclose(value, everything(large)[name], atol=1e-5)


def test_failures_are_rows_and_counts_add_up(photos, towers, config, tmp_path):
    root, records = photos
    good = tmp_path / "good"
    embed_records(records, towers, config, images=root, folder=good)
    broken = tmp_path / "images"
    shutil.copytree(root, broken)
    png = (broken / records[3].key).read_bytes()
    (broken / records[3].key).write_bytes(png[:200])
    (broken / records[5].key).unlink()
    changed = list(records)
    changed[8] = dataclasses.replace(records[8], caption=None)
    changed[9] = dataclasses.replace(records[9], error="captions.jsonl, line 9: OOM")
    cache = embed_records(
        changed, towers, config, images=broken, folder=tmp_path / "bad"
    )
    assert cache.counts() == {"in": 24, "done": 20, "failed": 4}
    failures = {row["key"]: row["error"] for row in cache.summary()[1]}
    assert list(failures) == [records[i].key for i in (3, 5, 8, 9)]
    three, five, eight, nine = failures.values()
    assert three.startswith("image: ") and five.startswith("image: ")
    assert eight == "caption: the record has none"
    assert nine == "sidecar: captions.jsonl, line 9: OOM"
    # The good ones are what they are without the bad ones beside them.
    kept = [i for i in range(24) if i not in (3, 5, 8, 9)]
    before = everything(EmbeddingCache(good))["image_emb"][kept]
    np.testing.assert_allclose(everything(cache)["image_emb"], before, atol=1e-6)


def test_failed_rows_are_tried_again_when_told(photos, towers, config, tmp_path):
    root, records = photos
    broken = tmp_path / "images"
    shutil.copytree(root, broken)
    hidden = broken / records[15].key
    hidden.rename(tmp_path / "hidden")

    def again(**options):
        cache = embed_records(
            records, towers, config, images=broken, folder=tmp_path / "e", **options
        )
        return cache, [cache.path(i).stat().st_mtime_ns for i in range(3)]

    cache, first = again()
    (tmp_path / "hidden").rename(hidden)
    cache, second = again()
    assert cache.counts()["failed"] == 1 and second == first
    cache, third = again(retry_failed=True)
    assert cache.counts() == {"in": 24, "done": 24, "failed": 0}
    assert third[1] > first[1] and third[::2] == first[::2]
    good = embed_records(records, towers, config, images=root, folder=tmp_path / "good")
    for name, array in everything(good).items():
        np.testing.assert_array_equal(everything(cache)[name], array)


def test_all_failed_is_a_cache_too(towers, config, tmp_path):
    records = [Record(f"{i}.jpg", "real", caption="x") for i in range(3)]
    cache = embed_records(
        records, towers, config, images=tmp_path, folder=tmp_path / "e"
    )
    assert cache.counts() == {"in": 3, "done": 0, "failed": 3}


def test_stop_at_the_first_failure(towers, config, tmp_path):
    config.embed.on_error = "stop"
    with pytest.raises(RuntimeError, match="a.jpg: image: "):
        embed_records(
            [Record("a.jpg", caption="x")],
            towers,
            config,
            images=tmp_path,
            folder=tmp_path / "e",
        )


def test_long_captions_are_cut_and_counted(photos, towers, config, tmp_path):
    root, records = photos
    records = [dataclasses.replace(records[0], caption="word " * 80), records[1]]
    cache = embed_records(records, towers, config, images=root, folder=tmp_path / "e")
    (embeddings, _), *_ = list(cache)
    assert [row["caption_truncated"] for row in embeddings.rows] == [True, False]


def test_other_settings_are_refused_by_field(photos, towers, config, tmp_path):
    root, records = photos
    options = dict(images=root, folder=tmp_path / "e")
    embed_records(records[:3], towers, config, **options)
    config.views.geometry = "clip"
    config.data.max_objects = 1
    with pytest.raises(
        ValueError,
        match="max_objects was 10 and is 1; views.geometry was 'item' and is 'clip'",
    ):
        embed_records(records[:3], towers, config, **options)
    config.views.geometry, config.data.max_objects = "item", 10
    with pytest.raises(ValueError, match="records_sha256 was"):
        embed_records(records[:2], towers, config, **options)
    with pytest.raises(ValueError, match="grounder.id was None and is 'glip'"):
        embed_records(
            records[:3], towers, config, facts={"grounder": {"id": "glip"}}, **options
        )
    embed_records(records[:3], towers, config, **options)  # the same is welcome


def test_half_precision_storage(photos, towers, config, tmp_path):
    root, records = photos
    full = embed_records(records, towers, config, images=root, folder=tmp_path / "f")
    config.embed.storage = "float16"
    half = embed_records(records, towers, config, images=root, folder=tmp_path / "h")
    for name, value in everything(half).items():
        assert value.dtype == np.float16
        np.testing.assert_allclose(value, everything(full)[name], rtol=2e-3, atol=1e-3)


def test_unknown_choices_are_named(photos, towers, config, tmp_path):
    root, records = photos
    for field, wrong, right in (
        ("storage", "float23", "float32"),
        ("on_error", "reprt", "report"),
        ("mode", "jot", "jit"),
    ):
        changed = config.copy_and_resolve_references()
        changed.embed[field] = wrong
        with pytest.raises(ValueError, match=f"Did you mean '{right}'"):
            embed_records(
                records, towers, changed, images=root, folder=tmp_path / field
            )


def test_resume_does_missing_shards_only(photos, towers, config, tmp_path):
    root, records = photos
    folder = tmp_path / "e"
    embed_records(records, towers, config, images=root, folder=folder)
    whole = contents(folder)
    times = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    middle = folder / "shard-00001.safetensors"
    middle.unlink()
    with pytest.raises(ValueError, match="1 of 3 shards are missing"):
        EmbeddingCache(folder).counts()
    embed_records(records, towers, config, images=root, folder=folder)
    assert contents(folder) == whole
    for path, before in times.items():
        remade = path.name.startswith("shard-00001")
        assert (path.stat().st_mtime_ns != before) == remade


def test_a_damaged_shard_is_named(photos, towers, config, tmp_path):
    root, records = photos
    folder = tmp_path / "e"
    cache = embed_records(records, towers, config, images=root, folder=folder)
    path = folder / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="shard-00001.safetensors is damaged"):
        list(cache)
    path = folder / "shard-00000.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="shard-00000.jsonl has .* bytes, expected"):
        cache.read(0)
    with pytest.raises(ValueError, match="no embedding cache"):
        EmbeddingCache(tmp_path)


@pytest.mark.slow
def test_killed_and_resumed_is_byte_identical(photos, tiny_clip, tmp_path):
    """SIGKILL in the real program, again and again, against an uninterrupted run."""
    root, records = photos
    write_records(tmp_path / "records.jsonl", records)

    def command(workdir):
        return [
            *(sys.executable, "-m", "item_jax", "embed", "--workdir", workdir),
            f"--config.tower={tiny_clip[0]}",
            f"--config.data.records={tmp_path / 'records.jsonl'}",
            f"--config.data.images={root}",
            "--config.embed.shard_size=1",
            "--config.embed.batch_size=8",
        ]

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    whole = contents(tmp_path / "whole" / "embeddings")
    folder = tmp_path / "killed" / "embeddings"
    seen = []
    for wanted in (3, 11, 19):
        run = subprocess.Popen(command(tmp_path / "killed"), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and run.poll() is None:
            if len(list(folder.glob("*.safetensors"))) >= wanted:
                break
            time.sleep(0.002)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        seen.append(len(list(folder.glob("*.safetensors"))))
    assert 0 < seen[0] < 24, "the first kill came too late to show anything"
    subprocess.run(command(tmp_path / "killed"), check=True, capture_output=True)
    found = contents(folder)
    assert {n: found[n] for n in whole} == whole
    assert all(".partial" in name for name in found.keys() - whole.keys())


def test_every_record_once_and_in_order(photos, config):
    root, records = photos
    many = [dataclasses.replace(records[i % 24], label=None) for i in range(101)]
    for threads in (1, 3, 8):
        config.embed.threads = threads
        items = list(
            pipeline.stream(RecordList(many, root), config=config, image_size=32)
        )
        assert [item.record.key for item in items] == [r.key for r in many]


def test_thresholds_choose_the_objects(photos, config, tmp_path):
    root, _ = photos
    Image.new("RGB", (100, 100), "red").save(tmp_path / "a.png")
    boxes = [(0, 0, 0.5, 0.5)] * 4 + [(0, 0, 0.05, 0.5)]
    scores = [0.4, 0.2, 0.9, 0.4, 0.8]
    objects = tuple(
        Object(f"o{i}", b, s) for i, (b, s) in enumerate(zip(boxes, scores))
    )
    record = Record("a.png", caption="x", objects=objects)
    item = pipeline.load(
        RecordList([record], tmp_path), 0, config=config, image_size=32
    )
    # o1 is under the threshold of 0.3, o4 is 5 pixels wide.
    assert [o.phrase for o in item.objects] == ["o2", "o0", "o3"]
    assert item.views.shape == (4, 32, 32, 3)
    config.data.max_objects = 2
    item = pipeline.load(
        RecordList([record], tmp_path), 0, config=config, image_size=32
    )
    assert [o.phrase for o in item.objects] == ["o2"]  # o4 was second by score


def test_perturbation_comes_before_the_crop(photos, config, towers):
    root, records = photos
    config.perturb.name, config.perturb.severity = "blur", 2
    from item_jax.perturb import perturb

    item = pipeline.load(RecordList(records, root), 0, config=config, image_size=32)
    image = images.read_image(root, records[0].key)
    blurred = perturb(image, "blur", 2, key=records[0].key)
    np.testing.assert_array_equal(item.views[0], views.center_crop(blurred, 32))


def test_packing_fills_every_batch_but_the_last():
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 9, (k, 2), dtype=np.uint8) for k in (1, 4, 0, 7, 2, 1)]
    batches = list(pipeline.pack(rows, 4))
    assert [len(b) for b in batches] == [4, 4, 4, 3]
    np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(rows))
    assert list(pipeline.pack([], 4)) == []


def test_nothing_at_all(towers, config):
    embeddings, rows = embed_images([], towers, config)
    assert len(embeddings) == 0 and rows == []
    assert embeddings.object_offsets.tolist() == [0]
    assert embeddings.misalignment(config).shape == (0, 32)


def test_rows_are_json(photos, towers, config, tmp_path):
    root, records = photos
    embed_records(records[:2], towers, config, images=root, folder=tmp_path / "e")
    row = json.loads((tmp_path / "e/shard-00000.jsonl").read_text().splitlines()[1])
    assert row["key"] == records[1].key and row["status"] == "done"
    assert row["label"] == "fake" and row["generator"] == records[1].generator


def test_wrong_settings_do_not_begin_a_cache(photos, towers, config, tmp_path):
    """What is refused at first must not stand in the way of what is right."""
    root, records = photos
    for change, words in (
        (lambda c: c.views.update(geometry="itm"), "Did you mean 'item'"),
        (lambda c: c.views.update(object_crop="covr"), "Did you mean 'cover'"),
        (lambda c: c.perturb.update(name="noise"), "severity 0"),
        (lambda c: c.neutralise.update(quality=101), "101"),
        (lambda c: c.embed.update(storage="float23"), "Did you mean 'float32'"),
    ):
        changed = config.copy_and_resolve_references()
        change(changed)
        options = dict(images=root, folder=tmp_path / "e")
        with pytest.raises(ValueError, match=words):
            embed_records(records[:2], towers, changed, **options)
    with pytest.raises(ValueError, match="no folder of images"):
        embed_records(
            records[:2], towers, config, images="/nowhere", folder=tmp_path / "e"
        )
    assert embed_records(records[:2], towers, config, **options).counts()["done"] == 2


def test_an_image_too_long_for_a_perturbation_is_a_failure_row(config, tmp_path):
    Image.new("RGB", (70_000, 20)).save(tmp_path / "long.png")
    config.perturb.name, config.perturb.severity = "jpeg", 1
    record = Record("long.png", caption="a line")
    item = pipeline.load(
        RecordList([record], tmp_path), 0, config=config, image_size=32
    )
    assert item.error.startswith("image: 'long.png': ") and len(item.views) == 0


def test_another_resizing_than_in_training_is_noted(config):
    """ITEM's own centre crop resizes nothing, and unknown towers say nothing."""
    squashed = SimpleNamespace(geometry="squash")
    assert geometry_notice(squashed, config) == []
    config.views.geometry = "clip"
    [notice] = geometry_notice(squashed, config)
    assert "trained with 'squash' (--config.views.geometry=squash)" in notice
    assert geometry_notice(SimpleNamespace(), config) == []
    config.views.geometry = "squash"
    assert geometry_notice(squashed, config) == []
