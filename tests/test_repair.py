"""`embed` on shards that are damaged, or that were made with other settings."""

import copy
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from item_jax import config as config_lib
from item_jax import shards
from item_jax.__main__ import main
from item_jax.cache import EmbeddingCache
from item_jax.embed import embed_records
from item_jax.records import write_records


def settings(**changes):
    c = config_lib.default()
    c.embed.shard_size, c.embed.threads, c.embed.batch_size = 10, 2, 16
    c.embed.outputs = ("pooled",)
    for name, value in changes.items():
        section, _, leaf = name.partition("__")
        c[section][leaf] = value
    return c


@pytest.fixture(scope="module")
def whole(photos, towers, tmp_path_factory):
    root, records = photos
    folder = tmp_path_factory.mktemp("repair") / "e"
    return embed_records(records, towers, settings(), images=root, folder=folder)


@pytest.fixture(scope="module")
def squashed(photos, towers, tmp_path_factory):
    """The same images with other settings."""
    root, records = photos
    c = settings(views__geometry="squash", perturb__name="blur", perturb__severity=1)
    folder = tmp_path_factory.mktemp("squashed") / "e"
    return embed_records(records, towers, c, images=root, folder=folder)


@pytest.fixture
def cache(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "e")
    return EmbeddingCache(tmp_path / "e")


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def rewrite(cache, change):
    """Changes arrays and gives the shard the checksum of what they are now."""
    path = cache.path(1)
    with safe_open(path, framework="np") as f:
        arrays, mark = {n: f.get_tensor(n) for n in f.keys()}, f.metadata()["item_jax"]
    change(arrays)
    mark = json.loads(mark) | {"arrays_sha256": shards._sum(arrays)}
    save_file(arrays, path, {"item_jax": json.dumps(mark)})


def unmarked(cache):
    with safe_open(cache.path(1), framework="np") as f:
        save_file({n: f.get_tensor(n) for n in f.keys()}, cache.path(1))


def swapped(cache):
    for suffix in (".safetensors", ".jsonl"):
        shutil.copy(cache.path(0, suffix), cache.path(1, suffix))


def dangling(cache):
    cache.path(1).unlink()
    cache.path(1).symlink_to("nowhere")


def pipe(cache):
    cache.path(1).unlink()
    os.mkfifo(cache.path(1))


def pipe_of_rows(cache):
    cache.path(1, ".jsonl").unlink()
    os.mkfifo(cache.path(1, ".jsonl"))


def same_size(cache):
    path = cache.path(1, ".jsonl")
    path.write_bytes(path.read_bytes().replace(b'"real"', b'"fake"'))


def flip_settings(cache):
    flip(cache.path(1), cache.path(1).read_bytes().index(b"geometry") + 14)


