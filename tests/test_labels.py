"""The words for labels and splits, wherever people put them."""

import hashlib
import io
import json
import tarfile

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from item_jax import records
from item_jax.commands import fit
from item_jax.datasets import dataset, folder, labels
from item_jax.datasets.dataset import open_dataset
from item_jax.files import write_json_lines
from item_jax.join import join


@pytest.mark.parametrize(
    "words, label",
    [
        ("real REAL Real 0_real 0_Real real_images Real-Photos reals", "real"),
        ("nature Nature natural authentic original human non-ai not_fake", "real"),
        ("fake FAKE 1_fake 1-Fake fakes fake_images ai AI ai_generated", "fake"),
        ("AI-Generated AIGenerated generated synthetic Synthetic_Images", "fake"),
        ("glide progan stylegan2 sd15 real_vs_fake fake_sdv14 0 1 unreal x", None),
        ("laion imagenet raise dalle3 realistic_vision mj_v5 True False", None),
    ],
)
def test_label_words(words, label):
    assert {word: labels.label_of(word) for word in words.split()} == dict.fromkeys(
        words.split(), label
    )


@pytest.mark.parametrize(
    "words, split",
    [
        ("train Train TRAIN training trn train2017 training_set trainset", "train"),
        ("val valid validation Validation dev VAL val_images", "val"),
        ("test Test testing eval evaluation test_set held-out tests", "test"),
        ("glide trainstation contest sdxl_train test_unseen flux-dev 2017", ""),
    ],
)
def test_split_words(words, split):
    assert {word: labels.split_of(word) for word in words.split()} == dict.fromkeys(
        words.split(), split
    )


# ---------------------------------------------------------------------------- folders

BOTH = ("real", "fake")
FOLDERS = {
    "own": {"real": ("", "", "real"), "fake": ("", "", "fake")},
    "capitals": {
        f"{split}/{label}": (s, "", label.casefold())
        for split, s in (("Train", "train"), ("Test", "test"), ("Valid", "val"))
        for label in ("REAL", "FAKE")
    },
    "split below label": {
        f"{label}/{split}": (s, "", label)
        for split, s in (("training", "train"), ("testing", "test"))
        for label in BOTH
    },
    "numbers and capitals": {
        f"{split}/{folder}": (split, "", label)
        for split in ("train", "test")
        for folder, label in (("0_Real", "real"), ("1_Fake", "fake"))
    },
    "generators above": {
        f"{generator}/{split}/{folder}": (s, generator, label)
        for generator in ("glide", "ADM")
        for split, s in (("train", "train"), ("validation", "val"))
        for folder, label in (("Nature", "real"), ("AI", "fake"))
    },
    "generators below the split": {
        f"test/{generator}/{folder}": ("test", generator, label)
        for generator in ("progan", "deepfake")  # also a word for fakes
        for folder, label in (("0_real", "real"), ("1_fake", "fake"))
    },
    "class called train": {
        "test/progan/train/0_real": ("test", "progan", "real"),
        "train/progan/train/1_fake": ("train", "progan", "fake"),
    },
    "subjects that sound like labels": {
        "fake/nature": ("", "", "fake"),
        "real/nature": ("", "", "real"),
        "fake/human": ("", "", "fake"),
        "real/human": ("", "", "real"),
    },
    "a top that is no generator": {
        "data/train/real_images": ("train", "", "real"),
        "data/train/ai_generated_images": ("train", "", "fake"),
    },
    "kaggle": {
        f"real_vs_fake/{split}/{label}": (s, "real_vs_fake", label)
        for split, s in (("train", "train"), ("valid", "val"), ("test", "test"))
        for label in BOTH
    },
    "other words": {
        "eval/authentic": ("test", "", "real"),
        "eval/generated": ("test", "", "fake"),
        "dev/Original": ("val", "", "real"),
        "dev/Synthetic": ("val", "", "fake"),
    },
    "one generator without reals": {
        "real": ("", "", "real"),
        "sdv14/ai": ("", "sdv14", "fake"),
    },
}


def save(root, *folders, name="1.png"):
    """Saves a picture in each folder, no two of which are equal."""
    for own in folders:
        (root / own).mkdir(parents=True, exist_ok=True)
        color = hashlib.sha256(f"{own} {name}".encode()).digest()[:3]
        Image.new("RGB", (4, 4), tuple(color)).save(root / own / name, "PNG")


