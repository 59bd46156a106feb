"""The output folder of a sidecar: shards that survive a kill, and their merge.

    OUT/run.json                    the settings of the run, and their fingerprint
    OUT/parts/part-00003.jsonl      a finished shard
    OUT/parts/part-00003.done.json  its mark: counts and SHA-256
    OUT/parts/part-00004.partial    an unfinished shard; its last line may be torn
    OUT/captions.jsonl              all shards, in the order of the keys

A shard is a fixed slice of the sorted keys, computed in batches on a fixed grid inside
it. Greedy decoding can change with the rows that share a batch, so a resumed run
repeats whole batches and never regroups them.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from item_jax import files

try:
    import fcntl
except ImportError:  # Windows has no flock; two writers of a shard go unnoticed there
    fcntl = None  # type: ignore[assignment]

SCHEMA = "item-sidecar/2"
ROLES = ("captioner", "grounder", "reconstructor")
STATUSES = ("done", "failed", "skipped")
FSYNC_SECONDS = 30  # the most work that a power cut can lose; a kill loses no batch


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def keys_digest(keys: Sequence[str]) -> str:
    """Returns the SHA-256 of a list of keys, 64 hexadecimal digits."""
    state = hashlib.sha256()
    for key in keys:
        state.update(key.encode() + b"\n")
    return state.hexdigest()


# --------------------------------------------------------------------------- run.json


def claim(out: Path, settings: Mapping[str, Any], **beside: Any) -> None:
    """Writes `run.json`, or checks that the existing one has the same settings.

    Args:
      out: the output folder.
      settings: everything the rows depend on; the fingerprint is its digest.
      **beside: facts that are stored but not compared, such as the folder of images.

    Raises:
      ValueError: when a run with other settings began here, naming the fields that
        differ; when `run.json` is damaged or of another version.
    """
    path = out / "run.json"
    settings = json.loads(json.dumps(settings))
    fingerprint = digest(settings)
    if path.is_file():
        found = read_run(out)
        if found["fingerprint"] == fingerprint:
            return
        old, new = _leaves(found["settings"]), _leaves(settings)
        names = [n for n in {**old, **new} if old.get(n) != new.get(n)]
        rest = f" (also different: {', '.join(names[1:])})" if names[1:] else ""
        raise ValueError(
            f"{out} was begun with another setting: {names[0]} is "
            f"{old.get(names[0])!r} in its run.json and {new.get(names[0])!r} now"
            f"{rest}. Give another --out, or the settings of that run"
        )
    # Readers of a record look for the roles at the top.
    roles = {k: settings[k] for k in ROLES if k in settings}
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run = {**roles, "fingerprint": fingerprint, "settings": settings}
    files.write_json(path, run | {"started": started} | beside)


def read_run(out: Path) -> dict[str, Any]:
    """Reads `run.json` of a sidecar's folder.

    Raises:
      ValueError: naming file and field, when it is missing, damaged, or of another
        version of the sidecars.
    """
    path = out / "run.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: no sidecar has run in {out}")
    run = files.read_json(path)
    settings = files.field(run, "settings", dict, path)
    if files.field(run, "fingerprint", str, path) != digest(settings):
        raise ValueError(f"{path} is damaged: its fingerprint is not of its settings")
    schema = files.field(settings, "schema", str, path)
    if schema != SCHEMA:
        raise ValueError(
            f"{out} was begun by another version: {path} has the schema {schema!r}, "
            f"this version writes {SCHEMA!r} (rows are 'done' or 'failed', no longer "
            "'ok' or 'error'). Give another --out, or finish the run with the version "
            "that began it"
        )
    for name, least in (("images.count", 1), ("shard_size", 1)):
        if files.field(settings, name, int, path) < least:
            raise ValueError(f"{path}: settings.{name} is below {least}")
    files.field(settings, "images.sha256", str, path)
    return run


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens nested dictionaries: `{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    if not isinstance(value, dict):
        return {prefix: value}
    out: dict[str, Any] = {}
    for name, inner in value.items():
        out |= _leaves(inner, f"{prefix}.{name}" if prefix else name)
    return out


# ----------------------------------------------------------------------------- shards


class Shard:
    """One slice of the keys and its files.

    Args:
      out: the output folder.
      number: the place of the slice, from 0.
      keys: the keys of the slice, in order.
      batch_size: rows in a batch; the last batch may be shorter.
    """

    def __init__(self, out: Path, number: int, keys: Sequence[str], batch_size: int):
        self.number, self.keys, self.batch_size = number, keys, batch_size
        stem = _stem(out, number)
        self.path = stem.with_suffix(".jsonl")
        self.partial = stem.with_suffix(".partial")
        self.mark = stem.with_suffix(".done.json")

    def done(self) -> bool:
        """Whether the shard is finished; writes a mark that a kill prevented."""
        if not self.path.is_file():
            return False
        if not self.mark.is_file():
            data = self.path.read_bytes()
            if self._whole_batches(data) != (len(data), len(self.keys)):
                return False
            self._write_mark()
        return True

    def open(self) -> list[dict[str, Any]]:
        """Opens the shard for appending and returns the rows it has already.

        A torn line, and what follows the last whole batch, is cut off.

        Raises:
          ValueError: when another process is writing this shard.
        """
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.partial, "ab", buffering=0)
        try:
            if fcntl:  # the lock ends with its process, even when that is killed
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._file.close()
            raise ValueError(
                f"another process is writing {self.partial}: give each process its "
                "own --rank, and all the same --world-size"
            ) from e
        except OSError:  # a file system without locks
            pass
        data = self.partial.read_bytes()
        size, _ = self._whole_batches(data)
        self._file.truncate(size)
        self._synced = time.monotonic()
        return [json.loads(line) for line in io.BytesIO(data[:size])]

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends the rows of one batch.

        Raises:
          OSError: naming the file, such as on a full disk.
        """
        data = memoryview("".join(map(files.json_line, rows)).encode())
        try:
            while data:  # a single write, unless the disk takes only a part
                data = data[self._file.write(data) :]
        except OSError as e:
            raise OSError(e.errno, e.strerror, str(self.partial)) from e
        if time.monotonic() - self._synced > FSYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def finish(self) -> None:
        """Gives the shard its name and its mark."""
        os.fsync(self._file.fileno())
        os.replace(self.partial, self.path)
        self._write_mark()
        self._file.close()

    def close(self) -> None:
        """Closes an unfinished shard; it can be opened again."""
        self._file.close()

    def _whole_batches(self, data: bytes) -> tuple[int, int]:
        """Returns bytes and rows of the whole batches that `data` begins with."""
        whole_bytes = whole_rows = offset = 0
        for count, (key, line) in enumerate(zip(self.keys, io.BytesIO(data)), start=1):
            if not _is_row(line, key):
                break
            offset += len(line)
            if count % self.batch_size == 0 or count == len(self.keys):
                whole_bytes, whole_rows = offset, count
        return whole_bytes, whole_rows

    def _write_mark(self) -> None:
        data = self.path.read_bytes()
        statuses = Counter(json.loads(line)["status"] for line in io.BytesIO(data))
        sha256 = hashlib.sha256(data).hexdigest()
        counts = {"rows": len(self.keys), **statuses}
        files.write_json(self.mark, {**counts, "sha256": sha256})


