import os

import pytest
from PIL import Image

from item_jax.datasets import folder


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
        for r in folder.records(root, benchmark="x")
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
    assert "2 images have no label" in folder.index(root).text()
    assert {r.benchmark for r in folder.records(root, benchmark="x")} == {"x"}


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
    (note,) = folder.index(root).notes
    assert note.endswith("1 .txt, 3 hidden, 1 no suffix")


def test_empty_files_and_dangling_links_are_told_by_name(put):
    root = put("real/1.png", "fake/1.png")
    (root / "fake/2.png").write_bytes(b"")
    (root / "fake/3.png").symlink_to("nowhere.png")
    found = folder.index(root)
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
    found = folder.index(root)
    assert [r.key for r in found.records] == ["fake/2.png", "real/1.png"]
    assert found.faults == ["real/loop/: a link back to a folder above it"]


def test_a_name_that_is_no_text_is_left_out_and_told(put):
    root = put("real/1.png")
    try:
        with open(os.fsencode(root) + b"/real/\xff.png", "wb") as f:
            f.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found = folder.index(root)
    assert [r.key for r in found.records] == ["real/1.png"]
    assert "not UTF-8" in found.faults[0] and "udcff" in found.faults[0]


def test_keys_are_composed_unicode(put):
    root = put("real/a\u0308.png")  # as macOS writes it
    assert list(places(root)) == ["real/\u00e4.png"]


def test_no_folder_and_no_image(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        folder.index(tmp_path / "x")
    with pytest.raises(ValueError, match="no image below"):
        folder.index(tmp_path)