def places(data):
    return {
        record.key.rpartition("/")[0]: (record.split, record.generator, record.label)
        for record in data
    }


@pytest.mark.parametrize("expected", FOLDERS.values(), ids=list(FOLDERS))
def test_layouts_of_folders(tmp_path, expected):
    save(tmp_path, *expected)
    found = folder.label_folders(tmp_path)
    assert places(found.records) == expected
    assert found.faults == [] and found.held_out_doubts == []


@pytest.mark.parametrize("expected", FOLDERS.values(), ids=list(FOLDERS))
def test_layouts_inside_a_tar(tmp_path, expected):
    """The same words in the names of `tar -cf x.tar .`, and from other roots."""
    for number, before in enumerate(("", "./", "/", "C:\\", ".\\")):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as tar:
            add(tar, ".", None)
            for own in expected:
                name = f"{before}{own}/1.png"
                add(tar, name.replace("/", "\\") if "\\" in before else name, b"x")
        data = open_dataset(path)
        assert places(dataset.records(data)) == expected
        assert data.read(0) == b"x"


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    if content is None:
        member.type = tarfile.DIRTYPE
    member.size = len(content or b"")
    tar.addfile(member, io.BytesIO(content or b""))


@pytest.mark.parametrize(
    "folders, words",
    [
        (
            ("real", "fake_sdv14"),
            "'fake_sdv14' (1 image) looks like the label 'fake' an",
        ),
        (("rael", "fake"), "'rael' (1 image) looks like the label 'real' and is taken"),
        (
            ("True", "False"),
            "'True' (1 image) looks like a label and is taken for a gen",
        ),
        (("sdxl_test/real",), "'sdxl_test' (1 image) looks like the split 'test'"),
        (
            ("tset/real",),
            "allowed: train, val, test and their synonyms. Did you mean 't",
        ),
        (("1", "x"), "'1' (1 image) looks like a label"),
        (("nature", "city"), "'nature' (1 image) looks like the label 'real' and is"),
        (("fake/real", "real/fake"), "fake/real: fake and real contradict each other"),
        (
            ("train/sd_test/ai",),
            "'sd_test' (1 image) looks like the split 'test' and is",
        ),
        (("train/a/test/real",), "is below train and test, and taken for test"),
    ],
)
def test_what_looks_like_a_word_and_is_not_read_is_a_fault(tmp_path, folders, words):
    save(tmp_path, *folders)
    assert any(words in fault for fault in folder.label_folders(tmp_path).faults)


def test_what_is_read_by_convention_or_left_out_is_said(tmp_path):
    save(tmp_path / "numbers", "0", "1")
    found = folder.label_folders(tmp_path / "numbers")
    assert places(found.records) == {"0": ("", "", "real"), "1": ("", "", "fake")}
    assert any("0 is read as real and 1 as fake: a conv" in n for n in found.notes)
    # Parts of a large set, not labels.
    save(tmp_path / "parts", "0", "1", "2")
    assert {r.label for r in folder.label_folders(tmp_path / "parts").records} == {None}
    save(tmp_path / "inner", "real/0", "real/1", "fake/mj", "fake/sd")
    notes = folder.label_folders(tmp_path / "inner").notes
    assert any("not read as generators: fake/mj, fake/sd" in note for note in notes)
    save(tmp_path / "mixed", "train/real", "train/fake", "fake")
    notes = folder.label_folders(tmp_path / "mixed").notes
    assert "1 image without a split beside 2 of train" in notes


# -------------------------------------------------------------------------------- fit


@pytest.mark.parametrize("name", ["own"] + [n for n in FOLDERS if "split" in n])
def test_fit_never_trains_on_what_is_called_test(tmp_path, name):
    for i in range(12):
        save(tmp_path, *FOLDERS[name], name=f"{i}.png")
    found = folder.label_folders(tmp_path)
    if {r.split for r in found.records} == {"test"}:
        with pytest.raises(ValueError, match="images of test only: give it both train"):
            fit.split_images(found, tmp_path)
        return
    split, how = fit.split_images(found, tmp_path)
    for one, before in zip(split, found.records):
        assert one.key == before.key
        assert one.split == before.split or before.split == ""
    assert "real, " in how and "trained on" in how
    trained = {one.key for one in split if one.split == "train"}
    called = {r.key for r in found.records if r.split in ("test", "val")}
    assert trained and not trained & called


