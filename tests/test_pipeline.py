"""Every record exactly once, whoever shares the work; and what becomes of a picture."""

import dataclasses
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from item_jax import config as config_lib
from item_jax import images, neutralise, perturb, pipeline, views
from item_jax.budget import IN_FLIGHT
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import RecordList
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
    found = [row["key"] for embeddings, _ in cache for row in embeddings.rows]
    assert found == [r.key for r in records]


ONE_OF_MANY = """
import sys
from item_jax import config, pipeline, records
from item_jax.datasets.dataset import RecordList
root, *order = sys.argv[1:]
known = [records.Record(f"{i:04d}.png", caption="a") for i in range(2003)]
stream = pipeline.stream(
    RecordList(known, root),
    config=config.default(),
    image_size=8,
    order=list(map(int, order)),
)
for image in stream:
    print(image.record.key, image.error)
"""


@pytest.mark.slow
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
    options = dict(config=settings(workers=workers), image_size=8)
    stream = pipeline.stream(RecordList(records, root), **options)
    assert [image.record.key for image in stream] == [r.key for r in records]


def test_failures_take_their_place_in_the_order(many):
    root, records = many
    some = [
        dataclasses.replace(r, caption=None) if i % 7 == 0 else r
        for i, r in enumerate(records[:100])
    ] + [Record("gone.png", caption="a")]
    data = RecordList(some, root)
    found = list(pipeline.stream(data, config=settings(), image_size=8))
    assert [image.record.key for image in found] == [r.key for r in some]
    assert sum(image.error is not None for image in found) == 16
    assert found[0].error == "caption: the record has none"
    assert found[-1].error.startswith("image: 'gone.png': no such file")


def test_memory_does_not_grow_with_the_records(tmp_path):
    """Large views, read slowly: no more than two per thread wait."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    read = []

    class Watched(RecordList):
        def record(self, number):
            read.append(number)
            return super().record(number)

        def read(self, number):
            return images.read_bytes(tmp_path, "a.png")

    data = Watched([Record("a.png", caption="a")] * 3000)
    config = settings(threads=3)
    items = pipeline.stream(data, config=config, image_size=224)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for taken in range(1, 3001):
        next(items)
        assert len(read) <= taken + 2 * 3 + 3
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 100, "3000 views of 150 kB are 450 MB"


# ------------------------------------------------------------------- pixels in flight


def test_the_limit_of_pixels_is_a_setting(many):
    root, records = many
    c = settings()
    c.data.max_pixels = 71  # the pictures have 9 x 8
    (image,) = pipeline.stream(RecordList(records[:1], root), config=c, image_size=8)
    assert image.error == (
        "image: '0000.png': PNG picture of 9 x 8 = 72 pixels; at most 71 allowed"
    )


def test_large_images_wait_for_each_other(tmp_path, monkeypatch):
    """However many threads, and whatever fails on the way."""
    monkeypatch.setattr(IN_FLIGHT, "pixels", 10_000)
    keys = []
    for i, side in enumerate((90, 90, 10, 20, 150, 90, 30) * 12):
        keys.append(f"{i}.png")
        picture = Image.new("RGB", (side, side), (i, 0, 0))
        picture.save(tmp_path / keys[-1])
        if i % 5 == 4:  # whole by its header
            data = (tmp_path / keys[-1]).read_bytes()
            (tmp_path / keys[-1]).write_bytes(data[:-40])
    decoding, most = [], [0]
    lock = threading.Lock()
    decode = images.decode

    def watched(data, **options):
        count = images.count_pixels(data)
        with lock:
            decoding.append(count)
            if len(decoding) > 1:
                most[0] = max(most[0], sum(decoding))
        try:
            time.sleep(0.002)  # so that threads meet on a busy machine too
            return decode(data, **options)
        finally:
            with lock:
                decoding.remove(count)

    monkeypatch.setattr(images, "decode", watched)
    data = RecordList([Record(key, caption="a") for key in keys], tmp_path)
    found = list(pipeline.stream(data, config=settings(threads=8), image_size=8))
    assert [image.record.key for image in found] == keys
    failed = [image for image in found if image.error]
    assert len(failed) == len(keys) // 5 and "truncated" in failed[0].error
    assert 0 < most[0] <= 10_000
    with IN_FLIGHT.hold(10_000):  # all was given back
        pass


PEAK = """
import re, sys
from item_jax import config, pipeline, records
from item_jax.datasets.dataset import RecordList
root, name, severity = sys.argv[1:]
c = config.default()
c.perturb.name, c.perturb.severity = name, int(severity)
data = RecordList([records.Record("a.webp", caption="a")] * 8, root)
for image in pipeline.stream(data, config=c, image_size=224):
    assert image.error is None, image.error
