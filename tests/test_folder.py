import os
import shutil

import pytest
from PIL import Image

from item_jax.datasets import folder
from item_jax.datasets.dataset import Dataset
from item_jax.files import write_json, write_json_lines


@pytest.fixture
def put(tmp_path):
    """Writes small pictures: `put("a/b.png", ...)`."""

    def write(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path, "PNG")
        return tmp_path

    return write


def places(root):
    return {
        r.key: (r.split, r.generator, r.label)
        for r in folder.label_folders(root, benchmark="x").records
    }


def test_label_generator_and_split_come_from_the_folders(put):
    root = put(
        *("test/progan/cat/0_real/1.png", "test/progan/cat/1_fake/1.png"),
        *("glide/val/ai/1.png", "glide/val/nature/1.png"),
        *("real/1.png", "fake/1.png", "elsewhere/1.png", "1.png"),
    )
    assert places(root) == {
        "test/progan/cat/0_real/1.png": ("test", "progan", "real"),
        "test/progan/cat/1_fake/1.png": ("test", "progan", "fake"),
        # Not by the alphabet, in which ai comes first.
        "glide/val/ai/1.png": ("val", "glide", "fake"),
        "glide/val/nature/1.png": ("val", "glide", "real"),
        "real/1.png": ("", "", "real"),
        "fake/1.png": ("", "", "fake"),
        "elsewhere/1.png": ("", "elsewhere", None),
        "1.png": ("", "", None),
    }
    assert "2 images without a label" in folder.label_folders(root).text()
    assert {r.benchmark for r in folder.label_folders(root, benchmark="x").records} == {
        "x"
    }


def test_names_with_dots_and_suffixes_in_any_case(put):
    good = [
        *("real/a.b.png", "real/a.JPEG", "real/a.PNG", "real/a.WebP", "real/a.webp"),
        *("real/n02 1:2-3_4.Jpg", "real/a..tif", "real/ä.bmp"),
    ]
    root = put(*good)
    for name in ("notes.txt", "README", ".DS_Store", "._a.png"):
        (root / "real" / name).write_text("no picture")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "a.png").write_text("no picture")
    assert sorted(places(root)) == sorted(good)
    (note,) = folder.label_folders(root).notes
    assert note.endswith("1 .txt, 3 hidden or of the system, 1 no suffix")


def test_empty_files_and_dangling_links_are_told_by_name(put):
    root = put("real/1.png", "fake/1.png")
    (root / "fake/2.png").write_bytes(b"")
    (root / "fake/3.png").symlink_to("nowhere.png")
    found = folder.label_folders(root)
    assert found.faults == [
        "fake/2.png: the file is empty (0 bytes)",
        "fake/3.png: a link to nothing",
    ]
    # They stay in the index, so that they become failure rows and counts add up.
    assert len(found.records) == 4


def test_linked_folders_are_followed_once(put, tmp_path_factory):
    root = put("real/1.png")
    store = tmp_path_factory.mktemp("store")
    Image.new("RGB", (4, 4)).save(store / "2.png")
    (root / "fake").symlink_to(store)
    (root / "real/loop").symlink_to(root)
    found = folder.label_folders(root)
    assert [r.key for r in found.records] == ["fake/2.png", "real/1.png"]
    assert found.faults == ["real/loop/: a link back to a folder above it"]


def test_a_name_that_is_not_text_is_left_out_and_told(put):
    root = put("real/1.png")
    try:
        with open(os.fsencode(root) + b"/real/\xff.png", "wb") as f:
            f.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = folder.label_folders(root)
    assert [r.key for r in found.records] == ["real/1.png"]
    assert "not UTF-8" in found.faults[0] and "udcff" in found.faults[0]


def test_a_loop_of_links_does_not_stop_the_index(put):
    root = put("real/1.png", "fake/1.png")
    (root / "fake/2.png").symlink_to("3.png")
    (root / "fake/3.png").symlink_to("2.png")
    (root / "more").symlink_to("more")
    found = folder.label_folders(root)
    assert found.faults == [
        "fake/2.png: a loop of symbolic links",
        "fake/3.png: a loop of symbolic links",
        "more: a loop of symbolic links",
    ]
    assert len(found.records) == 4  # files by their names: failure rows later