def test_fit_and_validation_images(tmp_path):
    folders = [f"{s}/{x}" for s in ("training", "valid", "testing") for x in BOTH]
    save(tmp_path, *folders)
    split, how = fit.split_images(folder.label_folders(tmp_path), tmp_path)
    assert {r.key.split("/")[0]: r.split for r in split} == {
        **{"training": "train", "valid": "val", "testing": "test"}
    }
    assert "  train  1 real, 1 fake: trained on\n" in how
    assert "  val    1 real, 1 fake: neither trained nor tested on" in how
    for label in BOTH:
        (tmp_path / "testing" / label / "1.png").unlink()
    split, how = fit.split_images(folder.label_folders(tmp_path), tmp_path)
    assert "the images of val/ are the test images" in how
    save(tmp_path, "sdxl_test/real")  # said, and not trained on
    more, how = fit.split_images(folder.label_folders(tmp_path), tmp_path)
    assert "  (none) 1 real, 0 fake: in no split, so neither trained nor tested" in how
    assert [r for r in more if "sdxl" not in r.key] == split
    assert {r.key.split("/")[0]: r.split for r in split} == {
        **{"training": "train", "valid": "test"}
    }


@pytest.mark.parametrize(
    "folders, words",
    [
        (
            ("real", "fake", "test_unseen/real"),
            "'test_unseen' looks like test or valid",
        ),
        (("train/real", "train/fake", "real", "fake"), "images of train only: give it"),
        (
            ("train/a/real", "train/sd_test/fake", "test/real", "test/fake"),
            "'sd_test' looks like test or validation images",
        ),
        (
            ("train/real", "train/fake", "test/fake", "val/real"),
            "test images are 0 real",
        ),
        (("val/real", "val/fake"), "images of val only"),
    ],
)
def test_fit_refuses_splits_that_it_cannot_keep(tmp_path, folders, words):
    for i in range(2):
        save(tmp_path, *folders, name=f"{i}.png")
    with pytest.raises(ValueError, match=words):
        fit.split_images(folder.label_folders(tmp_path), tmp_path)


# ----------------------------------------------------------------------------- tables