def _stem(out: Path, number: int) -> Path:
    return out / "parts" / f"part-{number:05d}"


def _is_row(line: bytes, key: str) -> bool:
    """Whether a line is the whole row of `key`."""
    if not line.endswith(b"\n"):
        return False
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(row, dict)
        and row.get("key") == key
        and row.get("status") in STATUSES
    )


def shards(out: Path, keys: Sequence[str], size: int, batch_size: int) -> list[Shard]:
    """Cuts sorted keys into shards of `size` rows.

    Raises:
      ValueError: when `size` is not a multiple of `batch_size`.
    """
    if batch_size < 1 or size < 1 or size % batch_size:
        near = max(size // max(batch_size, 1), 1) * batch_size
        raise ValueError(
            f"a shard of {size} rows does not hold whole batches of {batch_size}; "
            f"--shard-size {near} would"
        )
    return [
        Shard(out, n, keys[start : start + size], batch_size)
        for n, start in enumerate(range(0, len(keys), size))
    ]


# ------------------------------------------------------------------------------ merge


def merge(out: Path, name: str) -> tuple[dict[str, int], Counter[str]]:
    """Joins the finished shards of `out` into `out/name`, whole or not at all.

    Args:
      out: the output folder.
      name: `captions.jsonl` or `objects.jsonl`.

    Returns:
      `{"rows", "done", "failed", "skipped"}`, where the first is the sum of the others;
      and how often each kind of error occurs.

    Raises:
      ValueError: naming them, when shards are missing or damaged; when they do not hold
        the keys of `run.json`.
    """
    settings = read_run(out)["settings"]
    count = -(-settings["images"]["count"] // settings["shard_size"])
    _check_finished(out, count)
    counts: Counter[str] = Counter(rows=0, **dict.fromkeys(STATUSES, 0))
    reasons: Counter[str] = Counter()
    keys = hashlib.sha256()
    with files.atomic_file(out / name, binary=True) as merged:
        for number in range(count):
            path, data = _read_shard(out, number)
            for line_number, line in enumerate(io.BytesIO(data), start=1):
                where = f"{path}, line {line_number}"
                row = files.parse_json(line, where)
                key = files.field(row, "key", str, where)
                status = files.field(row, "status", str, where)
                error = files.field(row, "error", (str, type(None)), where)
                if status not in STATUSES:
                    raise ValueError(
                        f"{where}: status is {status!r}; allowed: {', '.join(STATUSES)}"
                    )
                keys.update(key.encode("utf-8", "surrogatepass") + b"\n")
                counts[status] += 1
                counts["rows"] += 1
                if error:
                    reasons[f"{status}: {error.split(':')[0]}"] += 1
            merged.write(data)
        if keys.hexdigest() != settings["images"]["sha256"]:
            raise ValueError(
                f"the keys in the shards of {out} are not those of its run.json"
            )
    return dict(counts), reasons


def _check_finished(out: Path, count: int) -> None:
    """Refuses to merge while some of `count` shards have no mark."""
    marks = {path.name for path in (out / "parts").glob("part-*.done.json")}
    missing = (
        _stem(out, n).name
        for n in range(count)
        if _stem(out, n).with_suffix(".done.json").name not in marks
    )
    # Lazily: a damaged run.json may claim any number of shards.
    first = list(itertools.islice(missing, 6))
    if first:
        more = " ..." if len(first) > 5 else ""
        raise ValueError(
            f"{max(count - len(marks), len(first))} of {count} shards of {out} are not "
            f"finished: {', '.join(first[:5])}{more}. Run the ranks they belong to "
            "again, then merge"
        )


def _read_shard(out: Path, number: int) -> tuple[Path, bytes]:
    stem = _stem(out, number)
    path, mark = stem.with_suffix(".jsonl"), stem.with_suffix(".done.json")
    data = path.read_bytes() if path.is_file() else b""
    expected = files.field(files.read_json(mark), "sha256", str, mark)
    if hashlib.sha256(data).hexdigest() != expected:
        raise ValueError(
            f"{path} is not what its mark {mark.name} says it was: it was changed or "
            "damaged. Delete both and run again"
        )
    return path, data
