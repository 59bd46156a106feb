"""Whole or absent; JSON that is checked."""

import errno
import json
import os

import pytest

from item_jax import files


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# -------------------------------------------------------------------------- whole files


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with files.atomic_file(path) as f:
        f.write("å\n")
        assert not path.exists()
    assert path.read_bytes() == "å\n".encode() and names(path.parent) == ["a.txt"]
    with files.atomic_file(path, binary=True) as f:
        f.write(b"\0")
    assert path.read_bytes() == b"\0"


def test_a_failed_file_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), files.atomic_file(path) as f:
        f.write("new")
        raise KeyError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(OSError, match="No space left.*a.txt"):
        with files.atomic_file(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        with files.atomic_file(tmp_path / "a.txt"):
            open(tmp_path / "elsewhere")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_disk_that_fills_up_as_the_file_is_closed(tmp_path, monkeypatch):
    partial = tmp_path / "p"
    partial.symlink_to("/dev/full")
    monkeypatch.setattr(files, "partial_name", lambda path: partial)
    with pytest.raises(OSError, match="No space left.*a.txt"):
        with files.atomic_file(tmp_path / "a.txt") as f:
            f.write("x")
    assert names(tmp_path) == []


def test_a_folder_appears_whole_and_replaces(tmp_path):
    path = tmp_path / "head"
    for content in ("one", "two"):
        with files.atomic_folder(path) as partial:
            (partial / content).write_text(content)
        assert names(path) == [content] and names(tmp_path) == ["head"]
    with pytest.raises(KeyError), files.atomic_folder(path) as partial:
        (partial / "three").write_text("x")
        raise KeyError
    assert names(path) == ["two"] and names(tmp_path) == ["head"]


def test_a_removed_folder_loses_its_name_first(tmp_path, monkeypatch):
    path = tmp_path / "steps"
    path.mkdir()
    (path / "a").write_text("x")

    def killed(doomed):
        assert not path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        files.remove_folder(path)
    assert not path.exists()
    files.remove_folder(path)  # one that is not there is nothing to remove


def test_partial_names_are_fresh(tmp_path):
    found = {files.partial_name(tmp_path / "a").name for _ in range(50)}
    assert len(found) == 50
    assert all(n.startswith("a.") and n.endswith(".partial") for n in found)


# --------------------------------------------------------------------------------- JSON


def test_json_survives_the_disk(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"é": [1, None]})
    assert files.read_json(path) == {"é": [1, None]} and "é" in path.read_text("utf-8")
    rows = [{"a": 1}, {"b": "ü"}]
    assert files.write_json_lines(path, iter(rows)) == 2
    assert list(files.read_json_lines(path)) == [(1, rows[0]), (2, rows[1])]


def test_numbers_that_json_does_not_know_are_neither_written_nor_read(tmp_path):
    path = tmp_path / "a.json"
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            files.write_json(path, {"a": value})
        with pytest.raises(ValueError):
            files.write_json_lines(path, [{"a": value}])
    assert names(tmp_path) == []
    for text in ("NaN", "-Infinity", '{"a": [Infinity]}'):
        with pytest.raises(ValueError, match="here: not JSON .*not a finite number"):
            files.parse_json(text, "here")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a.json: not JSON"),
        (b"{", "a.json: not JSON"),
        (b"\xff\xfe\xfa", "a.json: not JSON"),
        (b"[" * 10**5, "a.json: JSON nested too deeply"),
        (b"9" * 10**4, "a.json: not JSON"),
        (b"[1]", r"a.json: expected a JSON object, found \[1\]"),
        (b'"' + b"x" * 99 + b'"', r"found 'xxx.*x\.\.\.$"),
    ],
)
def test_what_is_not_a_json_object_is_named(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        files.read_json(path)
    path.write_bytes(b'{"a": 1}\n\n  \n' + content.replace(b"\n", b"") + b"\n")
    if content:
        with pytest.raises(ValueError, match=words.replace("a.json", "a.json, line 4")):
            list(files.read_json_lines(path))


def test_fields():
    row = {"a": {"b": 1, "c": True, "d": None}}
    assert files.field(row, "a.b", int, "f") == 1
    assert files.field(row, "a.c", bool, "f") is True
    assert files.field(row, "a.d", (str, type(None)), "f") is None
    for name, kind, words in (
        ("a.x", int, "f: 'a.x' is missing"),
        ("a.b.c", int, "f: 'a.b.c' is missing"),
        ("a.b", str, "f: 'a.b' is 1; expected str"),
        ("a.c", int, "f: 'a.c' is True; expected int"),
        ("a.c", (int, float), "f: 'a.c' is True; expected int or float"),
        ("a.b", (str, type(None)), "f: 'a.b' is 1; expected str or null"),
    ):
        with pytest.raises(ValueError, match=words):
            files.field(row, name, kind, "f")


def test_printable():
    text = files.printable("é a\x1b[31m\n\u202e\ud83d")
    assert text == "é a\\x1b[31m\\n\\u202e\\ud83d"
    assert files.printable(3) == "3"


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")
    assert json.dumps(files.json_line({"é": 1})) == '"{\\"\\u00e9\\": 1}\\n"'
