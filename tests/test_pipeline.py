"""Every record exactly once, whoever shares the work; and what becomes of a picture."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from item_jax import config as config_lib
from item_jax import images, neutralise, perturb, pipeline, views
from item_jax.cache import EmbeddingCache
from item_jax.embed import embed_records
from item_jax.records import Object, Record

COUNT = 2003  # a prime: no number of processes divides it


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    root = tmp_path_factory.mktemp("many")
    Image.effect_noise((9, 8), 50).convert("RGB").save(root / "0000.png")
    for i in range(1, COUNT):
        os.link(root / "0000.png", root / f"{i:04d}.png")
    return root, [Record(f"{i:04d}.png", caption="a") for i in range(COUNT)]


def settings(threads=2, workers=0):
    c = config_lib.default()
    c.embed.threads, c.embed.workers = threads, workers
    c.embed.shard_size = 64
    c.embed.batch_size = c.embed.text_batch_size = 256
    return c


def order(process, processes):
    """What `embed_records` gives a process: every n-th shard."""
    shards = range(0, COUNT, 64)[process::processes]
    return [i for first in shards for i in range(first, min(first + 64, COUNT))]


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 7, 8])
def test_every_record_is_embedded_once_by_any_number_of_processes(
    many, towers, tmp_path, monkeypatch, processes
):
    """The embedding itself, one process after the other into one cache."""
    root, records = many
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    made = {}
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        before = set(tmp_path.glob("*.safetensors"))
        embed_records(records, towers, settings(), images=root, folder=tmp_path)
        made[process] = set(tmp_path.glob("*.safetensors")) - before
    assert sum(len(own) for own in made.values()) == 32  # nobody did another's shard
    assert min(len(own) for own in made.values()) >= 32 // processes
    cache = EmbeddingCache(tmp_path)
    assert cache.counts() == {"in": COUNT, "done": COUNT, "failed": 0}
    found = [row["key"] for embeddings, _ in cache.shards() for row in embeddings.rows]
    assert found == [r.key for r in records]


ONE_OF_MANY = """
import sys
from item_jax import config, pipeline, records
root, *order = sys.argv[1:]
known = [records.Record(f"{i:04d}.png", caption="a") for i in range(2003)]
items = pipeline.stream(
    known, root=root, config=config.default(), image_size=8, order=list(map(int, order))
)
for item in items:
    print(item.record.key, item.error)
"""


def test_eight_real_processes_share_the_records(many):
    root, records = many
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_MANY, root, *map(str, order(process, 8))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(8)
    ]
    lines = [line for run in runs for line in run.communicate()[0].splitlines()]
    assert Counter(lines) == Counter(f"{r.key} None" for r in records)


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_give_the_same_in_the_same_order(many, workers):
    root, records = many
    options = dict(root=root, config=settings(workers=workers), image_size=8)
    found = [item.record.key for item in pipeline.stream(records, **options)]
    assert found == [r.key for r in records]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_position_can_be_kept_and_gone_back_to(many, workers):
    root, records = many
    options = dict(root=root, config=settings(workers=workers), image_size=8)
    items = pipeline.stream(records, **options)
    for _ in range(100):
        next(items)
    position = json.dumps(items.get_state())
    wanted = [next(items).record.key for _ in range(50)]
    assert wanted == [f"{i:04d}.png" for i in range(100, 150)]
    again = pipeline.stream(records, **options)
    again.set_state(json.loads(position))
    assert [next(again).record.key for _ in range(50)] == wanted


def test_failures_take_their_place_in_the_order(many):
    root, records = many
    some = [
        dataclasses.replace(r, caption=None) if i % 7 == 0 else r
        for i, r in enumerate(records[:100])
    ] + [Record("gone.png", caption="a")]
    items = pipeline.stream(some, root=root, config=settings(), image_size=8)
    found = list(items)
    assert [item.record.key for item in found] == [r.key for r in some]
    assert sum(item.error is not None for item in found) == 16
    assert found[-1].error.startswith("image: 'gone.png': no such file")


def test_memory_does_not_grow_with_the_records(tmp_path):
    """Large views, read slowly: no more than two per thread wait."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    read = []

    class Watched(list):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    records = Watched([Record("a.png", caption="a")] * 3000)
    config = settings(threads=3)
    items = pipeline.stream(records, root=tmp_path, config=config, image_size=224)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for taken in range(1, 3001):
        next(items)
        assert len(read) <= taken + 2 * 3 + 3
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 100, "3000 views of 150 kB are 450 MB"


# ----------------------------------------------------------------- making images alike


