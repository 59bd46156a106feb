"""One kind of data set, whatever it is made of, from here and from outside."""

import dataclasses
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from item_jax import pipeline
from item_jax.datasets import dataset, miniature
from item_jax.datasets.benchmarks import Benchmark, Place, get
from item_jax.datasets.dataset import Dataset, RecordList, open_dataset
from item_jax.datasets.folder import FolderDataset
from item_jax.datasets.jsonl import RecordFile
from item_jax.datasets.layout import find
from item_jax.datasets.tfds import Pack, build
from item_jax.files import write_json, write_json_lines
from item_jax.images import ImageError
from item_jax.records import digest, write_records


@pytest.fixture
def world(photos, tmp_path):
    """The same records in every form."""
    root, records = photos
    lines = tmp_path / "records.jsonl"
    write_records(lines, records)
    write_json(tmp_path / "records.run.json", {"images": str(root)})
    pack = build(RecordList(records, root), data_dir=tmp_path, name="x")
    return {"list": RecordList(records, root), "lines": str(lines), "pack": str(pack)}


@pytest.mark.parametrize("form", ["list", "lines", "pack"])
def test_every_form_is_the_same_data_set(world, photos, form):
    root, records = photos
    found = open_dataset(world[form])
    assert isinstance(found, Dataset)
    assert isinstance(found, {"list": RecordList, "lines": RecordFile}.get(form, Pack))
    assert len(found) == 24 and list(dataset.records(found)) == records
    assert found.sha256 == dataset.digest(found) == digest(records)
    assert found.read(3) == (root / records[3].key).read_bytes()
    assert set(dataset.facts(found)) == {
        *("images", "captioner", "grounder", "real_sources", "index")
    }
    for number in (-1, 24):
        with pytest.raises(IndexError):
            found.record(number)
        with pytest.raises(IndexError):
            found.read(number)


def test_views_do_not_depend_on_the_form(world, config):
    forms = [
        pipeline.stream(open_dataset(d), config=config, image_size=16)
        for d in (world["list"], world["lines"], world["pack"])
    ]
    for one, *others in zip(*forms):
        for other in others:
            assert one.record == other.record and one.objects == other.objects
            np.testing.assert_array_equal(one.views, other.views)


def test_folders(photos, tmp_path):
    root, records = photos
    plain = open_dataset(root)
    assert isinstance(plain, FolderDataset) and len(plain) == 24
    assert plain.record(0).caption is None
    shutil.copytree(root, tmp_path / "w/images")
    write_json_lines(
        tmp_path / "w/captions.jsonl",
        [{"key": r.key, "caption": r.caption, "status": "done"} for r in records],
    )
    found = open_dataset(tmp_path / "w")
    by_key = {r.key: r for r in records}
    for record in dataset.records(found):
        known = by_key[record.key]
        assert record == dataclasses.replace(known, benchmark="", objects=())
    assert found.facts["captioner"]["id"].startswith("unknown")


