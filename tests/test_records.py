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


def test_places_may_be_null_but_must_be_text():
    assert Record("a", generator=None, split=None).generator == ""
    with pytest.raises(ValueError, match="generator of 'a' is no text: 3"):
        Record("a", generator=3)
    with pytest.raises(ValueError, match="objects of 'a' are no list: 3"):
        Record("a", objects=3)
    with pytest.raises(ValueError, match="caption of 'a' is no Unicode"):
        Record("a", caption="\ud83d")
