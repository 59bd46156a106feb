"""One shard of an embedding cache: its two files, written whole, checked when read.

The header of a shard's `.safetensors` carries a mark: the number of the shard, the
settings and the digest of the records that it was made with, and the checksums of its
arrays and rows. So a shard is known by its content, wherever its file came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from item_jax import files, settings
from item_jax.embeddings import ARRAYS, OUTPUTS, Embeddings, Row, check_finite
from item_jax.records import LABELS

EMBEDDED = ("image_emb", "text_emb", "object_emb", "phrase_emb")
"""Arrays that are stored as `storage` says; outputs are always float16."""

STORAGE = {"float32": np.float32, "float16": np.float16}

Origin = dict[str, Any]
"""What a shard was made with, flat: `{"views.geometry": "item", ...,
"records_sha256", "shard_size", "storage"}`; see `origin`."""


class DamagedShard(ValueError):
    """A shard that cannot be read, or is not the one that its name says.

    Attributes:
      why: what is wrong, without the file's name.
    """

    def __init__(self, path: Path, why: object):
        super().__init__(
            f"shard {path} is damaged ({why}); `item-jax embed`, with the same "
            "options as before, makes it again"
        )
        self.why = str(why)


class OtherShard(ValueError):
    """A whole shard that was made with other settings or of other records.

    Attributes:
      name: of the file.
      differing: a phrase for each field.
    """

    def __init__(self, path: Path, differing: list[str]):
        super().__init__(
            f"shard {path} was made with other settings: {'; '.join(differing)}. It "
            "is of another cache: move it away, and run `item-jax embed` again"
        )
        self.name = path.name
        self.differing = differing


def origin(manifest: Mapping[str, Any]) -> Origin:
    """Returns what the shards of a cache are made with, from its manifest."""
    names = ("records_sha256", "shard_size", "storage")
    own = {name: manifest[name] for name in names}
    return settings.flat(manifest["embedding"]) | own


def differences(stored: Origin, found: Origin) -> list[str]:
    """Returns every field that differs, a phrase each."""
    return [
        f"{name} was {stored.get(name)!r} and is {found.get(name)!r}"
        for name in dict.fromkeys((*stored, *found))
        if stored.get(name) != found.get(name)
    ]


def write(
    path: Path,
    shard: int,
    embeddings: Embeddings,
    rows: list[Row],
    *,
    made_with: Origin,
) -> None:
    """Writes a shard; it counts once the file at `path` has its name.

    Args:
      path: of its `.safetensors`; the rows go to the `.jsonl` beside it.
      shard: its number.
      embeddings: of the rows that are done.
      rows: of all its records.
      made_with: see `origin`; its "storage" is a key of `STORAGE`.

    Raises:
      ValueError: if a number is not finite, naming array and key.
      OSError: naming the file, if it cannot be written.
    """
    storage = STORAGE[made_with["storage"]]
    arrays = {
        name: np.ascontiguousarray(value.astype(storage) if name in EMBEDDED else value)
        for name, value in embeddings.arrays().items()
    }
    check_finite(_embeddings(embeddings.rows, arrays), str(path))
    text = "".join(files.json_line(row) for row in rows).encode()
    mark = {
        "shard": shard,
        "made_with": made_with,
        "made_with_sha256": _digest(made_with),
        "arrays_sha256": _sum(arrays),
        "rows_sha256": hashlib.sha256(text).hexdigest(),
        "rows_bytes": len(text),
    }
    # One entry of metadata: the order of several is not the same in every process.
    data = save(arrays, {"item_jax": json.dumps(mark, ensure_ascii=False)})
    with files.atomic_file(path.with_suffix(".jsonl"), binary=True) as f:
        f.write(text)
    with files.atomic_file(path, binary=True) as f:
        f.write(data)


def check(path: Path, shard: int, *, made_with: Origin) -> None:
    """Checks a shard by its header and the sizes of its files, in about 0.1 ms.

    Changed bytes inside its arrays or rows are found by `read`.

    Args:
      path: of its `.safetensors`.
      shard: the number it should have.
      made_with: what it should be made with.

    Raises:
      FileNotFoundError: if there is no shard at `path`.
      DamagedShard: if it is cut, empty, no shard, or another one of this cache.
      OtherShard: if it was made with other settings or of other records.
    """
    try:
        _header(path, shard, made_with)
    except (SafetensorError, OSError, ValueError) as e:
        _raise(e, path)


def read(
    path: Path, shard: int, *, count: int, made_with: Origin
) -> tuple[Embeddings, list[Row]]:
    """Reads what `write` wrote, and compares all checksums.

    Args:
      path: of its `.safetensors`.
      shard: the number it should have.
      count: the records it should hold.
      made_with: what it should be made with.

    Returns:
      The embeddings of the rows that are done, and the failed rows.

    Raises:
      FileNotFoundError, DamagedShard, OtherShard: as `check`.
    """
    try:
        mark = _header(path, shard, made_with)
        rows = _rows(path, mark, count)
        with _opened(path) as f:
            arrays = {name: f.get_tensor(name) for name in f.keys()}
        _check_sum(mark, "arrays_sha256", _sum(arrays))
        done = [row for row in rows if row["status"] == "done"]
        _check_arrays(arrays, done, made_with)
        embeddings = _embeddings(done, arrays)
        check_finite(embeddings, path.name)
    except (SafetensorError, OSError, TypeError, ValueError) as e:
        _raise(e, path)
    return embeddings, [row for row in rows if row["status"] != "done"]


def read_rows(path: Path, shard: int, *, count: int, made_with: Origin) -> list[Row]:
    """Reads the rows of a shard, failed ones included, without its arrays.

    Args:
      path, shard, count, made_with: as for `read`.

    Raises:
      FileNotFoundError, DamagedShard, OtherShard: as `check`.
    """
    try:
        return _rows(path, _header(path, shard, made_with), count)
    except (SafetensorError, OSError, ValueError) as e:
        _raise(e, path)


def _header(path: Path, shard: int, made_with: Origin) -> dict[str, Any]:
    """Returns the mark of a shard that is the one it should be."""
    with _opened(path) as f:
        mark = _mark(f.metadata() or {})
    differing = differences(mark["made_with"], made_with)
    if differing:
        raise OtherShard(path, differing)
    if mark["shard"] != shard:
        raise ValueError(f"it is shard {mark['shard']}, expected {shard}")
    rows = _regular(path.with_suffix(".jsonl"))
    size, expected = rows.stat().st_size, mark["rows_bytes"]
    if size != expected:
        raise ValueError(f"{rows.name} has {size:,} bytes, expected {expected:,}")
    return mark


def _rows(path: Path, mark: Mapping[str, Any], count: int) -> list[Row]:
    path = _regular(path.with_suffix(".jsonl"))
    rows = []
    for number, row in files.read_json_lines(path):
        _check_row(row, f"{path.name}, line {number}")
        rows.append(row)
    if len(rows) != count:
        raise ValueError(f"{path.name} has {len(rows)} rows, expected {count}")
    _check_sum(mark, "rows_sha256", files.sha256(path))
    return rows


def _check_sum(mark: Mapping[str, Any], name: str, found: str) -> None:
    if mark[name] != found:
        raise ValueError(f"its {name} is {mark[name]!r}, found {found!r}")


def _regular(path: Path) -> Path:
    """Returns a path that can be opened: a pipe or a device would never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path.name} is not a regular file")
    if not path.exists():
        raise ValueError(f"{path.name} is missing")
    return path


