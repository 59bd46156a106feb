"""Data sets as other programs write them: tar shards, Parquet, Arrow."""

import io
import json
import pickle
import shutil
import tarfile

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from item_jax import testing
from item_jax.datasets.dataset import open_dataset
from item_jax.datasets.hugging_face import HuggingFaceDataset
from item_jax.embed import embed_records
from item_jax.images import ImageError
from item_jax.records import Object


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Records and the bytes of their files."""
    root = tmp_path_factory.mktemp("pictures")
    records = testing.save_random_images(root)
    return root, records, [(root / r.key).read_bytes() for r in records]


@pytest.fixture(scope="module")
def shards(pictures, tmp_path_factory):
    """Two tar files as webdataset's writer makes them: members of a sample together."""
    folder = tmp_path_factory.mktemp("shards")
    _, records, content = pictures
    for number in range(2):
        with tarfile.open(folder / f"photos-{number:06d}.tar", "w") as tar:
            for record, data in list(zip(records, content))[number::2]:
                stem, _, ending = record.key.rpartition(".")
                row = record.to_json() | {"width": 64, "caption": None}
                add(tar, f"{stem}.cls", b"1" if record.label == "fake" else b"0")
                add(tar, f"{stem}.json", json.dumps(row).encode())
                add(tar, f"{stem}.{ending}", data)
                add(tar, f"{stem}.txt", (record.caption or "").encode() + b"\n")
    return folder


@pytest.fixture(scope="module")
def tables(pictures, tmp_path_factory):
    """Two Parquet files as `datasets` writes them: Image, ClassLabel, row groups."""
    folder = tmp_path_factory.mktemp("tables")
    _, records, content = pictures
    features = {"label": {"names": ["fake", "real"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (folder / "data").mkdir()
    for split in ("train", "test"):
        rows = [
            {
                "image": {"bytes": data, "path": record.key.rpartition("/")[2]},
                "label": ["fake", "real"].index(record.label),
                "generator": record.generator,
                "caption": record.caption,
                "objects": [vars(o) | {"box": list(o.box)} for o in record.objects],
                "aesthetic": 5.0,
            }
            for record, data in zip(records, content)
            if record.split == split
        ]
        table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata)
        name = f"{split}-00000-of-00001.parquet"
        parquet.write_table(table, folder / "data" / name, row_group_size=5)
    return folder


def test_tar_shards_are_the_records_they_hold(pictures, shards, tmp_path):
    _, records, content = pictures
    data = open_dataset(shards)
    assert len(data) == len(records)
    expected = {r.key: (r, c) for r, c in zip(records, content)}
    for i in range(len(data)):
        record, own = expected[data.record(i).key]
        assert data.record(i) == record
        assert data.read(i) == own
    one = open_dataset(shards / "photos-000001.tar")
    assert len(one) == len(records) // 2
    assert pickle.loads(pickle.dumps(data)).read(3) == data.read(3)
    with pytest.raises(IndexError):
        data.read(len(data))


def test_parquet_is_the_records_it_holds(pictures, tables):
    _, records, content = pictures
    data = open_dataset(tables)
    assert len(data) == len(records)
    # Files come in the order of their names, and rows in theirs.
    order = [r for s in ("test", "train") for r in records if r.split == s]
    by_key = {r.key: c for r, c in zip(records, content)}
    for i, record in enumerate(order):
        found = data.record(i)
        for name in ("label", "generator", "split", "caption", "objects"):
            assert getattr(found, name) == getattr(record, name), name
        assert data.read(i) == by_key[record.key]
    assert data.record(0).key == "test-00000-of-00001.0"
    assert len({data.record(i).key for i in range(len(data))}) == len(data)
    again = pickle.loads(pickle.dumps(data))
    assert [again.read(i) for i in (7, 0, 11)] == [data.read(i) for i in (7, 0, 11)]


@pytest.fixture
def saved(pictures, tables, tmp_path):
    """The folder of a `DatasetDict`, as `save_to_disk` writes it."""
    folder = tmp_path / "saved"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        [path] = (tables / "data").glob(f"{split}-*")
        table = parquet.read_table(path)
        names = []
        for number, start in enumerate((0, 4)):
            part = table.slice(start, 4 if number == 0 else None)
            names.append(f"data-{number:05d}-of-00002.arrow")
            with pyarrow.ipc.new_stream(folder / split / names[-1], part.schema) as out:
                out.write_table(part, max_chunksize=3)
        state = {"_data_files": [{"filename": n} for n in names], "_split": split}
        (folder / split / "state.json").write_text(json.dumps(state))
        (folder / split / "dataset_info.json").write_text("{}")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return folder


def test_a_saved_dataset_is_the_table_it_was(tables, saved):
    expected, data = open_dataset(tables), open_dataset(saved)
    assert len(data) == len(expected)
    rows = {expected.read(i): expected.record(i) for i in range(len(expected))}
    for i in range(len(data)):
        found, record = data.record(i), rows[data.read(i)]
        for name in ("label", "generator", "split", "caption", "objects"):
            assert getattr(found, name) == getattr(record, name), name
    assert data.record(0).key == "train.data-00000-of-00002.0"
    assert len({data.record(i).key for i in range(len(data))}) == len(data)
    one = open_dataset(saved / "test")
    assert one.record(5).split == "test"
    assert pickle.loads(pickle.dumps(one)).read(5) == one.read(5)


def test_a_saved_dataset_is_whole_or_refused(saved):
    lost = saved / "test" / "data-00001-of-00002.arrow"
    whole = lost.read_bytes()
    lost.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="00001-of-00002.arrow: not a whole Arrow"):
        open_dataset(saved)
    lost.unlink()
    with pytest.raises(ValueError, match="state.json: names 'data-00001-.*not there"):
        open_dataset(saved)
    (saved / "test" / "state.json").unlink()
    with pytest.raises(ValueError, match="test/state.json is not there"):
        open_dataset(saved)
    shutil.rmtree(saved / "test")
    with pytest.raises(ValueError, match="dataset_dict.json: names 'test', which is"):
        open_dataset(saved)
    (saved / "dataset_dict.json").write_text('{"splits": ["../saved/train"]}')
    with pytest.raises(ValueError, match="'../saved/train' is not a name in its fol"):
        open_dataset(saved)
    (saved / "dataset_dict.json").write_text('{"splits": []}')
    with pytest.raises(ValueError, match="no row in 0 files"):
        open_dataset(saved)


def test_an_arrow_file_that_lies_about_itself_is_refused(saved):
    """Offsets that point elsewhere, and a stream that ends between two batches."""
    path = saved / "test" / "data-00000-of-00002.arrow"
    whole = path.read_bytes()
    batch = pyarrow.ipc.open_stream(path).read_next_batch()
    image = batch.column("image").field("bytes")
    offsets = image.buffers()[1].to_pybytes()[: 4 * (len(image) + 1)]
    assert whole.count(offsets) == 1
    wrong = np.frombuffer(offsets, np.int32).copy()
    wrong[1] = 10**8
    path.write_bytes(whole.replace(offsets, wrong.tobytes()))
    with pytest.raises(ValueError, match="not a whole Arrow file"):
        open_dataset(saved)
    path.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="the end of the stream is missing"):
        open_dataset(saved)
    path.write_bytes(whole)
    assert open_dataset(saved)