def table(path, names=None, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = pyarrow.table(
        {"image": [b"x"] * len(next(iter(columns.values())))} | columns
    )
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        stored = json.dumps({"info": {"features": features}})
        made = made.replace_schema_metadata({"huggingface": stored})
    parquet.write_table(made, path)
    return path


def labels_of(data):
    return [record.label for record in dataset.records(data)]


@pytest.mark.parametrize(
    "names",
    [["FAKE", "REAL"], ["1_fake", "0_real"], ["ai", "nature"], ["Fake", "Human"]],
)
def test_names_of_classes(tmp_path, names):
    data = open_dataset(table(tmp_path / "x.parquet", names, label=[0, 1, -1]))
    assert labels_of(data) == ["fake", "real", None]


@pytest.mark.parametrize(
    "column, values, said",
    [
        ("label", [0, 1, None], True),
        ("label", [0.0, 1.0, None], True),
        ("label", [False, True, None], True),
        ("label", ["0.0", "1", ""], True),
        ("label", ["False", "True", None], True),
        ("label", ["Nature", "AI-generated", None], False),
        ("labels", [0, 1, None], True),
        ("Label", ["real", "fake", None], False),
        ("class", ["0_real", "1_fake", None], False),
        ("is_fake", [0, 1, None], False),
        ("isFake", [False, True, None], False),
        ("is_real", [True, False, None], False),
        ("real", ["1", "0", None], False),
        ("target", [0, 1, None], True),
    ],
)
def test_columns_of_labels(tmp_path, column, values, said):
    data = open_dataset(table(tmp_path / "x.parquet", **{column: values}))
    assert labels_of(data) == ["real", "fake", None]
    notes = "\n".join(dataset.said(dataset.facts(data)))
    assert ("a convention" in notes) == said


def test_columns_that_are_not_read_are_named(tmp_path):
    path = tmp_path / "x.parquet"
    table(path, label=["real"], **{"class": ["cat"], "width": [3], "set": ["a"]})
    data = open_dataset(path)
    assert labels_of(data) == ["real"]
    assert "note: columns that are not read: class, set, width" in dataset.said(
        dataset.facts(data)
    )
    with pytest.raises(ValueError, match="x.0: label 'fakee'; .*Did you mean 'fake'"):
        open_dataset(table(path, label=["fakee"]))
    # Another column says it: a class of things is none of images.
    data = open_dataset(table(path, label=["cat", "dog"], is_fake=[1, 0]))
    assert labels_of(data) == ["fake", "real"]
    data = open_dataset(table(path, split=["Validation", "fold_1"], label=[0, 1]))
    assert [r.split for r in dataset.records(data)] == ["val", "fold_1"]
    assert any(
        "fault: the split 'fold_1' is kept as it is; allowed: train, val" in line
        for line in dataset.said(dataset.facts(data))
    )
    data = open_dataset(table(path, subset=["TEST", "training"], label=[0, 1]))
    assert [r.split for r in dataset.records(data)] == ["test", "train"]


@pytest.mark.parametrize(
    "files, expected",
    [
        (
            ["default/train/0000.parquet", "default/validation/0000.parquet"],
            [("train", ""), ("val", "")],
        ),
        (
            ["default/test/0000.parquet", "default/test/0001.parquet"],
            [("test", "")] * 2,
        ),
        (
            [
                "glide/test-00000-of-00001.parquet",
                "midjourney/train-00000-of-00001.parquet",
            ],
            [("test", "glide"), ("train", "midjourney")],
        ),
        (["data/train-00000-of-00001.parquet"], [("train", "")]),
        (["a/default/partial-train/0000.parquet"], [("train", "a")]),
        (
            ["photos_TEST.parquet", "photos_train.parquet"],
            [("test", ""), ("train", "")],
        ),
    ],
)
def test_layouts_of_the_hub(tmp_path, files, expected):
    for name in files:
        table(tmp_path / name, label=[0])
    (tmp_path / "README.md").write_text("a data set")
    (tmp_path / "._x.parquet").write_text("of macOS")
    data = open_dataset(tmp_path)
    found = [(r.split, r.generator) for r in dataset.records(data)]
    assert found == expected
    assert len({r.key for r in dataset.records(data)}) == len(files)


def test_files_called_real_and_fake(tmp_path):
    for name in ("real-00000-of-00001", "fake-00000-of-00001"):
        table(tmp_path / f"{name}.parquet", caption=["a"])
    found = [(r.label, r.split) for r in dataset.records(open_dataset(tmp_path))]
    assert found == [("fake", ""), ("real", "")]
    for name in ("real", "fake-000001"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            add(tar, f"{name[:3]}.jpg", b"x")
    found = {labels_of(open_dataset(tmp_path / f"{n}.tar"))[0] for n in ("real",)}
    assert found == {"real"}
    assert labels_of(open_dataset(tmp_path / "fake-000001.tar")) == ["fake"]


# ------------------------------------------------------------------------------- tars


def test_folders_of_tar_shards(tmp_path):
    """As img2dataset writes them: equal names in each, a table and counts beside."""
    for split in ("train", "validation"):
        for number in range(2):
            (tmp_path / split).mkdir(exist_ok=True)
            stem = f"{number:05d}"
            with tarfile.open(tmp_path / split / f"{stem}.tar", "w") as tar:
                add(tar, f"{stem}0000.jpg", b"x")
                add(tar, f"{stem}0000.json", b'{"is_fake": 1, "url": "u", "key": "1"}')
            beside = pyarrow.table({"url": ["u"], "status": ["success"]})
            parquet.write_table(beside, tmp_path / split / f"{stem}.parquet")
            (tmp_path / split / f"{stem}_stats.json").write_text("{}")
    data = open_dataset(tmp_path)
    assert {(r.split, r.label, r.generator) for r in dataset.records(data)} == {
        *(("train", "fake", ""), ("val", "fake", ""))
    }
    assert [r.key for r in dataset.records(data)][:2] == [
        *("train/000000000.jpg", "train/000010000.jpg")
    ]
    said = "\n".join(dataset.said(dataset.facts(data)))
    assert "read as tar shards" in said and "4 .parquet files" in said
    assert "columns that are not read: url" in said


def test_members_need_not_follow_each_other(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("./real/2.txt", "./real/1.jpg", "./real/2.jpg", "./real/1.txt"):
            add(tar, name, name.encode())
    found = {r.key: r.caption for r in dataset.records(open_dataset(tmp_path))}
    assert found == {"real/1.jpg": "./real/1.txt", "real/2.jpg": "./real/2.txt"}
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "a.jpg", b"x")
        add(tar, "a.jpg", b"y")
    with pytest.raises(ValueError, match="a.jpg is there twice"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    "content, caption",
    [
        (b"\xef\xbb\xbfa dog\r\n", "a dog"),
        ("a dog".encode("utf-16"), "a dog"),
        ("ein Hündchen".encode("utf-16-be"), None),
        ("\ufeffein Hündchen".encode("utf-16-be"), "ein Hündchen"),
        ("\ufeffa dog".encode("utf-32-le"), "a dog"),
        ("ein Hündchen".encode("latin-1"), None),
        ("“a dog”".encode("cp1252"), None),
        ("犬".encode("shift-jis"), None),
        ("a dog".encode("utf-16-le"), None),
        ("犬 👩‍👩‍👧".encode(), "犬 👩‍👩‍👧"),
    ],
)
def test_encodings_of_captions(tmp_path, content, caption):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "real/1.jpg", b"x")
        add(tar, "real/1.txt", content)
        add(tar, "real/2.jpg", b"x")
        add(tar, "real/2.txt", b"a cat")
    one, other = dataset.records(open_dataset(tmp_path))
    assert one.caption == caption and other.caption == "a cat"
    if caption is None:  # that image fails, by name, and no other one
        assert one.error.startswith(f"{tmp_path / 'x.tar'}: real/1.txt ")
        assert "save it as UTF-8" in one.error
    assert other.error is None


@pytest.mark.parametrize(
    "blank", ["", " \n", "\u200b", "\ufeff", "\u2060 \u200d", "\xad"]
)
def test_a_caption_that_shows_nothing_is_none(tmp_path, blank):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "1.jpg", b"x")
        add(tar, "1.txt", blank.encode())
        add(tar, "2.jpg", b"x")
        add(tar, "2.json", json.dumps({"caption": blank}).encode())
    data = open_dataset(tmp_path)
    assert [(r.caption, r.error) for r in dataset.records(data)] == [(None, None)] * 2
    data = open_dataset(table(tmp_path / "x.parquet", caption=[blank]))
    assert data.record(0).caption is None
    # Nor does one of a sidecar program.
    write_json_lines(tmp_path / "c.jsonl", [{"key": "1.jpg", "caption": blank}])
    joined, report = join([records.Record("1.jpg")], captions=tmp_path / "c.jsonl")
    assert joined[0].caption is None and report.without_caption == 1


