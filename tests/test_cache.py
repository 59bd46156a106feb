"""The cache: what reads as whole is whole, and is what it says it is."""

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from item_jax import shards
from item_jax.cache import EmbeddingCache
from item_jax.embed import embed_records
from item_jax.embeddings import Embeddings, check_finite


@pytest.fixture(scope="module")
def whole(photos, towers, tmp_path_factory):
    from item_jax import config as config_lib

    c = config_lib.default()
    c.embed.shard_size, c.embed.threads = 10, 2
    root, records = photos
    folder = tmp_path_factory.mktemp("cache") / "e"
    return embed_records(records, towers, c, images=root, folder=folder)


@pytest.fixture
def cache(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "e")
    return EmbeddingCache(tmp_path / "e")


def arrays_of(path):
    with safe_open(path, framework="np") as f:
        return {name: f.get_tensor(name) for name in f.keys()}, f.metadata()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("text_emb"), "arrays_sha256"),
        (lambda a: a.update(more=np.zeros(2)), "arrays_sha256"),
        (lambda a: a["object_offsets"].__isub__(1), "arrays_sha256"),
        (
            lambda a: a.update(image_emb=a["image_emb"].astype(np.int32)),
            "arrays_sha256",
        ),
        (lambda a: a["phrase_emb"].__setitem__((0, 0), np.nan), "arrays_sha256"),
    ],
)
def test_a_changed_shard_does_not_carry_its_checksum(cache, change, words):
    path = cache.path(1)
    arrays, metadata = arrays_of(path)
    change(arrays)
    save_file(arrays, path, metadata)
    with pytest.raises(
        ValueError, match=f"shard .*00001.*damaged.*{words}.*item-jax embed"
    ):
        cache.read(1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("text_emb"), "it holds .*expected"),
        (lambda a: a.update(more=np.zeros(2)), "it holds .*more"),
        (lambda a: a["object_offsets"].__isub__(1), "object_offsets do not fit"),
        (lambda a: a["object_offsets"].__setitem__(3, 99), "object_offsets do not fit"),
        (
            lambda a: a.update(image_emb=a["image_emb"].astype(np.int32)),
            r"image_emb is int32 \[10, 32\], expected float32",
        ),
        (
            lambda a: a.update(text_emb=a["text_emb"][:, :5].copy()),
            r"text_emb is float32 \[10, 5\], expected float32 \[10, 32\]",
        ),
        (
            lambda a: a["phrase_emb"].__setitem__((0, 0), np.nan),
            "phrase_emb of '.*' is not finite",
        ),
        (
            lambda a: a["image_emb"].__setitem__((2, 0), np.inf),
            "image_emb of '.*' is not finite",
        ),
    ],
)
def test_arrays_with_the_right_checksum_are_checked_too(cache, change, words):
    arrays, metadata = arrays_of(cache.path(1))
    change(arrays)
    mark = json.loads(metadata["item_jax"])
    mark["arrays_sha256"] = shards._sum(arrays)
    save_file(arrays, cache.path(1), {"item_jax": json.dumps(mark)})
    with pytest.raises(ValueError, match=words):
        cache.read(1)


def test_a_shard_without_a_checksum_is_refused(cache):
    arrays, _ = arrays_of(cache.path(1))
    save_file(arrays, cache.path(1))
    with pytest.raises(ValueError, match="it carries no checksum"):
        cache.read(1)


def test_a_shard_copied_over_another_is_refused(cache):
    for suffix in (".safetensors", ".jsonl"):
        shutil.copy(cache.path(0, suffix), cache.path(1, suffix))
    with pytest.raises(ValueError, match="it is shard 0, expected 1"):
        list(cache)


def test_rows_of_another_shard_are_refused(cache):
    shutil.copy(cache.path(0, ".jsonl"), cache.path(1, ".jsonl"))
    with pytest.raises(ValueError, match="00001.jsonl has .* bytes, expected"):
        cache.counts()


