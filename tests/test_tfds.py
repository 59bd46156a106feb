import dataclasses
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from item_jax import pipeline
from item_jax.datasets import tfds
from item_jax.datasets.dataset import Dataset, RecordList
from item_jax.datasets.dataset import records as all_records
from item_jax.embed import embed_records
from item_jax.files import write_json
from item_jax.records import Object, Record, digest, write_records


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder and 23 records: splits in turn, odd names, a damaged and an empty file,
    boxes that float32 cannot hold."""
    root = tmp_path_factory.mktemp("mixed")
    rng = np.random.default_rng(0)
    records = []
    for i in range(23):
        key = f"a b/{i:03d}.x.{('PNG', 'jpeg', 'webp')[i % 3]}"
        (root / key).parent.mkdir(exist_ok=True)
        picture = rng.integers(0, 256, (30 + i, 40, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / key)
        box = (0.1, 0.2, 0.3 + 1 / 3, 0.9)
        records.append(
            Record(
                key,
                label=(None, "real", "fake")[i % 3],
                benchmark="b",
                generator=("gan", "")[i % 2],
                split=("train", "test", "", "my split")[i // 3 % 4],
                caption=None if i == 3 else f"ein Häuschen {i}",
                objects=(Object("ein Häuschen", box, 0.7),) * (i % 3),
            )
        )
    (root / records[5].key).write_bytes(b"")
    (root / records[6].key).write_bytes(b"\x89PNG garbage")
    return root, records


@pytest.fixture(scope="module")
def packed(mixed, tmp_path_factory):
    root, records = mixed
    where = tmp_path_factory.mktemp("packed")
    facts = {"captioner": {"id": "blip"}, "real_sources": {"gan": "photos"}}
    return tfds.build(
        RecordList(records, root, facts), data_dir=where, name="mixed", shards=2
    )


def test_what_comes_out_is_what_went_in(mixed, packed):
    root, records = mixed
    pack = pickle.loads(pickle.dumps(tfds.Pack(packed)))
    assert len(pack) == len(records)
    assert isinstance(pack, Dataset)
    assert pack.sha256 == digest(records)
    assert pack.facts == {
        "images": None,
        "captioner": {"id": "blip"},
        "grounder": None,
        "real_sources": {"gan": "photos"},
        "index": {},
    }
    for i in (*range(23), 3, 22, 0):
        assert pack.record(i) == records[i]  # boxes to the last bit
        assert pack.read(i) == (root / records[i].key).read_bytes()
    for i in (23, -1):
        with pytest.raises(IndexError):
            pack.record(i)


def test_a_record_and_its_file_are_read_once(mixed, packed, monkeypatch):
    pack = tfds.Pack(packed)
    read = []
    inner = tfds.Pack._read_example
    monkeypatch.setattr(
        tfds.Pack, "_read_example", lambda self, i: read.append(i) or inner(self, i)
    )
    for i in (0, 1, 0):
        pack.record(i), pack.read(i)
    assert read == [0, 1, 0]


def test_everybody_else_can_read_it(mixed, packed):
    """With TFDS alone, without our builder."""
    root, records = mixed
    builder = tensorflow_datasets.builder_from_directory(packed)
    assert builder.info.splits["train"].num_examples == 6
    source = builder.as_data_source(
        split="train",
        decoders={"image": tensorflow_datasets.decode.SkipDecoding()},
    )
    train = [r for r in records if r.split == "train"]
    for record, example in zip(train, source):
        assert example["key"].decode() == record.key
        assert example["image"] == (root / record.key).read_bytes()
        known = {"real": 0, "fake": 1, None: -1}
        assert example["label"] == known[record.label]
        assert example["caption"].decode() == (record.caption or "")
        boxes = example["objects"]["bbox"]
        assert len(boxes) == len(record.objects)
        for (top, left, bottom, right), thing in zip(boxes, record.objects):
            np.testing.assert_allclose((left, top, right, bottom), thing.box, rtol=1e-6)
    # As an image, where one can be decoded.
    whole = builder.as_data_source(split="train")[0]
    np.testing.assert_array_equal(
        whole["image"], np.asarray(Image.open(root / train[0].key))
    )


def made_with(path):
    """The metadata of a shard but for the size and checksum of its rows."""
    with safe_open(path, "numpy") as shard:
        metadata = json.loads(shard.metadata()["item_jax"])
    return {k: v for k, v in metadata.items() if not k.startswith("rows_")}


def contents(folder):
    """What the files of a cache hold, to the bit, without the times of image files,
    which a pack has not, and the checksums of rows that differ by them."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            tensors = load_file(path)
            found[path.name] = {
                name: (array.dtype, array.shape, array.tobytes())
                for name, array in tensors.items()
            } | {"": made_with(path)}
        else:
            found[path.name] = re.sub(rb', "mtime_ns": \d+', b"", path.read_bytes())
    return found


