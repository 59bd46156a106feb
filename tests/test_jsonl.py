"""Records on disk: the file as a sequence."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from item_jax import Object, Record, read_records, write_records
from item_jax.datasets import jsonl
from item_jax.records import digest

DOG = Object("a dog", (0.1, 0.2, 0.5, 0.9), 0.7)


def write(path, count):
    made = (
        Record(f"caf\u00e9/{i}.jpg", "real", caption=f"n\u00b0 {i}", objects=(DOG,) * 3)
        for i in range(count)
    )
    write_records(path, made)
    return path


def test_a_file_is_the_sequence_of_its_records(tmp_path):
    path = write(tmp_path / "records.jsonl", 50)
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n" + "\n\n  \n".join(lines), "utf-8")  # no line end at the end
    found, run = jsonl.load(path)
    expected = read_records(path)
    assert run == {} and len(found) == 50
    assert list(found) == expected
    assert found[-1] == expected[-1] and found[17] == expected[17]
    assert found[5:50:20] == expected[5:50:20] and found[60:] == []
    assert list(reversed(found)) == expected[::-1]
    assert found.records_sha256 == digest(expected)
    with pytest.raises(IndexError):
        found[50]


def test_threads_and_a_pickled_copy_read_the_same(tmp_path):
    found, _ = jsonl.load(write(tmp_path / "records.jsonl", 200))
    expected = read_records(found.path)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.__getitem__, range(200))) == expected
    assert list(pickle.loads(pickle.dumps(found))) == expected


def test_memory_does_not_hold_the_records(tmp_path):
    path = write(tmp_path / "records.jsonl", 20_000)
    jsonl.load(path)  # what is imported and cached on the way is not the file's
    tracemalloc.start()
    found, _ = jsonl.load(path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / len(found) < 16


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"key": "caf\u00e9/1.jpg"}', "is both record 2 and record 4"),
        ('{"key": "b", "label": "maybe"}', "line 4: record 'b'.*maybe"),
        ("{", "line 4: no JSON"),
    ],
)
def test_faults_are_found_before_the_work_begins(tmp_path, line, words):
    path = write(tmp_path / "records.jsonl", 3)
    with open(path, "a", encoding="utf-8") as f:
        f.write(line)
    with pytest.raises(ValueError, match=words):
        jsonl.load(path)


def test_a_file_that_changes_meanwhile_is_not_read_on(tmp_path):
    path = write(tmp_path / "records.jsonl", 3)
    found, _ = jsonl.load(path)
    write(path, 4)
    for read in (lambda: found[0], lambda: list(found)):
        with pytest.raises(RuntimeError, match="records.jsonl has changed"):
            read()


@pytest.mark.parametrize("text, words", [("{", "no JSON"), ("[]", "no JSON object")])
def test_a_broken_run_json_is_named(tmp_path, text, words):
    path = write(tmp_path / "records.jsonl", 1)
    (tmp_path / "records.run.json").write_text(text)
    with pytest.raises(ValueError, match=f"records.run.json: {words}"):
        jsonl.load(path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="item-jax index"):
        jsonl.load(tmp_path / "records.jsonl")