def edited(cache, **fields):
    manifest = json.loads((cache.folder / "manifest.json").read_text()) | fields
    (cache.folder / "manifest.json").write_text(json.dumps(manifest))
    return cache.folder


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shards": 2}, "24 records in shards of 10 are not 2 shards"),
        ({"shards": 10**9}, "are not 1000000000 shards"),
        ({"shard_size": 0}, "24 records in shards of 0"),
        ({"records": -1}, "-1 records"),
        ({"records": "24"}, "'records' is '24'; expected int"),
        ({"storage": "int8"}, "storage is 'int8'"),
        ({"schema": "item-embeddings/7"}, "schema 'item-embeddings/7'"),
        ({"schema": "item-embeddings/1"}, "Delete .* and run `item-jax embed` again"),
        ({"embedding": {}}, "'embedding.tower.name' is missing"),
        ({"real_sources": []}, "'real_sources' is"),
        ({"real_sources": {"a": 3}}, "does not map names to names"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(cache, fields, words):
    with pytest.raises(ValueError, match=f"manifest.json.*{words}"):
        EmbeddingCache(edited(cache, **fields))


def test_fewer_records_than_there_are_is_refused(cache):
    fewer = EmbeddingCache(edited(cache, records=21))
    with pytest.raises(ValueError, match="00002.jsonl has 4 rows, expected 1"):
        list(fewer)
    with pytest.raises(ValueError, match="00002.jsonl has 4 rows, expected 1"):
        fewer.counts()


@pytest.mark.parametrize("text", ["[]", "{", "null", "[" * 100_000, '{"a": NaN}'])
def test_a_manifest_that_is_not_one_is_refused(cache, text):
    (cache.folder / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="manifest.json"):
        EmbeddingCache(cache.folder)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"key": 3}, "'key' is 3"),
        ({"status": None}, "'status' is None"),
        ({"status": "ok"}, "'status' is 'ok'; allowed: done, failed"),
        ({"label": "reel"}, "'label' is 'reel'"),
        ({"generator": None}, "'generator' is None"),
        ({"objects": {}}, "'objects' is {}"),
        ({"objects": [3]}, "an object is 3"),
        ({"caption": None}, "'caption' is None"),
        ({"status": "failed"}, "'error' is None"),
    ],
)
def test_a_row_that_is_not_one_is_refused_by_line(cache, row, words):
    path = cache.path(0, ".jsonl")
    lines = path.read_text().splitlines()
    lines[4] = json.dumps(json.loads(lines[4]) | row)
    text = "\n".join(lines) + "\n"
    path.write_text(text)
    arrays, metadata = arrays_of(cache.path(0))
    mark = json.loads(metadata["item_jax"]) | {"rows_bytes": len(text.encode())}
    save_file(arrays, cache.path(0), {"item_jax": json.dumps(mark)})
    with pytest.raises(ValueError, match=f"00000.jsonl, line 5: {words}"):
        cache.counts()


def test_numbers_that_are_not_finite_are_never_written(cache, whole):
    part, _ = whole.read(0)
    bad = dict(part.arrays(), object_emb=part.object_emb.copy())
    bad["object_emb"][-1, 3] = np.nan
    owner = int(np.searchsorted(part.object_offsets, len(part.object_emb) - 1, "right"))
    key = part.rows[owner - 1]["key"]
    before = cache.path(0).read_bytes()
    with pytest.raises(ValueError, match=f"object_emb of '{key}' is not finite"):
        cache.write(0, Embeddings(part.rows, **bad), part.rows)
    assert cache.path(0).read_bytes() == before
    check_finite(part, "good")


def test_half_precision_that_overflows_is_refused(cache, whole):
    part, _ = whole.read(0)
    cache.manifest["storage"] = "float16"
    big = dict(part.arrays(), image_emb=part.image_emb * 1e6)
    with (
        pytest.warns(RuntimeWarning, match="overflow"),
        pytest.raises(ValueError, match="image_emb of .* is not finite"),
    ):
        cache.write(0, Embeddings(part.rows, **big), part.rows)


def test_where_and_take_keep_each_images_objects(whole):
    part, _ = whole.read(0)
    picked = part.where(lambda row: row["label"] == "fake")
    assert [r["key"] for r in picked.rows] == [
        r["key"] for r in part.rows if r["label"] == "fake"
    ]
    for i, row in enumerate(picked.rows):
        j = next(k for k, r in enumerate(part.rows) if r["key"] == row["key"])
        own = slice(*picked.object_offsets[i : i + 2])
        was = slice(*part.object_offsets[j : j + 2])
        np.testing.assert_array_equal(picked.object_emb[own], part.object_emb[was])
        np.testing.assert_array_equal(picked.image_emb[i], part.image_emb[j])
    assert part.where(lambda row: True) is part
    assert len(part.where(lambda row: False)) == 0