DAMAGE = {
    "cut": lambda c: os.truncate(c.path(1), c.path(1).stat().st_size - 1),
    "half": lambda c: os.truncate(c.path(1), 500),
    "longer": lambda c: c.path(1).write_bytes(c.path(1).read_bytes() + b"x"),
    "empty": lambda c: os.truncate(c.path(1), 0),
    "a changed byte in the arrays": lambda c: flip(c.path(1), -100),
    "a changed byte in the header": lambda c: flip(c.path(1), 20),
    "a changed byte in its settings": flip_settings,
    "not a shard": lambda c: c.path(1).write_text("hello, world"),
    "unmarked": unmarked,
    "another shard": swapped,
    "a dangling link": dangling,
    "a pipe": pipe,
    "dtype": lambda c: rewrite(
        c, lambda a: a.update(image_emb=a["image_emb"].astype(np.float64))
    ),
    "shape": lambda c: rewrite(
        c, lambda a: a.update(text_emb=a["text_emb"][:, :5].copy())
    ),
    "an output of another shape": lambda c: rewrite(
        c, lambda a: a.update(pooled=a["pooled"][:, :5].copy())
    ),
    "an array too few": lambda c: rewrite(c, lambda a: a.pop("pooled")),
    "an array too many": lambda c: rewrite(c, lambda a: a.update(x=np.zeros(2))),
    "not finite": lambda c: rewrite(
        c, lambda a: a["pooled"].__setitem__((0, 0), np.inf)
    ),
    "no rows": lambda c: c.path(1, ".jsonl").unlink(),
    "rows cut": lambda c: os.truncate(c.path(1, ".jsonl"), 100),
    "rows changed, of the same size": same_size,
    "rows of another shard": lambda c: shutil.copy(
        c.path(2, ".jsonl"), c.path(1, ".jsonl")
    ),
    "rows that are a pipe": pipe_of_rows,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named_and_repaired(cache, photos, towers, damage):
    root, records = photos
    before = contents(cache.folder)
    times = {i: cache.path(i).stat().st_mtime_ns for i in (0, 2)}
    DAMAGE[damage](cache)
    with pytest.raises(ValueError, match="shard-00001.*`item-jax embed`.*makes it"):
        list(cache)
    again = embed_records(records, towers, settings(), images=root, folder=cache.folder)
    assert list(again.made) == [1] and again.made[1]
    assert again.counts() == {"in": 24, "done": 24, "failed": 0}
    assert contents(cache.folder) == before
    assert times == {i: cache.path(i).stat().st_mtime_ns for i in (0, 2)}


@pytest.mark.parametrize("damage", ["cut", "empty", "unmarked", "no rows", "rows cut"])
def test_a_header_shows_it_without_reading_the_arrays(cache, damage):
    DAMAGE[damage](cache)
    assert cache.present == {0, 2} and not cache.finished
    with pytest.raises(ValueError, match="shard-00001.safetensors is damaged"):
        cache.counts()


def test_what_is_missing_is_made_and_what_is_extra_is_never_counted(
    cache, photos, towers
):
    root, records = photos
    for suffix in (".safetensors", ".jsonl"):
        shutil.move(cache.path(1, suffix), cache.path(7, suffix))
    assert cache.present == {0, 2} and not cache.finished
    assert [path.name for path in cache.extra] == ["shard-00007.safetensors"]
    again = embed_records(records, towers, settings(), images=root, folder=cache.folder)
    assert again.made == {1: None} and again.finished and again.counts()["in"] == 24


def test_a_folder_in_the_place_of_a_shard_is_an_error(cache, photos, towers):
    root, records = photos
    cache.path(1).unlink()
    cache.path(1).mkdir()
    with pytest.raises(OSError, match="shard-00001.safetensors"):
        embed_records(records, towers, settings(), images=root, folder=cache.folder)


def test_the_command_repairs_and_the_counts_add_up(photos, tiny_clip, tmp_path, capsys):
    root, records = photos
    write_records(tmp_path / "records.jsonl", records)
    words = ["embed", "--workdir", str(tmp_path), f"--config.tower={tiny_clip[0]}"]
    words += [f"--config.data.images={root}", "--config.embed.shard_size=10"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "24 images = 24 embedded + 0 failed" in said and "repaired" not in said
    assert main(words) == 0
    assert "24 embedded + 0 failed, all shards were there" in capsys.readouterr().out
    cache = EmbeddingCache(tmp_path / "embeddings")
    before = contents(cache.folder)
    os.truncate(cache.path(0), 100)
    flip(cache.path(2), -1)
    assert main(["train", "--workdir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "shard-00000.safetensors is damaged" in error and "item-jax embed" in error
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "2 shards repaired:\n  shard-00000.safetensors: " in said
    assert "\n  shard-00002.safetensors: its arrays_sha256 is " in said
    assert "24 images = 24 embedded + 0 failed" in said and "2 of 3 shards" in said
    assert contents(cache.folder) == before


# ---- Shards of other settings, or of other records ----------------------------------


def refused(cache, photos, towers, config, words, **options):
    before = contents(cache.folder)
    root, records = photos
    with pytest.raises(ValueError, match=words):
        embed_records(
            options.get("records", records),
            towers,
            config,
            images=root,
            folder=cache.folder,
        )
    assert contents(cache.folder) == before


FIELDS = {
    "views__geometry": ("squash", "views.geometry was 'item' and is 'squash'"),
    "data__score_threshold": (0.9, "data.score_threshold was 0.3 and is 0.9"),
    "neutralise__quality": (90, "neutralise.quality was 0 and is 90"),
    "embed__storage": ("float16", "storage was 'float32' and is 'float16'"),
    "embed__shard_size": (12, "shard_size was 10 and is 12"),
    "embed__outputs": ((), r"outputs.pooled was \[64\] and is None"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_shards_of_other_settings_are_refused_without_a_manifest(
    cache, photos, towers, field
):
    value, words = FIELDS[field]
    (cache.folder / "manifest.json").unlink()
    config = settings(**{field: value})
    words = f"3 of 3 shards in .* made with other settings, shard-00000.*{words}"
    refused(cache, photos, towers, config, words)


def test_several_fields_are_named_at_once(cache, photos, towers):
    (cache.folder / "manifest.json").unlink()
    config = settings(
        views__geometry="squash", perturb__name="blur", perturb__severity=2
    )
    words = "views.geometry was .*; perturb.name was 'none' and is 'blur'; perturb.sev"
    refused(cache, photos, towers, config, words)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: dataclasses.replace(r, caption="other words"),
        lambda r: dataclasses.replace(r, objects=()),
        lambda r: dataclasses.replace(r, key=r.key[1:]),
        lambda r: dataclasses.replace(r, split="val"),
    ],
    ids=["caption", "objects", "key", "split"],
)
def test_shards_of_other_records_are_refused(cache, photos, towers, change):
    records = [*photos[1][:3], change(photos[1][3]), *photos[1][4:]]
    for _ in range(2):  # with its manifest, and without it
        refused(
            cache, photos, towers, settings(), "records_sha256 was", records=records
        )
        (cache.folder / "manifest.json").unlink(missing_ok=True)


def test_the_same_settings_adopt_shards_without_a_manifest(cache, photos, towers):
    root, records = photos
    before = contents(cache.folder)
    (cache.folder / "manifest.json").unlink()
    again = embed_records(records, towers, settings(), images=root, folder=cache.folder)
    assert again.made == {} and contents(cache.folder) == before


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "item-embeddings/3"}'])
def test_the_remedy_for_a_damaged_manifest_works(cache, photos, towers, text):
    root, records = photos
    path = cache.folder / "manifest.json"
    whole = path.read_bytes()
    path.write_text(text)
    words = "manifest.json.*. Delete .*manifest.json and run `item-jax embed` again"
    refused(cache, photos, towers, settings(), words)
    path.unlink()
    again = embed_records(records, towers, settings(), images=root, folder=cache.folder)
    assert again.made == {} and path.read_bytes() == whole


def test_the_manifest_of_another_cache_is_found_out(cache, squashed, photos, towers):
    shutil.copy(squashed.folder / "manifest.json", cache.folder)
    mixed = EmbeddingCache(cache.folder)
    words = "shard-00000.* made with other settings: views.geometry was 'item'"
    with pytest.raises(ValueError, match=words):
        list(mixed)
    with pytest.raises(ValueError, match=words):
        mixed.counts()
    asked = settings(
        views__geometry="squash", perturb__name="blur", perturb__severity=1
    )
    refused(cache, photos, towers, asked, "3 of 3 shards .*views.geometry was 'item'")


def test_a_shard_of_another_cache_is_found_out(cache, squashed, photos, towers):
    for suffix in (".safetensors", ".jsonl"):
        shutil.copy(squashed.path(1, suffix), cache.path(1, suffix))
    words = "shard-00001.* made with other settings: views.geometry was 'squash'"
    for use in (list, EmbeddingCache.counts):
        with pytest.raises(ValueError, match=words):
            use(cache)
    words = "1 of 3 shards .*shard-00001.* perturb.name was 'blur' and is 'none'"
    refused(cache, photos, towers, settings(), words)


def test_a_folder_that_moved_is_the_same_cache(cache, photos, towers, tiny_clip):
    """The checksum of the towers counts, not where they lie."""
    root, records = photos
    moved = copy.copy(towers)
    moved.name = "/elsewhere"
    (cache.folder / "manifest.json").unlink()
    again = embed_records(records, moved, settings(), images=root, folder=cache.folder)
    assert again.made == {}


# ---- Images that changed ------------------------------------------------------------


@pytest.fixture
def own(photos, towers, tmp_path):
    """A cache of images that may be changed: its folder and theirs."""
    root, records = photos
    shutil.copytree(root, tmp_path / "images")
    cache = embed_records(
        records, towers, settings(), images=tmp_path / "images", folder=tmp_path / "e"
    )
    return cache, tmp_path / "images"


def retimed(path, seconds):
    time = path.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(time, time))


def test_changed_images_are_embedded_again(own, photos, towers):
    cache, root = own
    records = photos[1]
    other = (root / records[3].key).read_bytes()
    (root / records[11].key).write_bytes(other)
    flip(root / records[14].key, -1)  # of the same size,
    retimed(root / records[14].key, -99)  # and older, as `cp -p` leaves it
    before = cache.path(0).stat().st_mtime_ns
    again = embed_records(records, towers, settings(), images=root, folder=cache.folder)
    key = records[11].key
    assert again.made == {1: f"2 of 10 image files changed, such as {key!r}"}
    (part, _), (fresh, _) = again.read(0), again.read(1)
    np.testing.assert_allclose(fresh.image_emb[1], part.image_emb[3], atol=1e-5)
    assert cache.path(0).stat().st_mtime_ns == before


def test_touched_moved_and_deleted_images_are_the_same(own, photos, towers):
    cache, root = own
    records = photos[1]
    retimed(root / records[2].key, 99)
    retimed(root / records[3].key, -99)
    (root / records[12].key).unlink()
    moved = root.rename(root.with_name("elsewhere"))
    options = {"images": moved, "folder": cache.folder}
    assert embed_records(records, towers, settings(), **options).made == {}


def test_a_mended_image_is_tried_again_by_itself(own, photos, towers, tmp_path):
    cache, root = own
    records = photos[1]
    path = root / records[5].key
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    options = {"images": root, "folder": cache.folder}
    again = embed_records(records, towers, settings(), **options)
    assert again.counts()["failed"] == 1 and list(again.made) == [0]
    path.write_bytes(whole)
    again = embed_records(records, towers, settings(), **options)
    assert again.counts()["failed"] == 0 and list(again.made) == [0]


@pytest.mark.parametrize(
    "file",
    [
        3,
        {},
        {"bytes": 3},
        {"bytes": "3", "sha256": ""},
        {"bytes": 3, "sha256": "", "mtime_ns": 1.5},
    ],
)
def test_a_file_that_a_row_cannot_have_is_refused(cache, file):
    path = cache.path(1, ".jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    with pytest.raises(ValueError, match="here: 'file"):
        shards._check_row(rows[0] | {"file": file}, "here")
