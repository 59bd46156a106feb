import json

import pytest

from item_jax.join import join
from item_jax.records import Object, Record, write_json_lines


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_join(tmp_path):
    index = [Record(k, "real") for k in ("a", "b", "c", "d", "e")]
    captions = write(
        tmp_path / "captions.jsonl",
        [
            {"key": "a", "caption": "a cat", "status": "ok", "error": None},
            {"key": "b", "caption": None, "status": "error", "error": "OSError"},
            {"key": "c", "caption": "a dog", "status": "ok"},
            {"key": "e", "caption": "a cow", "status": "ok"},
            {"key": "zzz", "caption": "elsewhere", "status": "ok"},
        ],
    )
    cat = {"phrase": "a cat", "span": [0, 5], "box": [0, 0, 0.5, 1], "score": 0.7}
    objects = write(
        tmp_path / "objects.jsonl",
        [
            {"key": "a", "objects": [cat], "status": "ok"},
            {"key": "c", "objects": [cat | {"box": [0, 0, 0, 1]}], "status": "ok"},
            {"key": "e", "objects": [], "status": "ok"},
        ],
    )
    joined, report = join(index, captions=captions, objects=objects)
    a, b, c, d, e = joined
    assert a.caption == "a cat"
    assert a.objects == (Object("a cat", (0, 0, 0.5, 1), 0.7),)
    assert b.caption is None and "captions.jsonl, line 2: OSError" in b.error
    assert "objects.jsonl, line 2: box" in c.error and c.objects == ()
    assert d.caption is None and d.error is None
    assert e.objects == () and e.error is None
    assert (report.images, report.captioned, report.failed) == (5, 2, 2)
    assert (report.without_caption, report.unused_lines) == (1, 1)
    assert report.images == report.captioned + report.failed + report.without_caption
    assert (report.grounded, report.objects, report.without_objects) == (2, 1, 1)
    assert "5 images = 2 captioned + 2 failed" in report.text()


def test_join_refuses_a_key_that_stands_twice(tmp_path):
    path = write(tmp_path / "captions.jsonl", [{"key": "a"}, {"key": "a"}])
    with pytest.raises(ValueError, match="'a' is on line 1 and on line 2"):
        join([Record("a")], captions=path)


def test_join_keeps_a_line_that_is_nonsense_to_its_image(tmp_path):
    objects = write(tmp_path / "objects.jsonl", [{"key": "a", "objects": 3}])
    captions = write(
        tmp_path / "captions.jsonl", [{"key": "a", "caption": "\ud83d", "status": "ok"}]
    )
    (joined,), _ = join([Record("a")], objects=objects)
    assert "objects.jsonl, line 1: " in joined.error
    (joined,), _ = join([Record("a")], captions=captions)
    assert "no Unicode" in joined.error


def test_the_report_of_a_join(tmp_path):
    captions, objects = tmp_path / "c.jsonl", tmp_path / "o.jsonl"
    things = [
        {"phrase": "a dog", "box": [0, 0, 1, 1], "score": s} for s in (0.9, 0.3, 0.1)
    ]
    write_json_lines(
        captions,
        [
            {"key": "a", "caption": "a dog runs", "status": "ok"},
            {"key": "b", "caption": "a very small dog runs", "status": "ok"},
            {"key": "c", "caption": None, "status": "error", "error": "damaged"},
            {"key": "d", "caption": "a cat", "status": "ok"},
        ],
    )
    write_json_lines(
        objects,
        [
            {"key": "a", "objects": things, "status": "ok"},
            {"key": "b", "objects": things[2:], "status": "ok"},
            {"key": "c", "objects": [], "status": "skipped", "error": "no caption"},
            {"key": "zzz", "objects": [], "status": "ok"},
        ],
    )
    index = [Record(k) for k in "abcde"]
    joined, report = join(index, captions=captions, objects=objects)
    assert (report.captioned, report.failed, report.without_caption) == (3, 1, 1)
    assert (report.words, report.shortest, report.longest) == (10, 2, 5)
    assert (report.grounded, report.not_grounded, report.unused_lines) == (2, 2, 1)
    assert (report.objects, report.sure) == (4, 2)
    assert (report.without_objects, report.without_sure) == (0, 1)
    assert report.text().splitlines() == [
        "5 images = 3 captioned + 1 failed in a sidecar + 1 without a caption",
        "captions of 3.3 words on average, 2 to 5",
        "2 grounded, 2 not; objects an image: 2.00 candidates, 1.00 with a score of "
        "0.3 or more; 0.0% and 50.0% of the images have none",
        "1 sidecar lines belong to no image here",
    ]
    assert "damaged" in joined[2].error and "captions" not in joined[2].key