def test_embeddings_equal_those_of_the_folder(mixed, packed, towers, config, tmp_path):
    root, records = mixed
    folder = RecordList(records, root, tfds.Pack(packed).facts)
    one = embed_records(folder, towers, config, folder=tmp_path / "folder")
    embed_records(tfds.Pack(packed), towers, config, folder=tmp_path / "pack")
    assert one.counts() == {"in": 23, "done": 20, "failed": 3}
    assert contents(tmp_path / "folder") == contents(tmp_path / "pack")


@pytest.mark.slow
def test_the_commands_from_folder_to_embeddings(photos, tiny_clip, tmp_path):
    """Index by hand, pack, embed from both: the caches are the same files."""
    root, records = photos
    lines = tmp_path / "records.jsonl"
    write_records(lines, records)
    write_json(lines.with_suffix(".run.json"), {"images": str(root), "captioner": "me"})

    def run(*arguments):
        command = [sys.executable, "-m", "item_jax", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    packing = ("--records", lines, "--data-dir", tmp_path / "packs", "--name", "photos")
    done = run("build-dataset", *packing)
    assert done.returncode == 0, done.stderr
    pack = tmp_path / "packs/item/photos/1.0.0"
    assert done.stdout == f"packed 24 images; wrote {pack}\n"
    for workdir, source in (("a", lines), ("b", pack)):
        done = run(
            *("embed", "--workdir", tmp_path / workdir),
            *(f"--config.tower={tiny_clip[0]}", f"--config.data.records={source}"),
            *("--config.embed.shard_size=7", "--config.embed.batch_size=8"),
        )
        assert done.returncode == 0, done.stderr
    one, other = (contents(tmp_path / name / "embeddings") for name in "ab")
    assert one == other and len(one) == 9
    again = run("build-dataset", *packing)
    assert again.returncode == 2 and "exists; delete it" in again.stderr


def test_worker_processes_read_a_pack(mixed, packed, config):
    config.embed.workers = 2
    root, records = mixed
    found = list(pipeline.stream(tfds.Pack(packed), config=config, image_size=32))
    config.embed.workers = 0
    folder = RecordList(records, root)
    wanted = list(pipeline.stream(folder, config=config, image_size=32))
    assert [i.record for i in found] == [i.record for i in wanted] == records
    for a, b in zip(found, wanted):
        assert a.error == b.error
        np.testing.assert_array_equal(a.views, b.views)


BUILD = """
import sys, time
from item_jax import images, records
from item_jax.datasets import dataset, tfds
read = images.read_bytes
def slowly(*arguments):
    time.sleep(0.03)
    return read(*arguments)
images.read_bytes = slowly
root, lines, where = sys.argv[1:]
data = dataset.RecordList(records.read_records(lines), root)
tfds.build(data, data_dir=where, name="x", shards=4)
"""


def test_a_killed_build_leaves_nothing_that_reads_as_whole(photos, tmp_path):
    root, records = photos
    write_records(tmp_path / "records.jsonl", records)
    where = tmp_path / "packs"
    command = [sys.executable, "-c", BUILD, root, tmp_path / "records.jsonl", where]
    final = where / "item/x/1.0.0"
    begun = []
    for pause in (0, 0.1, 0.3):
        before = set(where.rglob("incomplete*"))
        run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while set(where.rglob("incomplete*")) <= before and run.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(pause)
        os.kill(run.pid, signal.SIGKILL)
        begun.append(run.wait() == -signal.SIGKILL)
        assert not final.exists()
        with pytest.raises(ValueError, match="an interrupted build leaves is not one"):
            tfds.Pack(final)
    assert all(begun), "a kill came too late to show anything"
    left = list(where.rglob("incomplete*"))
    assert len(left) == 3
    for folder in left:
        with pytest.raises(ValueError, match="no pack in"):
            tfds.Pack(folder)
    subprocess.run(command, check=True, capture_output=True)
    assert list(all_records(tfds.Pack(final))) == records


def test_a_file_that_cannot_be_read_stops_the_build(photos, tmp_path):
    root, records = photos
    gone = [*records, Record("gone.png", caption="x")]
    with pytest.raises(ValueError, match="'gone.png': no such file.*needs every file"):
        tfds.build(RecordList(gone, root), data_dir=tmp_path, name="x")
    assert not list(tmp_path.rglob("*.array_record*"))
    with pytest.raises(ValueError, match="allowed: letters"):
        tfds.build(RecordList(records, root), data_dir=tmp_path, name="a/b")
    with pytest.raises(ValueError, match="no records"):
        tfds.build(RecordList([], root), data_dir=tmp_path, name="x")


def test_splits_smaller_than_the_shards(photos, tmp_path):
    root, records = photos
    few = [dataclasses.replace(r, split="ab"[i == 9]) for i, r in enumerate(records)]
    folder = tfds.build(RecordList(few, root), data_dir=tmp_path, name="x", shards=5)
    assert list(all_records(tfds.Pack(folder))) == few


def test_missing_and_damaged_shards_are_named(photos, tmp_path):
    root, records = photos
    folder = tfds.build(
        RecordList(records, root), data_dir=tmp_path, name="x", shards=2
    )
    first = folder / "item-test.array_record-00000-of-00002"
    whole = first.read_bytes()
    first.write_bytes(whole[: len(whole) // 2])
    number = next(i for i, r in enumerate(records) if r.split == "test")
    with pytest.raises(
        ValueError, match="item-test.array_record-00000-of-00002 is dam"
    ):
        tfds.Pack(folder).record(number)
    first.unlink()
    with pytest.raises(ValueError, match="lacks item-test.array_record-00000-of-00002"):
        tfds.Pack(folder)


def test_shards_of_a_bucket_are_copied_once(mixed, packed, tmp_path, monkeypatch):
    """The bucket is a local folder here: nothing but the copying is of interest."""
    root, records = mixed
    monkeypatch.setattr(tfds, "_remote", lambda file: True)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    pack = tfds.Pack(packed)
    assert pack.record(0) == records[0]
    (folder,) = tmp_path.iterdir()
    copied = list(folder.iterdir())
    assert len(copied) == 1  # only the shard that was read
    before = copied[0].stat().st_mtime_ns
    assert list(all_records(tfds.Pack(packed))) == records
    assert copied[0].stat().st_mtime_ns == before
    assert len(list(folder.iterdir())) == len(list(packed.glob("*.array_record*")))


def test_neither_tensorflow_nor_jax_is_loaded(mixed, packed):
    code = (
        f"from item_jax.datasets import tfds; tfds.Pack({str(packed)!r}).read(0)\n"
        "import sys; print(*{'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.fixture(scope="module")
def small(photos, tmp_path_factory):
    root, records = photos
    where = tmp_path_factory.mktemp("small")
    return tfds.build(RecordList(records, root), data_dir=where, name="x", shards=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": None}, "'schema' is None; expected str"),
        ({"schema": "item-pack/9"}, "schema 'item-pack/9'; this version reads item-p"),
        ({"runs": "-"}, "'runs' is missing"),
        ({"runs": 3}, "'runs' is 3; expected list"),
        ({"runs": [["test", -4]]}, r"'runs' has \['test', -4\]; expected"),
        ({"runs": [["test", True]]}, "'runs' has .*expected"),
        ({"runs": [["test", 5]]}, "'runs' hold 5 examples, 'records' is 24"),
        ({"runs": [["tset", 24]]}, "split 'tset' than the 0 in its files"),
        ({"runs": [["test", 24]]}, "split 'test' than the 12 in its files"),
        ({"records": -1}, "'records' is -1; at least 1"),
        ({"records": 10**12}, "'runs' hold 24 examples, 'records' is 1000000000000"),
        ({"records_sha256": 5}, "'records_sha256' is 5; expected str"),
        ({"run": []}, r"'run' is \[\]; expected dict"),
        ({"run": {"real_sources": {"a": 3}}}, r"real_sources\['a'\] is 3"),
    ],
)
def test_metadata_of_others_are_checked(small, tmp_path, changes, said):
    copy = shutil.copytree(small, tmp_path / "copy")
    path = copy / "metadata.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v != "-"}))
    with pytest.raises(ValueError, match=said) as caught:
        tfds.Pack(copy)
    assert "metadata.json" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metadata.json", "{", "metadata.json: not JSON"),
        ("metadata.json", "[]", "metadata.json: expected a JSON object"),
        ("metadata.json", "[" * 10**5, "nested too deeply"),
        ("dataset_info.json", "{", "cannot read the pack's own files"),
        ("dataset_info.json", None, "cannot read the pack's own files"),
        ("features.json", "[]", "cannot read the pack's own files"),
    ],
)
def test_damaged_files_of_a_pack_are_named(small, tmp_path, name, content, said):
    copy = shutil.copytree(small, tmp_path / "copy")
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_text(content)
    with pytest.raises(ValueError, match=said):
        tfds.Pack(copy)


def test_a_pack_of_version_0_1_is_read(small, photos, tmp_path):
    copy = shutil.copytree(small, tmp_path / "copy")
    path = copy / "metadata.json"
    content = json.loads(path.read_text())
    content["schema"] = "item-pack/1"
    content["run"] = {"captioner": "me (12)", "grounder": None, "pairs": {"a": "b"}}
    path.write_text(json.dumps(content))
    pack = tfds.Pack(copy)
    assert pack.facts["captioner"] == {"id": "me (12)"}
    assert pack.facts["real_sources"] == {"a": "b"}
    assert list(all_records(pack)) == photos[1]