# ------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "path, key",
    [
        ("./a/b.png", "a/b.png"),
        ("/a/b.png", "a/b.png"),
        ("a//b.png", "a/b.png"),
        ("a/./b.png", "a/b.png"),
        ("x/../a/b.png", "a/b.png"),
        ("C:\\a\\b.png", "a/b.png"),
        ("c:/a/b.png", "a/b.png"),
        ("\\\\a\\b.png", "a/b.png"),
        (".\\a\\b.png", "a/b.png"),
        ("a/u\u0308.png", "a/\u00fc.png"),
        ("a/12:30.png", "a/12:30.png"),
        ("../b.png", "../b.png"),  # not another file: it is refused when read
        ("a/../../b.png", "../b.png"),
    ],
)
def test_keys(path, key):
    assert records.normalise_key(path) == key
    assert records.record_from_json({"key": path}).key == key


def test_keys_that_lead_out_tell_no_generator(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "../../real/1.jpg", b"x")
    record = open_dataset(tmp_path).record(0)
    assert (record.label, record.generator) == ("real", "")


# ------------------------------------------------------------------ what a folder is


def stray_tar(root):
    with tarfile.open(root / "backup.tar", "w") as tar:
        add(tar, "real/1.jpg", b"x")
        add(tar, "real/2.jpg", b"x")


STRAYS = {
    "tar": stray_tar,
    "broken tar": lambda root: (root / "x.tar").write_bytes(b"no tar"),
    "parquet": lambda root: table(root / "x.parquet", label=[0, 1]),
    "broken parquet": lambda root: (root / "x.parquet").write_bytes(b"x"),
    "metadata": lambda root: (root / "metadata.json").write_text("{}"),
    "array record": lambda root: (root / "x.array_record").write_bytes(b""),
    "zip": lambda root: (root / "all.zip").write_bytes(b"PK"),
    "state": lambda root: [
        (root / name).write_text("{}") for name in ("state.json", "dataset_info.json")
    ],
}


@pytest.mark.parametrize("stray", STRAYS.values(), ids=list(STRAYS))
def test_a_folder_is_what_most_of_it_is(tmp_path, stray):
    for i in range(6):
        save(tmp_path, "real", "fake", name=f"{i}.png")
    stray(tmp_path)
    data = open_dataset(tmp_path)
    assert isinstance(data, folder.FolderDataset) and len(data) == 12
    said = "\n".join(dataset.said(dataset.facts(data)))
    suffix = next(p.suffix for p in tmp_path.iterdir() if p.is_file())
    assert suffix.partition("-")[0] in said


