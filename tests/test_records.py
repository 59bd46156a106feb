import json

import pytest

from item_jax import records
from item_jax.records import Object, Record


@pytest.mark.parametrize(
    "box, words",
    [
        ((0, 0, 1.2, 1), r"\[0, 1\]"),
        ((-0.1, 0, 1, 1), r"\[0, 1\]"),
        ((0.5, 0, 0.5, 1), "empty"),
        ((0.6, 0, 0.5, 1), "empty"),
        ((0, 0, 1), "four numbers"),
        ((0, 0, 1, float("nan")), "four numbers"),
        ((0, 0, 1, "x"), "must be numbers"),
        (None, "must be numbers"),
    ],
)
def test_a_bad_box_is_refused(box, words):
    with pytest.raises(ValueError, match=words):
        Object("a dog", box)


def test_other_bad_values_are_refused():
    with pytest.raises(ValueError, match="phrase"):
        Object(" ", (0, 0, 1, 1))
    with pytest.raises(ValueError, match="score 1.5"):
        Object("a dog", (0, 0, 1, 1), 1.5)
    with pytest.raises(ValueError, match="'Fake'.*real, fake or null"):
        Record("a.jpg", "Fake")
    with pytest.raises(ValueError, match="key"):
        Record("")


def test_records_survive_the_disk(tmp_path):
    made = [
        Record(
            "å.jpg",
            "real",
            "b",
            "g",
            "test",
            "a 'quoted' cat\n",
            (Object("cat", (0, 0.25, 1, 1), 0.5),),
        ),
        Record("b.jpg", error="no caption"),
    ]
    path = tmp_path / "deep" / "records.jsonl"
    assert records.write_records(path, made) == 2
    assert records.read_records(path) == made
    assert sorted(p.name for p in path.parent.iterdir()) == ["records.jsonl"]
    first = json.loads(path.read_text().splitlines()[0])
    assert set(first) == {
        *("key", "label", "benchmark", "generator", "split", "caption", "objects")
    }


def test_keys_are_nfc():
    assert Record("caf\u0065\u0301.jpg").key == "caf\u00e9.jpg"


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: no JSON object"),
        ('{"label": "real"}', "line 2: .*key"),
        ('{"key": "b", "lable": "real"}', r"line 2: .*'b'.*\['lable'\].*allowed"),
        (
            '{"key": "b", "objects": [{"phrase": "x", "box": [0, 0, 2, 1]}]}',
            r"line 2: record 'b'.*\[0.0, 0.0, 2.0, 1.0\]",
        ),
        ('{"key": "b", "objects": [{"phrase": "x"}]}', "line 2: record 'b'.*lacks box"),
        ('{"key": "a"}', "key 'a' is both record 1 and record 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, words):
    path = tmp_path / "records.jsonl"
    path.write_text('{"key": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match=words):
        records.read_records(path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "records.jsonl"
    records.write_records(path, [Record("a")])

    def broken():
        yield Record("b")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        records.write_records(path, broken())
    assert records.read_records(path) == [Record("a")]
    assert list(tmp_path.iterdir()) == [path]


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
    joined, report = records.join(index, captions=captions, objects=objects)
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
        records.join([Record("a")], captions=path)


def test_places_may_be_null_but_must_be_text():
    assert Record("a", generator=None, split=None).generator == ""
    with pytest.raises(ValueError, match="generator of 'a' is no text: 3"):
        Record("a", generator=3)
    with pytest.raises(ValueError, match="objects of 'a' are no list: 3"):
        Record("a", objects=3)
    with pytest.raises(ValueError, match="caption of 'a' is no Unicode"):
        Record("a", caption="\ud83d")


def test_join_keeps_a_line_that_is_nonsense_to_its_image(tmp_path):
    objects = write(tmp_path / "objects.jsonl", [{"key": "a", "objects": 3}])
    captions = write(
        tmp_path / "captions.jsonl", [{"key": "a", "caption": "\ud83d", "status": "ok"}]
    )
    (joined,), _ = records.join([Record("a")], objects=objects)
    assert "objects.jsonl, line 1: " in joined.error
    (joined,), _ = records.join([Record("a")], captions=captions)
    assert "no Unicode" in joined.error