def _opened(path: Path) -> Any:
    if not path.exists() and not path.is_symlink():
        raise FileNotFoundError(path)
    # It compares the size of the file with that in its header.
    return safe_open(_regular(path), framework="np")


def _raise(error: Exception, path: Path) -> NoReturn:
    if isinstance(error, OtherShard | FileNotFoundError):
        raise error
    raise DamagedShard(path, error) from error


def _sum(arrays: dict[str, np.ndarray]) -> str:
    state = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        state.update(f"{name} {value.dtype} {value.shape}\n".encode())
        state.update(np.ascontiguousarray(value).data)
    return state.hexdigest()


def _mark(metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata.get("item_jax")
    if text is None:
        raise ValueError("it carries no checksum")
    mark = files.parse_json(text, "its header")
    if not isinstance(mark, dict):
        raise ValueError(f"its header is not a JSON object: {text!r}")
    for name, kind in (
        *(("shard", int), ("made_with", dict), ("made_with_sha256", str)),
        *(("arrays_sha256", str), ("rows_sha256", str), ("rows_bytes", int)),
    ):
        files.field(mark, name, kind, "its header")
    # A changed byte in there is damage, not another setting.
    _check_sum(mark, "made_with_sha256", _digest(mark["made_with"]))
    return mark


def _digest(made_with: Origin) -> str:
    text = json.dumps(made_with, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _embeddings(rows: list[Row], arrays: Mapping[str, np.ndarray]) -> Embeddings:
    own = {name: arrays[name] for name in ARRAYS}
    outputs = {name: arrays[name] for name in OUTPUTS if name in arrays}
    return Embeddings(rows, **own, outputs=outputs)


def _check_arrays(
    arrays: dict[str, np.ndarray], done: list[Row], made_with: Origin
) -> None:
    shapes = {name: made_with.get(f"outputs.{name}") for name in OUTPUTS}
    outputs = {name: shape for name, shape in shapes.items() if shape is not None}
    expected = sorted([*ARRAYS, *outputs])
    if sorted(arrays) != expected:
        raise ValueError(f"it holds {sorted(arrays)}, expected {expected}")
    storage, wide = STORAGE[made_with["storage"]], made_with["tower.embed_dim"]
    n, m = len(done), len(arrays["object_emb"])
    if len(arrays["image_emb"]) != n:
        raise ValueError(f"it holds {len(arrays['image_emb'])} embeddings for {n} rows")
    wanted = {
        "image_emb": ((n, wide), storage),
        "text_emb": ((n, wide), storage),
        "object_emb": ((m, wide), storage),
        "phrase_emb": ((m, wide), storage),
        "object_offsets": ((n + 1,), np.int64),
        **{name: ((n, *shape), np.float16) for name, shape in outputs.items()},
    }
    for name, (shape, dtype) in wanted.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(
                f"{name} is {found.dtype} {list(found.shape)}, expected "
                f"{np.dtype(dtype)} {list(shape)}"
            )
    counts = np.diff(arrays["object_offsets"]).tolist()
    if arrays["object_offsets"][0] != 0 or counts != [len(r["objects"]) for r in done]:
        raise ValueError("object_offsets do not fit the objects of its rows")


def _check_row(row: Row, where: str) -> None:
    files.field(row, "key", str, where)
    if row.get("label") not in (None, *LABELS):
        raise ValueError(f"{where}: 'label' is {row['label']!r}")
    row.setdefault("label", None)
    for name in ("benchmark", "generator", "split"):
        files.field(row, name, str, where)
    if "file" in row:
        files.field(row, "file.bytes", int, where)
        files.field(row, "file.sha256", str, where)
        if "mtime_ns" in row["file"]:
            files.field(row, "file.mtime_ns", int, where)
    status = files.field(row, "status", str, where)
    if status == "failed":
        for name in ("error", "stage"):
            files.field(row, name, str, where)
    elif status == "done":
        files.field(row, "caption", str, where)
        for entry in files.field(row, "objects", list, where):
            if not isinstance(entry, dict):
                raise ValueError(f"{where}: an object is {entry!r}")
            files.field(entry, "phrase", str, where)
            files.field(entry, "box", list, where)
    else:
        raise ValueError(f"{where}: 'status' is {status!r}; allowed: done, failed")