def test_neutralising_comes_first_and_the_boxes_follow(tmp_path):
    photo = load_sample_image("china.jpg")  # 427 x 640
    Image.fromarray(photo).save(tmp_path / "a.png")
    left, middle = (0.0, 0.0, 0.1, 0.5), (0.4, 0.25, 0.6, 0.75)
    things = (Object("left", left, 0.9), Object("middle", middle, 0.8))
    record = Record("a.png", caption="a", objects=things)
    c = settings()
    c.neutralise.quality, c.neutralise.size = 96, 256
    c.perturb.name, c.perturb.severity = "blur", 2
    item = pipeline.load(record, root=tmp_path, config=c, image_size=224)
    square = views.resize_center_crop(photo, 256)
    alike = images.decode(perturb.encode_jpeg(square, 96))
    blurred = perturb.perturb(alike, "blur", 2, key="a.png")
    np.testing.assert_array_equal(item.views[0], views.center_crop(blurred, 224))
    # The middle 427 columns begin at 106.5: what is left of them is not to be seen.
    assert [o.phrase for o in item.objects] == ["middle"]
    assert item.objects[0].box == middle  # as it was found, in the whole image
    box = ((256 - 106.5) / 427, 0.25, (384 - 106.5) / 427, 0.75)
    np.testing.assert_array_equal(item.views[1], views.object_view(blurred, box, 224))


@pytest.mark.parametrize("shape", [(60, 100, 3), (100, 60, 3), (80, 80, 3)])
def test_a_box_keeps_its_place_in_the_picture(shape):
    """Drawn before and found after, within what resizing blurs."""
    height, width = shape[:2]
    picture = np.zeros(shape, np.uint8)
    top, bottom = int(0.4 * height), int(0.6 * height)
    start, end = int(0.45 * width), int(0.6 * width)
    picture[top:bottom, start:end] = 255
    box = (start / width, top / height, end / width, bottom / height)
    after = neutralise.neutralise(picture, size=200)
    rows, columns = np.nonzero(after[..., 0] > 127)
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    wanted = 200 * np.array(neutralise.middle_box(box, height, width))
    np.testing.assert_allclose(found, wanted, atol=2)


def test_neutralising_nothing_is_the_image():
    photo = load_sample_image("flower.jpg")
    assert neutralise.neutralise(photo) is photo
    assert neutralise.middle_box((0.1, 0.2, 0.3, 0.4), 50, 50) == pytest.approx(
        (0.1, 0.2, 0.3, 0.4)
    )
    assert neutralise.middle_box((0.0, 0.0, 0.1, 1.0), 50, 100) is None


def test_impossible_values_are_refused(tmp_path):
    c = settings()
    c.neutralise.quality = 101
    with pytest.raises(
        ValueError, match="neutralise.quality is 101; allowed: 1 to 100"
    ):
        pipeline.stream([], root=tmp_path, config=c, image_size=8)
    c.neutralise.quality, c.neutralise.size = 0, -1
    with pytest.raises(ValueError, match="neutralise.size is -1 pixels; allowed"):
        pipeline.stream([], root=tmp_path, config=c, image_size=8)


def test_the_choice_is_part_of_the_fingerprint(photos, towers, config, tmp_path):
    root, records = photos
    options = dict(images=root, folder=tmp_path)
    embed_records(records[:2], towers, config, **options)
    config.neutralise.quality, config.neutralise.size = 96, 64
    with pytest.raises(
        ValueError,
        match="neutralise_quality was 0 and is 96; neutralise_size was 0 and is 64",
    ):
        embed_records(records[:2], towers, config, **options)


def test_a_detector_does_what_its_head_was_trained_on(photos, towers, config, tmp_path):
    from item_jax.detector import ItemDetector
    from item_jax.evaluate import evaluate_heads
    from item_jax.train import train_heads

    root, records = photos
    plain = embed_records(records, towers, config, images=root, folder=tmp_path / "p")
    config.neutralise.quality, config.neutralise.size = 60, 32
    cache = embed_records(records, towers, config, images=root, folder=tmp_path / "n")
    heads = train_heads(cache, config)
    detector = ItemDetector(towers, heads[0])  # told nothing of the configuration
    predictions = detector.predict(records, images=root)
    parts = [embeddings for embeddings, _ in cache.shards()]
    wanted = np.concatenate([heads[0].p_fake(p.misalignment(config)) for p in parts])
    found = [p.p_fake for p in predictions]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ValueError, match="neutralise_quality: the head has 60.* 0"):
        evaluate_heads(plain, heads, config)