def test_folders_deeper_than_pythons_stack(put):
    root = put("real/1.png")
    here = os.getcwd()
    try:
        os.chdir(root)
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Image.new("RGB", (4, 4)).save("2.png")
    finally:
        os.chdir(here)
    keys = [r.key for r in folder.label_folders(root).records]
    assert keys == ["d/" * 1200 + "2.png", "real/1.png"]
    # pytest's own removal is recursive.
    for depth in range(1200, 0, -100):
        shutil.rmtree(root / ("d/" * (depth - 99)), ignore_errors=True)


def test_two_names_that_are_one_in_composed_unicode(put):
    names = ["real/a\u0308.png", "real/\u00e4.png"]
    root = put(*names)
    if len(os.listdir(root / "real")) < 2:
        pytest.skip("this file system takes them for one")
    (root / names[0]).write_bytes(b"")  # not the one that the key finds
    found = folder.label_folders(root)
    assert [r.key for r in found.records] == [names[1]]
    (fault,) = found.faults
    assert r"real/a\u0308.png" in fault and r"real/\xe4.png" in fault
    assert "only one of them is read" in fault
    assert folder.tree(root).sizes[names[1]] > 0


def test_names_with_escapes_are_shown_and_not_sent(put):
    root = put("re\x1b[31md/fake/1.png", "re\x1b[31md/real/1.png")
    (root / "re\x1b[31md/real/\n2.png").write_bytes(b"")
    text = folder.label_folders(root).text()
    assert "\x1b" not in text and r"re\x1b[31md" in text and r"\n2.png" in text


def test_a_lone_folder_of_reals_serves_the_generators_without(put):
    root = put(
        *("train/real/1.png", "train/sdv14/ai/1.png"),
        *("test/real/1.png", "test/sdv14/ai/1.png", "test/mj/ai/1.png"),
        "test/real/2.png",
    )
    found = folder.label_folders(root)
    assert found.real_sources == {"sdv14": "", "mj": ""}
    assert "fake      sdv14  test, against the 2 shared real images\n" in found.text()
    (root / "test/real").rename(root / "test/laion")
    put("test/laion/real/1.png")
    (root / "test/laion/1.png").unlink()
    # Two folders of reals: nobody can tell which is meant.
    assert folder.label_folders(root).real_sources == {}


def test_a_folder_with_its_sidecars_is_a_data_set(put):
    root = put("images/real/1.png", "images/fake/1.png")
    captions, objects = root / "captions.jsonl", root / "objects.jsonl"
    write_json_lines(
        captions, [{"key": f"{k}/1.png", "caption": k} for k in ("real", "fake")]
    )
    write_json_lines(objects, [{"key": "real/1.png", "objects": []}])
    captioner = {"id": "blip", "perturbation": "none", "fingerprint": None}
    write_json(root / "captions.run.json", {"captioner": {"id": "blip"}})
    data = folder.FolderDataset(root / "images", captions, objects)
    assert isinstance(data, Dataset)
    assert [data.record(i).caption for i in range(len(data))] == ["fake", "real"]
    assert data.read(1) == (root / "images/real/1.png").read_bytes()
    assert data.facts["captioner"] == captioner
    assert data.facts["grounder"]["id"].startswith("unknown")
    assert data.facts["images"] == str((root / "images").resolve())
    assert data.facts["index"] == {"benchmark": "", "faults": [], "notes": []}
    assert data.report.captioned == 2 and data.report.not_grounded == 1
    write_json(
        root / "objects.run.json",
        {"grounder": {}, "settings": {"perturbation": "blur:1"}},
    )
    with pytest.raises(ValueError, match="'none', the objects of .* 'blur:1'"):
        folder.FolderDataset(root / "images", captions, objects)


def test_keys_are_composed_unicode(put):
    root = put("real/a\u0308.png")  # as macOS writes it
    assert list(places(root)) == ["real/\u00e4.png"]


def test_no_folder_and_no_image(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no folder"):
        folder.label_folders(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as refused:
        folder.label_folders("x")
    assert f"no folder 'x' ({tmp_path / 'x'})" in str(refused.value)
    assert "such as real/ and fake/, or train/sdv14/real/" in str(refused.value)
    with pytest.raises(ValueError, match="no image below"):
        folder.label_folders(tmp_path)