def test_a_few_pictures_among_tables_or_tars_do_not_make_a_folder(tmp_path):
    save(tmp_path / "tables", "assets")
    table(tmp_path / "tables/data/train-00000-of-00001.parquet", label=[0, 1])
    data = open_dataset(tmp_path / "tables")
    assert len(data) == 2
    assert "note: read as tables, as most images are; not read: 1 image files" in (
        dataset.said(dataset.facts(data))
    )
    save(tmp_path / "tars", "assets")
    stray_tar(tmp_path / "tars")
    assert len(open_dataset(tmp_path / "tars")) == 2


def test_labels_in_a_table_beside_the_images_are_said_not_to_be_read(tmp_path):
    save(tmp_path, "train")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/1.png,fake\n")
    found = folder.label_folders(tmp_path)
    assert any("labels in metadata.csv are not read" in note for note in found.notes)
    save(tmp_path / "sorted", "real")
    (tmp_path / "sorted/captions.jsonl").write_text("")
    assert "not read" not in folder.label_folders(tmp_path / "sorted").text()


def test_archives_are_refused_by_name(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="no image below .* are 1 .zip: unpack them"):
        open_dataset(tmp_path)
    with pytest.raises(
        ValueError, match="a.zip is an archive that is not read: unpack"
    ):
        open_dataset(tmp_path / "a.zip")


COMPANIONS = (
    *("._1.png", ".DS_Store", "__MACOSX/1.png", "Thumbs.db", "desktop.ini"),
    *("@eaDir/1.png/SYNOFILE_THUMB_M.jpg", "$RECYCLE.BIN/1.png", "#recycle/1.png"),
    *(".Trashes/1.png", "lost+found/1.png", ".ipynb_checkpoints/1.png"),
    *("System Volume Information/1.png", "Icon\r"),
)


def test_companions_are_skipped_and_counted(tmp_path):
    save(tmp_path / "f", "fake", "real")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "./fake/1.png", b"x")
        for name in COMPANIONS:
            path = tmp_path / "f/fake" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
            add(tar, f"./fake/{name}", b"x")
    found = folder.label_folders(tmp_path / "f")
    assert [r.key for r in found.records] == ["fake/1.png", "real/1.png"]
    n = len(COMPANIONS)
    assert f"{n} hidden or of the system" in found.notes[0]
    data = open_dataset(tmp_path / "x.tar")
    assert [r.key for r in dataset.records(data)] == ["fake/1.png"]
    said = dataset.said(dataset.facts(data))
    assert f"note: members of tar files, not read: {n} hidden or of the system" in said


def test_a_root_one_level_too_high_is_a_fault(tmp_path):
    save(
        tmp_path,
        *(f"ForenSynths/test/{g}/{x}" for g in ("progan", "biggan") for x in BOTH),
        *(f"mine/{x}" for x in BOTH),
    )
    (fault,) = folder.label_folders(tmp_path).faults
    assert fault.startswith("folder 'ForenSynths' is taken for one generator and looks")
    assert "--benchmark forensynths=ForenSynths,mine=mine" in fault
    # A download whose own name says nothing.
    (tmp_path / "ForenSynths").rename(tmp_path / "cnn")
    (fault,) = folder.label_folders(tmp_path).faults
    assert fault.startswith("folder 'cnn' is taken") and "biggan, progan" in fault
    # A set of one's own, whose names nobody can know: a note.
    save(tmp_path, *(f"new/train/{g}/{x}" for g in ("a", "b") for x in BOTH))
    notes = folder.label_folders(tmp_path).notes
    assert any("'new' is taken for one generator; a, b below" in note for note in notes)
    assert not any("'mine' is" in note for note in notes)
    # One level lower all is well.
    assert folder.label_folders(tmp_path / "cnn").faults == []
    assert folder.label_folders(tmp_path / "mine").faults == []


def test_a_name_that_no_key_finds_is_a_fault(tmp_path):
    save(tmp_path, "real", name="1.png")
    save(tmp_path, "real", name="a\\b.png")
    found = folder.label_folders(tmp_path)
    assert [r.key for r in found.records] == ["real/1.png"]
    assert "backslash" in found.faults[0]
