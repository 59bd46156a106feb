"""Records on disk: the file as a data set."""

import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from item_jax import Object, Record, read_records, write_records
from item_jax.datasets.dataset import Dataset, records
from item_jax.datasets.jsonl import RecordFile
from item_jax.files import write_json
from item_jax.images import ImageError
from item_jax.records import digest

DOG = Object("a dog", (0.1, 0.2, 0.5, 0.9), 0.7)


def write(path, count):
    made = (
        Record(f"caf\u00e9/{i}.jpg", "real", caption=f"n\u00b0 {i}", objects=(DOG,) * 3)
        for i in range(count)
    )
    write_records(path, made)
    return path


def test_a_file_is_the_data_set_of_its_records(tmp_path):
    path = write(tmp_path / "records.jsonl", 50)
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n" + "\n\n  \n".join(lines), "utf-8")  # no line end at the end
    found = RecordFile(path)
    expected = read_records(path)
    assert isinstance(found, Dataset) and len(found) == 50
    assert list(records(found)) == expected
    assert found.record(49) == expected[49] and found.record(17) == expected[17]
    assert found.sha256 == digest(expected)
    assert found.facts["captioner"] is None and found.facts["real_sources"] == {}
    for number in (50, -1):
        with pytest.raises(IndexError):
            found.record(number)


def test_files_are_read_below_the_folder_that_run_json_names(tmp_path):
    path = write(tmp_path / "records.jsonl", 2)
    with pytest.raises(ValueError, match="--config.data.images=FOLDER"):
        RecordFile(path).read(0)
    for name in ("one", "other"):
        (tmp_path / name / "caf\u00e9").mkdir(parents=True)
        (tmp_path / name / "caf\u00e9/0.jpg").write_text(name)
    write_json(tmp_path / "records.run.json", {"images": str(tmp_path / "one")})
    assert RecordFile(path).read(0) == b"one"
    assert RecordFile(path, tmp_path / "other").read(0) == b"other"
    with pytest.raises(ImageError, match="no such file"):
        RecordFile(path).read(1)


def test_threads_and_a_pickled_copy_read_the_same(tmp_path):
    found = RecordFile(write(tmp_path / "records.jsonl", 200))
    expected = read_records(found.path)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(found.record, range(200))) == expected
    assert list(records(pickle.loads(pickle.dumps(found)))) == expected


@pytest.mark.slow
def test_memory_does_not_hold_the_records(tmp_path):
    path = write(tmp_path / "records.jsonl", 20_000)
    RecordFile(path)  # what is imported and cached on the way is not the file's
    tracemalloc.start()
    found = RecordFile(path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / len(found) < 16


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"key": "caf\u00e9/1.jpg"}', "is both record 2 and record 4"),
        ('{"key": "b", "label": "maybe"}', "line 4: record 'b'.*maybe"),
        ("{", "line 4: not JSON"),
    ],
)
def test_faults_are_found_before_the_work_begins(tmp_path, line, words):
    path = write(tmp_path / "records.jsonl", 3)
    with open(path, "a", encoding="utf-8") as f:
        f.write(line)
    with pytest.raises(ValueError, match=words):
        RecordFile(path)


def test_a_file_that_changes_meanwhile_is_not_read_on(tmp_path):
    path = write(tmp_path / "records.jsonl", 3)
    found = RecordFile(path)
    write(path, 4)
    with pytest.raises(RuntimeError, match="records.jsonl has changed"):
        found.record(0)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ('{"images": 3}', "'images' is 3; expected str or null"),
        ('{"captioner": []}', r"'captioner' is \[\]; expected dict"),
        ('{"pairs": []}', r"'real_sources' is \[\]; expected dict"),
        ('{"real_sources": {"a": []}}', r"real_sources\['a'\] is \[\]"),
    ],
)
def test_a_broken_run_json_is_named(tmp_path, text, words):
    path = write(tmp_path / "records.jsonl", 1)
    (tmp_path / "records.run.json").write_text(text)
    with pytest.raises(ValueError, match=f"records.run.json: {words}"):
        RecordFile(path)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="item-jax index"):
        RecordFile(tmp_path / "records.jsonl")


def test_facts_of_version_0_1(tmp_path):
    path = write(tmp_path / "records.jsonl", 1)
    said = {"captioner": "blip (12)", "grounder": None, "pairs": {"gan": "photos"}}
    write_json(tmp_path / "records.run.json", said)
    facts = RecordFile(path).facts
    assert facts["captioner"] == {"id": "blip (12)"}
    assert facts["real_sources"] == {"gan": "photos"}


def test_a_file_without_records_is_an_error(tmp_path):
    (tmp_path / "records.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no records"):
        RecordFile(tmp_path / "records.jsonl")