def test_the_miniature(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    found = open_dataset("miniature")
    assert isinstance(found, Dataset) and found.report.captioned == len(found)
    assert found.facts["captioner"]["id"] == "captioner"
    assert found.read(0)[:2] == b"\xff\xd8"
    again = open_dataset("miniature")
    assert again.sha256 == found.sha256
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert not list(folder.rglob("*.partial"))


def test_a_folder_of_somebody_else_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(ValueError, match="item-jax-12345 belongs to user"):
        miniature.dataset()


# ------------------------------------------------------------------------- from outside


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "their_data.py").write_text(
        """
import io
from PIL import Image
from item_jax.datasets.benchmarks import Benchmark, Place, Subset
from item_jax.images import ImageError
from item_jax.records import Record

class Squares:
    def __len__(self):
        return 3

    def record(self, number):
        return Record(f"{number}.png", ("real", "fake")[number % 2], caption="a square")

    def read(self, number):
        if number == 2:
            raise ImageError("the server is down")
        file = io.BytesIO()
        Image.new("RGB", (20, 20), (number, 0, 0)).save(file, "PNG")
        return file.getvalue()

def dataset():
    return Squares()

squares = Squares()
nothing = 3

BENCHMARK = Benchmark(
    name="theirs",
    places=(
        Place("a/real", "real", "photos", "test", "test"),
        Place("a/fake", "fake", "net", "test", "test"),
        Place("t/x/fake", "fake", "net", "train", "train"),
    ),
    counts={("test", "net", "fake"): 2},
    real_sources={"net": "photos"},
    subsets={"few": Subset("net", ("x",), 1)},
    default_subset="few",
)
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("their_data", None)


@pytest.mark.parametrize("member", ["", ":dataset", ":Squares", ":squares"])
def test_a_data_set_from_outside_needs_three_methods(outside, config, member):
    found = open_dataset(f"their_data{member}")
    assert dataset.digest(found) == digest(list(dataset.records(found)))
    assert dataset.facts(found) == {
        **{"images": None, "captioner": None, "grounder": None},
        **{"real_sources": {}, "index": None},
    }
    made = list(pipeline.stream(found, config=config, image_size=8))
    assert [image.error for image in made] == [
        *(None, None, "image: '2.png': the server is down")
    ]
    assert made[1].views[0, 4, 4, 0] == 1
    assert open_dataset(found) is found


def test_facts_from_outside_are_checked(outside):
    import their_data

    found = their_data.Squares()
    found.facts = {"real_sources": 3}
    with pytest.raises(ValueError, match="facts of Squares: 'real_sources' is 3"):
        dataset.facts(found)
    found.facts, found.sha256 = {"captioner": "blip"}, "abc"
    assert dataset.facts(found)["captioner"] == {"id": "blip"}
    assert dataset.digest(found) == "abc"


def test_what_is_not_a_data_set_is_refused(outside):
    with pytest.raises(ValueError, match="data set .*3.* lacks __len__, record, read"):
        open_dataset("their_data:nothing")
    with pytest.raises(ValueError, match="their_data has no 'squars'.*'squares'"):
        open_dataset("their_data:squars")
    with pytest.raises(ValueError, match="lacks record, read"):
        open_dataset([])


def test_a_benchmark_from_outside(outside):
    for folder, count in (("a/real", 2), ("a/fake", 1), ("t/x/fake", 3)):
        (outside / "bench" / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4)).save(outside / "bench" / folder / f"{i}.png")
    assert get("their_data:BENCHMARK") is get("their_data")
    found = find(outside / "bench", "their_data:BENCHMARK")
    assert found.real_sources == {"net": "photos"}
    assert found.faults == ["net (test): short: 1 fake images, 2 expected"]
    assert {r.benchmark for r in found.records} == {"theirs"}
    assert len(found.records) == 4  # one of the three to train on
    assert found.settings["train_subset"] == "few"
    with pytest.raises(ValueError, match="is a int; expected an .*Benchmark"):
        find(outside / "bench", "their_data:nothing")
    with pytest.raises(ValueError, match="training subset of x 'few'"):
        Benchmark("x", (Place("a", "fake", "g", "test", "test"),), default_subset="few")


# ---------------------------------------------------------------------- what is missing


def test_what_is_missing_says_what_to_do(tmp_path, photos):
    root, records = photos
    for name in ("records.jsonl", "run/records.jsonl", "plain"):
        with pytest.raises(ValueError, match=f"no records at {name}: .*item-jax index"):
            open_dataset(name)
    with pytest.raises(ValueError, match="data set 'no.such': tried to import no.such"):
        open_dataset("no.such")
    lines = tmp_path / "records.jsonl"
    write_records(lines, records)
    with pytest.raises(ValueError, match="not known: set --config.data.images=FOLDER"):
        open_dataset(lines)
    assert len(open_dataset(lines, root)) == 24
    with pytest.raises(
        ValueError, match="no folder of images '/x'.*data.images=FOLDER"
    ):
        open_dataset(lines, "/x")
    write_json(tmp_path / "records.run.json", {"images": "/gone"})
    with pytest.raises(ValueError, match="no folder of images '/gone'"):
        open_dataset(lines)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image below"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "empty/x.array_record-00000-of-00001").write_bytes(b"")
    with pytest.raises(ValueError, match="an interrupted build leaves is not one"):
        open_dataset(tmp_path / "empty")


def test_records_without_a_folder():
    data = RecordList([])
    assert len(data) == 0 and data.facts["images"] is None
    with pytest.raises(IndexError):
        data.read(0)


def test_a_file_that_cannot_be_read(photos):
    root, records = photos
    gone = dataclasses.replace(records[0], key="gone.png")
    with pytest.raises(ImageError, match="no such file"):
        RecordList([gone], root).read(0)
    with pytest.raises(ValueError, match="--config.data.images=FOLDER"):
        RecordList([gone]).read(0)


def test_a_folder_of_images_goes_with_a_records_file_only(tmp_path):
    """It was ignored for everything that brings its own images."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    for name in ("miniature", tmp_path / "images"):
        with pytest.raises(ValueError, match="brings its own images"):
            open_dataset(name, tmp_path)