# Not getrusage: its peak includes that of the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("perturbation", [("none", 0), ("noise", 2), ("blur", 2)])
def test_eight_of_the_largest_images_stay_below_4_gb(tmp_path, perturbation):
    """A small file that is as large as allowed, in the format that costs most."""
    Image.new("RGB", (9459, 9459)).save(tmp_path / "a.webp")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path, *map(str, perturbation)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) * 1024 < 4e9


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
    data = RecordList([record], tmp_path)
    image = pipeline.load(data, 0, config=c, image_size=224)
    square = views.resize_center_crop(photo, 256)
    alike = images.decode(perturb.encode_jpeg(square, 96))
    blurred = perturb.perturb(alike, "blur", 2, key="a.png")
    np.testing.assert_array_equal(image.views[0], views.center_crop(blurred, 224))
    # The middle 427 columns begin at 106.5: what is left of them is not to be seen.
    assert [o.phrase for o in image.objects] == ["middle"]
    assert image.objects[0].box == middle  # as it was found, in the whole image
    box = ((256 - 106.5) / 427, 0.25, (384 - 106.5) / 427, 0.75)
    np.testing.assert_array_equal(image.views[1], views.object_view(blurred, box, 224))


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


def test_impossible_values_are_refused():
    c, nothing = settings(), RecordList([])
    c.neutralise.quality = 101
    with pytest.raises(
        ValueError, match="neutralise.quality is 101; allowed: 1 to 100"
    ):
        pipeline.stream(nothing, config=c, image_size=8)
    c.neutralise.quality, c.neutralise.size = 0, -1
    with pytest.raises(ValueError, match="neutralise.size is -1 pixels; allowed"):
        pipeline.stream(nothing, config=c, image_size=8)
    c.neutralise.size, c.perturb.name = 0, "blurr"
    with pytest.raises(ValueError, match="unknown perturbation 'blurr'"):
        pipeline.stream(nothing, config=c, image_size=8)


def test_the_choice_is_part_of_the_fingerprint(photos, towers, config, tmp_path):
    root, records = photos
    options = dict(images=root, folder=tmp_path)
    embed_records(records[:2], towers, config, **options)
    config.neutralise.quality, config.neutralise.size = 96, 64
    with pytest.raises(
        ValueError,
        match="neutralise.quality was 0 and is 96; neutralise.size was 0 and is 64",
    ):
        embed_records(records[:2], towers, config, **options)


def test_a_detector_does_what_its_head_was_trained_on(photos, towers, config, tmp_path):
    from item_jax.detector import ItemDetector
    from item_jax.evaluate import evaluate_methods
    from item_jax.train import fit_method, training_set

    root, records = photos
    plain = embed_records(records, towers, config, images=root, folder=tmp_path / "p")
    config.neutralise.quality, config.neutralise.size = 60, 32
    cache = embed_records(records, towers, config, images=root, folder=tmp_path / "n")
    heads = fit_method("item", training_set(cache, config), config)
    detector = ItemDetector(towers, heads[0])  # told nothing of the configuration
    predictions = detector.predict(records, images=root)
    wanted = np.concatenate([heads[0].score(embeddings) for embeddings, _ in cache])
    found = [p.p_fake for p in predictions]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ValueError, match="neutralise.quality.* 60.* 0"):
        evaluate_methods(plain, {"item": heads}, config)
