"""Files that are whole or absent, JSON that is checked, digests.

Standard library only. What a person or another program may have written is read here,
so that damage is a `ValueError` that names file and line, never a traceback.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any


def partial_name(path: str | Path) -> Path:
    """Returns a fresh name beside `path` for what is not whole yet: `NAME.*.partial`.

    It has no process number in it: containers that share a disk often have the same.
    """
    path = Path(path)
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")


class atomic_file:
    """A file that takes its name only when its `with` block ends well.

    Args:
      path: where it goes; its folder is made.
      binary: whether bytes are written; else UTF-8 text with `\\n` line ends.

    Raises:
      OSError: naming `path`, such as on a full disk; nothing is left behind then.
    """

    def __init__(self, path: str | Path, *, binary: bool = False):
        self.path = Path(path)
        self.partial = partial_name(path)
        self.binary = binary

    def __enter__(self) -> IO[Any]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.binary:
            self.file: IO[Any] = open(self.partial, "wb")
        else:
            self.file = open(self.partial, "w", encoding="utf-8", newline="\n")
        return self.file

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            try:
                self.file.flush()
                os.fsync(self.file.fileno())
            finally:
                self.file.close()
            if kind is None:
                os.replace(self.partial, self.path)
        except OSError as e:
            if kind is None:
                raise OSError(e.errno, e.strerror, str(self.path)) from e
        finally:
            self.partial.unlink(missing_ok=True)
        if isinstance(value, OSError) and value.filename is None:
            raise OSError(value.errno, value.strerror, str(self.path)) from value


class atomic_folder:
    """A folder that takes its name only when its `with` block ends well.

    It replaces what was there before, which is moved aside, then deleted.

    Args:
      path: where it goes.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.partial = partial_name(path)

    def __enter__(self) -> Path:
        self.partial.mkdir(parents=True)
        return self.partial

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            remove_folder(self.path)
            self.partial.rename(self.path)
        else:
            shutil.rmtree(self.partial, ignore_errors=True)


def remove_folder(path: str | Path) -> None:
    """Deletes a folder, if it is there; killed meanwhile, it never looks half full.

    It loses its name before it loses its content.
    """
    path = Path(path)
    if path.exists():
        doomed = partial_name(path)
        path.rename(doomed)
        shutil.rmtree(doomed)


def write_json(path: str | Path, value: Any) -> None:
    """Writes one JSON value, whole or not at all.

    Raises:
      ValueError: for NaN or an infinite number, which JSON does not know.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_file(path) as f:
        f.write(text + "\n")


def write_json_lines(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes JSON lines, all or none; returns how many.

    Raises:
      ValueError: for NaN or an infinite number.
    """
    count = 0
    with atomic_file(path) as f:
        for row in rows:
            f.write(json_line(row))
            count += 1
    return count


def json_line(row: Mapping[str, Any]) -> str:
    """Returns one JSON line with its line end."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def parse_json(text: str | bytes, where: object) -> Any:
    """Parses JSON.

    Args:
      text: to be parsed.
      where: the file, or file and line, for the message.

    Raises:
      ValueError: naming `where`, for what is not JSON, is nested too deeply, or holds
        NaN or an infinite number.
    """
    try:
        return json.loads(text, parse_constant=_not_finite)
    except RecursionError as e:
        raise ValueError(f"{where}: JSON nested too deeply") from e
    except ValueError as e:
        raise ValueError(f"{where}: not JSON ({e})") from e


def _not_finite(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
      ValueError: naming the file, for what is not a JSON object.
      FileNotFoundError: if the file does not exist.
    """
    value = parse_json(Path(path).read_bytes(), path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {_short(value)}")
    return value


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields `(line number from 1, row)` of a JSON lines file; blank lines are skipped.

    Raises:
      ValueError: naming file and line, for a line that is not a JSON object.
      FileNotFoundError: if the file does not exist.
    """
    with open(path, "rb") as f:
        for number, line in enumerate(f, start=1):
            if line.strip():
                row = parse_json(line, f"{path}, line {number}")
                if not isinstance(row, dict):
                    raise ValueError(
                        f"{path}, line {number}: expected a JSON object, found "
                        f"{_short(row)}"
                    )
                yield number, row


def field(row: Mapping[str, Any], name: str, kind: type | tuple, where: object) -> Any:
    """Returns a field of a JSON object that somebody else may have written.

    Args:
      row: the object.
      name: of the field, dotted for one further in: `"embedding.dtype"`.
      kind: the type or types it must have; a bool is not an int here.
      where: the file, for the message.

    Raises:
      ValueError: naming file and field, when it is missing or of another type.
    """
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"{where}: {name!r} is missing")
        value = value[part]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise ValueError(f"{where}: {name!r} is {_short(value)}; expected {names}")
    return value


def what_is_wrong(path: str | Path) -> str:
    """Says why there is no regular file to be read at a path; "" if there is one.

    It follows links, and opens nothing but a regular file: a FIFO would wait.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            open(path, "rb").close()
            return ""
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            return printable(e.strerror)
        if not path.is_symlink():
            return "missing"
        loop = e.errno == errno.ELOOP
        target = printable(os.readlink(path))
        return f"a link to {'a loop' if loop else 'nothing'} ({target})"
    return "a folder" if stat.S_ISDIR(mode) else "not a regular file"


def sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file's content as hex digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def folder_digest(folder: str | Path) -> str:
    """Returns a digest of a checkpoint's files: their names, sizes and content.

    Of a file above 4 MiB it covers the first and the last MiB: eight processes that
    start together should not read 7 GB each to tell two models apart.
    """
    state = hashlib.sha256()
    for path in sorted(p for p in Path(folder).iterdir() if p.is_file()):
        size = path.stat().st_size
        state.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as f:
            if size <= 4 << 20:
                state.update(f.read())
            else:
                state.update(f.read(1 << 20))
                f.seek(-(1 << 20), os.SEEK_END)
                state.update(f.read())
    return state.hexdigest()


def printable(text: object) -> str:
    """Returns text that is safe on a terminal and in a table: one line, no escapes.

    Control characters and lone surrogates are shown as `\\x1b`, `\\n` and their like.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