@pytest.mark.parametrize(
    "name, split",
    [
        ("train", "train"),
        ("validation", "val"),
        ("photos-Train-2", "train"),
        ("photos", ""),
        ("test-00000-of-00002-a1b2c3", "test"),
        ("my-set-00001-of-00002", "my-set"),
    ],
)
def test_the_split_is_in_the_name_of_a_parquet_file(tmp_path, name, split):
    write(tmp_path / f"{name}.parquet", image=[b"1"], split=[None])
    record = open_dataset(tmp_path).record(0)
    assert (record.split, record.generator, record.label) == (split, "", None)


def test_classes_and_sequences_are_read_as_datasets_stores_them(tmp_path):
    objects = {"phrase": ["a dog"], "box": [[0.0, 0.0, 0.5, 1.0]], "score": [0.9]}
    features = {"label": {"names": ["real", "fake"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}

    def opened(label):
        table = pyarrow.table({"image": [b"1"], "label": [label], "objects": [objects]})
        path = tmp_path / "x.parquet"
        parquet.write_table(table.replace_schema_metadata(metadata), path)
        return open_dataset(path)

    record = opened(1).record(0)
    assert record.objects == (Object("a dog", (0.0, 0.0, 0.5, 1.0), 0.9),)
    assert record.label == "fake" and opened(-1).record(0).label is None
    with pytest.raises(ValueError, match="row 0: label 2; its classes are"):
        opened(2)


def test_a_saved_split_tells_the_split_alone(tables, tmp_path):
    [path] = (tables / "data").glob("test-*")
    table = parquet.read_table(path).drop_columns(["generator", "label"])
    for split in ("validation", "fake"):
        (tmp_path / split).mkdir()
        with pyarrow.ipc.new_stream(tmp_path / split / "a.arrow", table.schema) as out:
            out.write_table(table)
        # What `load_dataset(..., split="train[:1000]")` leaves there.
        state = {"_data_files": [{"filename": "a.arrow"}], "_split": "train[:1000]"}
        (tmp_path / split / "state.json").write_text(json.dumps(state))
        (tmp_path / split / "dataset_info.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["validation", "fake"]}')
    data = open_dataset(tmp_path)
    for i, split, label in ((0, "val", None), (len(data) - 1, "", "fake")):
        found = data.record(i)
        assert (found.split, found.generator, found.label) == (split, "", label)
    assert open_dataset(tmp_path / "fake").record(0).split == "train"


def test_embeddings_of_shards_are_those_of_the_folder(
    pictures, shards, towers, config, tmp_path
):
    root, records, _ = pictures
    folder = embed_records(records, towers, config, images=root, folder=tmp_path / "a")
    found = embed_records(open_dataset(shards), towers, config, folder=tmp_path / "b")

    def by_key(cache):
        return {
            row["key"]: emb
            for part in cache.select()
            for row, emb in zip(part.rows, part.image_emb)
        }

    expected, own = by_key(folder), by_key(found)
    assert set(own) == set(expected) and len(own) == len(records)
    for key, emb in own.items():
        np.testing.assert_allclose(emb, expected[key], rtol=0, atol=1e-6)


def damaged(shards, tmp_path, change):
    path = tmp_path / "x.tar"
    content = change((shards / "photos-000000.tar").read_bytes())
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda b: b[: len(b) // 2], "x.tar: "),
        (lambda b: b"no tar at all" * 100, "not a whole, uncompressed tar"),
        (lambda b: b.rstrip(b"\0"), "x.tar: "),
        (lambda b: b"", "x.tar: "),
    ],
)
def test_damaged_shards_are_refused(shards, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(damaged(shards, tmp_path, change))


@pytest.mark.parametrize(
    "members, message",
    [
        ({"a.txt": b"x"}, "a: a sample has one image"),
        ({"a.jpg": b"x", "a.png": b"x"}, "found jpg, png"),
        (
            {"a.jpg": b"x", "b.jpg": b"x", "a.png": b"y"},
            "a: a sample has one image .*found jpg, png",
        ),
        ({"a.jpg": b"x", "a.cls": b"2"}, "a: label '2'; allowed: real, fake"),
        ({"a.jpg": b"x", "a.json": b"[1]"}, "a.json: expected a JSON object"),
        ({"a.jpg": b"x", "a.json": b"{"}, "a.json"),
        ({"a.jpg": b"x", "a.json": b'{"objects": [{"phrase": ""}]}'}, "a: "),
        ({}, "no sample"),
    ],
)
def test_what_is_no_sample_is_refused_by_name(tmp_path, members, message):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in members.items():
            add(tar, name, content)
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path)


def write(path, **columns):
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_what_is_no_table_of_images_is_refused_by_name(tmp_path):
    path = tmp_path / "x.parquet"
    with pytest.raises(ValueError, match="no column 'image', found text"):
        open_dataset(write(path, text=["a"]))
    with pytest.raises(ValueError, match="a.jpg: duplicate key"):
        open_dataset(write(path, image=[b"1", b"2"], key=["a.jpg", "a.jpg"]))
    with pytest.raises(ValueError, match="x.parquet: x.0: label 7"):
        open_dataset(write(path, image=[b"1"], label=[7]))
    with pytest.raises(ValueError, match="column 'image' has string; expected bytes"):
        open_dataset(write(path, image=["/etc/hostname"]))
    with pytest.raises(ValueError, match="'image' has struct<path: string>"):
        open_dataset(write(path, image=[{"path": "a.png"}]))
    with pytest.raises(ValueError, match="row 0: the key is 7; expected text"):
        open_dataset(write(path, image=[b"1"], key=[7]))
    with pytest.raises(ValueError, match="absent.parquet: there is no such file"):
        HuggingFaceDataset(tmp_path / "absent.parquet")
    whole = write(path, image=[b"1", None], label=[0, 1]).read_bytes()
    data = open_dataset(tmp_path)
    assert [data.record(i).label for i in (0, 1)] == ["real", "fake"]
    assert data.read(0) == b"1"
    with pytest.raises(ImageError, match="has no image"):
        data.read(1)
    write(path, image=[{"bytes": None, "path": "/home/a.png"}])
    with pytest.raises(ImageError, match="not the image: /home/a.png; `save_to_disk`"):
        open_dataset(path).read(0)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        open_dataset(path)


def test_folders_of_a_key_tell_what_a_shard_does_not(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "test/sdv14/1_fake/17.jpg", b"x")
        add(tar, "test/sdv14/1_fake/17.txt", "ein Hündchen".encode())
    record = open_dataset(tmp_path).record(0)
    assert (record.label, record.generator, record.split) == ("fake", "sdv14", "test")
    assert record.caption == "ein Hündchen"
    assert record.objects == () or isinstance(record.objects[0], Object)
