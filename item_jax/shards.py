"""One shard of an embedding cache: its two files, written whole, checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from item_jax import files
from item_jax.embeddings import ARRAYS, OUTPUTS, Embeddings, Row, check_finite
from item_jax.records import LABELS

EMBEDDED = ("image_emb", "text_emb", "object_emb", "phrase_emb")
"""Arrays that are stored as `storage` says; outputs are always float16."""

STORAGE = {"float32": np.float32, "float16": np.float16}


def write(
    path: Path, shard: int, embeddings: Embeddings, rows: list[Row], *, storage: str
) -> None:
    """Writes a shard; it counts once the file at `path` has its name.

    Args:
      path: of its `.safetensors`; the rows go to the `.jsonl` beside it.
      shard: its number.
      embeddings: of the rows that are done.
      rows: of all its records.
      storage: a key of `STORAGE`.

    Raises:
      ValueError: if a number is not finite, naming array and key.
    """
    arrays = {
        name: np.ascontiguousarray(
            value if name not in EMBEDDED else value.astype(STORAGE[storage])
        )
        for name, value in embeddings.arrays().items()
    }
    check_finite(_embeddings(embeddings.rows, arrays), str(path))
    text = "".join(files.json_line(row) for row in rows).encode()
    # One entry of metadata: the order of several is not the same in every process.
    data = save(arrays, {"item_jax": json.dumps(_mark(shard, arrays, text))})
    with files.atomic_file(path.with_suffix(".jsonl"), binary=True) as f:
        f.write(text)
    with files.atomic_file(path, binary=True) as f:
        f.write(data)


def read(
    path: Path,
    shard: int,
    *,
    count: int,
    embed_dim: int,
    storage: str,
    outputs: Mapping[str, Sequence[int]] = MappingProxyType({}),
    marked: bool = True,
) -> tuple[Embeddings, list[Row]]:
    """Reads what `write` wrote.

    Args:
      path: of its `.safetensors`.
      shard: the number it should have.
      count: the records it should hold.
      embed_dim: D.
      storage: a key of `STORAGE`.
      outputs: the shapes of the outputs it should have, by name.
      marked: whether it must carry number and checksums (since version 0.2).

    Returns:
      The embeddings of the rows that are done, and the failed rows.

    Raises:
      ValueError: if the shard is damaged or another one, with the remedy.
    """
    try:
        rows = read_rows(path.with_suffix(".jsonl"), count)
        arrays, mark = _read_arrays(path)
        if mark is not None:
            text = path.with_suffix(".jsonl").read_bytes()
            for name, value in _mark(shard, arrays, text).items():
                if mark.get(name) != value:
                    raise ValueError(
                        f"its {name} is {mark.get(name)!r}, found {value!r}"
                    )
        elif marked:
            raise ValueError("it carries no checksum")
        done = [row for row in rows if row["status"] == "done"]
        _check_arrays(arrays, done, embed_dim, STORAGE[storage], outputs)
        embeddings = _embeddings(done, arrays)
        check_finite(embeddings, path.name)
    except (SafetensorError, OSError, ValueError) as e:
        raise ValueError(
            f"shard {path} is damaged ({e}); delete {path} and run embed again"
        ) from e
    return embeddings, [row for row in rows if row["status"] != "done"]


def read_rows(path: Path, count: int) -> list[Row]:
    """Reads the rows of a shard, failed ones included, without its arrays.

    Args:
      path: of its `.jsonl`.
      count: the records it should hold.

    Raises:
      ValueError: if the file is damaged, naming line and field.
    """
    rows = []
    for number, row in files.read_json_lines(path):
        _check_row(row, f"{path}, line {number}")
        rows.append(row)
    if len(rows) != count:
        raise ValueError(f"{path} has {len(rows)} rows, expected {count}")
    return rows


def _mark(shard: int, arrays: dict[str, np.ndarray], text: bytes) -> dict[str, Any]:
    """The number and checksums that a shard carries."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        state.update(f"{name} {value.dtype} {value.shape}\n".encode())
        state.update(np.ascontiguousarray(value).data)
    return {
        "shard": shard,
        "arrays_sha256": state.hexdigest(),
        "rows_sha256": hashlib.sha256(text).hexdigest(),
    }


def _read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict | None]:
    with safe_open(path, framework="np") as f:
        metadata = f.metadata() or {}
        arrays = {name: f.get_tensor(name) for name in f.keys()}
    mark = metadata.get("item_jax")
    parsed = None if mark is None else files.parse_json(mark, "its checksum")
    if parsed is not None and not isinstance(parsed, dict):
        raise ValueError(f"its checksum is not a JSON object: {mark!r}")
    return arrays, parsed


def _embeddings(rows: list[Row], arrays: Mapping[str, np.ndarray]) -> Embeddings:
    own = {name: arrays[name] for name in ARRAYS}
    outputs = {name: arrays[name] for name in OUTPUTS if name in arrays}
    return Embeddings(rows, **own, outputs=outputs)


def _check_arrays(
    arrays: dict[str, np.ndarray],
    done: list[Row],
    embed_dim: int,
    storage: type,
    outputs: Mapping[str, Sequence[int]],
) -> None:
    expected = sorted([*ARRAYS, *outputs])
    if sorted(arrays) != expected:
        raise ValueError(f"it holds {sorted(arrays)}, expected {expected}")
    n, m = len(done), len(arrays["object_emb"])
    if len(arrays["image_emb"]) != n:
        raise ValueError(f"it holds {len(arrays['image_emb'])} embeddings for {n} rows")
    wanted = {
        "image_emb": ((n, embed_dim), storage),
        "text_emb": ((n, embed_dim), storage),
        "object_emb": ((m, embed_dim), storage),
        "phrase_emb": ((m, embed_dim), storage),
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
    status = files.field(row, "status", str, where)
    if status == "failed":
        error = files.field(row, "error", str, where)
        row.setdefault("stage", error.partition(":")[0])  # as in version 0.1
    elif status == "done":
        files.field(row, "caption", str, where)
        for entry in files.field(row, "objects", list, where):
            if not isinstance(entry, dict):
                raise ValueError(f"{where}: an object is {entry!r}")
            files.field(entry, "phrase", str, where)
            files.field(entry, "box", list, where)
    else:
        raise ValueError(f"{where}: 'status' is {status!r}; allowed: done, failed")
