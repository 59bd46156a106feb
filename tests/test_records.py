import json

import numpy as np
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
        ((0, 0, 1, float("nan")), "not a list of four numbers"),
        ((0, 0, 1, float("inf")), r"\[0, 1\]"),
        ((0, 0, 1, 10**400), r"\[0, 1\]"),
        ((0, 0, 1, "x"), "not a list of four numbers"),
        (None, "not a list of four numbers"),
        ("0011", "not a list of four numbers"),
        (["0", "0", "1", "1"], "not a list of four numbers"),
        ((False, False, True, True), "not a list of four numbers"),
        ({0: 0, 1: 1}, "not a list of four numbers"),
    ],
)
def test_a_bad_box_is_refused(box, words):
    with pytest.raises(ValueError, match=words):
        Object("a dog", box)


def test_other_bad_values_are_refused():
    with pytest.raises(ValueError, match="phrase"):
        Object(" ", (0, 0, 1, 1))
    with pytest.raises(ValueError, match="phrase .*not valid Unicode"):
        Object("a \ud83d dog", (0, 0, 1, 1))
    for score in (1.5, "0.5", True, None, float("nan")):
        with pytest.raises(ValueError, match="score .* is not a number in"):
            Object("a dog", (0, 0, 1, 1), score)
    with pytest.raises(ValueError, match="'Fake'.*real, fake or null"):
        Record("a.jpg", "Fake")
    with pytest.raises(ValueError, match="key"):
        Record("")


def test_numbers_of_numpy_are_numbers():
    box = tuple(np.array([0, 0.25, 0.5, 1], np.float32))
    made = Object("a dog", box, np.float32(0.5))
    assert made == Object("a dog", (0, 0.25, 0.5, 1), 0.5)
    assert [type(v) for v in (*made.box, made.score)] == [float] * 5


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
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected a JSON object"),
        ('{"label": "real"}', "line 2: .*key"),
        ('{"key": "b", "lable": "real"}', r"line 2: .*'b'.*\['lable'\].*allowed"),
        (
            '{"key": "b", "objects": [{"phrase": "x", "box": [0, 0, 2, 1]}]}',
            r"line 2: record 'b'.*\[0, 0, 2, 1\]",
        ),
        ('{"key": "b", "objects": [{"phrase": "x"}]}', "line 2: record 'b'.*lacks box"),
        ('{"key": "b", "caption": "\\ud83d"}', "line 2: record 'b'.*not valid Unicode"),
        ('{"key": "b", "error": 3}', "line 2: record 'b'.*error of 'b' is not text"),
        ('{"key": "b", "label": ["real"]}', "line 2: record 'b'.*real, fake or null"),
        ('{"key": {}}', "line 2: .*needs a key"),
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
    with pytest.raises(ValueError, match="generator of 'a' is not text: 3"):
        Record("a", generator=3)
    with pytest.raises(ValueError, match="objects of 'a' are not a list: 3"):
        Record("a", objects=3)
    for name in ("caption", "error", "generator"):
        with pytest.raises(ValueError, match=f"{name} of 'a' is not valid Unicode"):
            Record("a", **{name: "\ud83d"})
    with pytest.raises(ValueError, match="key of .* is not valid Unicode"):
        Record("\udcff.png")


def test_a_file_without_records_is_an_error(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no records: .*item-jax index"):
        records.read_records(path)


def test_the_digest_is_that_of_version_0_1():
    """Caches are bound to it."""
    thing = Object("x", (0, 0, 0.5, 1), 0.3)
    made = [
        Record("a.jpg", "real", "b", "g", "s", "c\u00e9", (thing,)),
        Record("b", error="e"),
    ]
    assert records.digest(made) == (
        "7a8cce54523aa99f5ae203166b5ac0e247d2898e972773e47f824b6f7f76dad8"
    )
