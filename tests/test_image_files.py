"""Reading image files: odd names, links, devices, files that change meanwhile."""

from __future__ import annotations

import os
import threading
import unicodedata

import numpy as np
import pytest
from image_bytes import CHINA, PHOTO, encode, eps, png_header

from item_jax import images
from item_jax.images import ImageError, read_image

# ------------------------------------------------------------------------ read_image


@pytest.fixture
def root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(encode(PHOTO))
    return tmp_path


def unreadable(root, key) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(root, key)
    assert str(caught.value).startswith(repr(key))
    return str(caught.value)


def test_read_image(root):
    np.testing.assert_array_equal(read_image(root, "real/a.png"), PHOTO)
    np.testing.assert_array_equal(read_image(str(root), "real/a.png"), PHOTO)
    with pytest.raises(ImageError, match="at most 100 allowed"):
        read_image(root, "real/a.png", max_pixels=100)


def test_odd_names_and_links(root):
    for name in ("with space: and-colon_.png", "line\nbreak.png", "\udcff\udcfe.png"):
        (root / name).write_bytes(encode(PHOTO))
        np.testing.assert_array_equal(read_image(root, name), PHOTO)
    (root / "link.png").symlink_to(root / "real" / "a.png")
    np.testing.assert_array_equal(read_image(root, "link.png"), PHOTO)


def test_a_decomposed_name_is_found_by_its_composed_key(root):
    key = unicodedata.normalize("NFC", "Zürich/é.png")
    path = root / unicodedata.normalize("NFD", key)
    path.parent.mkdir()
    path.write_bytes(encode(PHOTO))
    np.testing.assert_array_equal(read_image(root, key), PHOTO)


@pytest.mark.parametrize(
    "key", ["/etc/passwd", "../a.png", "real/../../a.png", "real/..", ".."]
)
def test_a_key_does_not_leave_the_root(root, key):
    assert "without '..'" in unreadable(root, key)


def test_not_a_regular_file(root):
    (root / "folder.jpg").mkdir()
    assert "a folder, not a regular file" in unreadable(root, "folder.jpg")
    assert "a folder" in unreadable(root, "")
    (root / "null.jpg").symlink_to("/dev/null")
    assert "a device" in unreadable(root, "null.jpg")


def test_a_fifo_is_not_waited_for(root):
    os.mkfifo(root / "pipe.jpg")
    said = []
    # A reader that opens it would wait for ever: hence the thread.
    thread = threading.Thread(
        target=lambda: said.append(unreadable(root, "pipe.jpg")), daemon=True
    )
    thread.start()
    thread.join(timeout=5)
    assert said and "a FIFO, not a regular file" in said[0]


def test_missing_and_dangling(root):
    assert "no such file under" in unreadable(root, "missing.jpg")
    (root / "dangling.jpg").symlink_to(root / "gone.jpg")
    assert "a link to nothing" in unreadable(root, "dangling.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    assert "cannot be read" in unreadable(root, "loop.jpg")
    assert "NotADirectoryError" in unreadable(root, "real/a.png/b.png")
    assert "cannot be read: OSError" in unreadable(root, "x" * 400 + ".jpg")
    assert "not a file name" in unreadable(root, "a\0b.jpg")


def test_forbidden(root, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(13, "Permission denied")

    # By hand, since the administrator may read everything.
    monkeypatch.setattr("item_jax.images._open_at_once", refuse)
    assert "PermissionError: Permission denied" in unreadable(root, "real/a.png")


def test_what_the_kernel_makes_up_is_not_read(root):
    """/proc/kmsg is a regular file by its mode, and a read of it never returns."""
    for target in ("/proc/kmsg", "/proc/self/maps"):
        if os.path.exists(target):
            (root / "link.jpg").unlink(missing_ok=True)
            (root / "link.jpg").symlink_to(target)
            assert "the file is empty (0 bytes)" in unreadable(root, "link.jpg")


def test_a_file_that_becomes_a_fifo_is_neither_waited_for_nor_read(root, monkeypatch):
    os.mkfifo(root / "pipe.jpg")
    regular = (root / "real" / "a.png").stat()
    monkeypatch.setattr("pathlib.Path.stat", lambda path, **options: regular)
    said = []
    thread = threading.Thread(
        target=lambda: said.append(unreadable(root, "pipe.jpg")), daemon=True
    )
    thread.start()
    thread.join(timeout=5)
    assert said and "a FIFO, not a regular file" in said[0]


@pytest.mark.parametrize(("size", "change"), [(3, "grew"), (99_000, "shrank")])
def test_a_file_that_changes_while_it_is_read(root, monkeypatch, size, change):
    monkeypatch.setattr("item_jax.images._check_regular", lambda status: size)
    said = unreadable(root, "real/a.png")
    assert f"the file {change} while it was read ({size:,} bytes at first)" in said


def test_content_of_files(root):
    half = encode(CHINA, "JPEG")[:5000]
    for name, content, said in (
        ("empty.jpg", b"", "empty (0 bytes)"),
        ("text.jpg", b"to be done", "text, beginning 'to be done'"),
        ("eps.jpg", eps(), "EPS"),
        ("half.jpg", half, "OSError: image file is truncated"),
        ("bomb.png", png_header(30_000, 30_000), "900,000,000 pixels"),
    ):
        (root / name).write_bytes(content)
        assert said in unreadable(root, name)


def test_a_huge_file_is_not_read(root):
    with open(root / "huge.jpg", "wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # sparse
    assert "at most 715,827,880 allowed" in unreadable(root, "huge.jpg")
