"""The output folder of a sidecar: shards that survive a kill, and their merge.

    OUT/run.json                    what the rows were made with, and its fingerprint
    OUT/parts/part-00003.jsonl      a finished shard
    OUT/parts/part-00003.done.json  its mark: counts and SHA-256
    OUT/parts/part-00004.partial    a shard in work; its last line may be torn
    OUT/captions.jsonl              all shards, in the order of the keys

A shard is a fixed slice of the sorted keys, and is computed in batches on a fixed grid
inside it: greedy decoding can change with the rows that share a batch, so a resumed run
repeats whole batches and never packs them anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from item_jax import records

try:
    import fcntl
except ImportError:  # Windows has no flock; two writers of a shard go unnoticed there
    fcntl = None

SCHEMA = "item-sidecar/1"
FSYNC_SECONDS = 30  # how much work a power cut, not a kill, can cost


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value, 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def keys_digest(keys: Sequence[str]) -> str:
    """Returns the SHA-256 of a list of keys."""
    state = hashlib.sha256()
    for key in keys:
        state.update(key.encode("utf-8", "surrogatepass") + b"\n")
    return state.hexdigest()


def claim(out: Path, settings: dict[str, Any], **beside: Any) -> None:
    """Writes `run.json`, or checks that the one that is there says the same.

    Args:
      out: the output folder.
      settings: everything the rows depend on; the fingerprint is their digest.
      **beside: facts to be told but not compared, such as the folder of the images.

    Raises:
      ValueError: naming the first field that differs from the run that began here.
    """
    path = out / "run.json"
    settings = json.loads(json.dumps(settings))
    mark = digest(settings)
    if path.is_file():
        found = read_run(out)
        if found["fingerprint"] == mark:
            return
        old, new = _leaves(found["settings"]), _leaves(settings)
        names = [n for n in {**old, **new} if old.get(n) != new.get(n)]
        rest = f" (and {', '.join(names[1:])})" if names[1:] else ""
        raise ValueError(
            f"{out} was begun with another setting: {names[0]} is "
            f"{old.get(names[0])!r} in its run.json and {new.get(names[0])!r} now"
            f"{rest}. Give another --out, or the settings of that run"
        )
    # The roles stand at the top as well, where the readers of a record look for them.
    roles = {k: settings[k] for k in ("captioner", "grounder") if k in settings}
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    run = {**roles, "fingerprint": mark, "settings": settings, "started": started}
    records.write_json(path, run | beside)


def read_run(out: Path) -> dict[str, Any]:
    """Reads `run.json` of a sidecar's folder.

    Raises:
      ValueError: when it is missing or damaged.
    """
    path = out / "run.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: no sidecar has run into {out}")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["fingerprint"] != digest(run["settings"]):
            raise ValueError("its fingerprint is not that of its settings")
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is damaged: {e}") from e
    return run


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    out: dict[str, Any] = {}
    for name, inner in value.items():
        out |= _leaves(inner, f"{prefix}.{name}" if prefix else name)
    return out


class Shard:
    """One slice of the keys and its files.

    Args:
      out: the output folder.
      number: the place of the slice, from 0.
      keys: the keys of the slice, in order.
      batch_size: rows a batch; the last batch may be shorter.
    """

    def __init__(self, out: Path, number: int, keys: Sequence[str], batch_size: int):
        self.number, self.keys, self.batch_size = number, keys, batch_size
        stem = out / "parts" / f"part-{number:05d}"
        self.path = stem.with_suffix(".jsonl")
        self.partial = stem.with_suffix(".partial")
        self.mark = stem.with_suffix(".done.json")

    def done(self) -> bool:
        """Whether the shard is finished; a mark that a kill prevented is written."""
        if not self.path.is_file():
            return False
        if not self.mark.is_file():
            data = self.path.read_bytes()
            if self._whole(data) != (len(data), len(self.keys)):
                return False
            self._write_mark()
        return True

    def open(self) -> int:
        """Opens the shard for appending and returns how many rows it has already.

        A torn line, and whatever follows the last whole batch, is cut off.

        Raises:
          ValueError: when another process is writing this shard.
        """
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.partial, "ab", buffering=0)
        try:
            if fcntl:  # the lock dies with its process, even when that is killed
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._file.close()
            raise ValueError(
                f"another process is writing {self.partial}: give each process its "
                "own --rank, and all the same --world-size"
            ) from e
        except OSError:  # a file system without locks
            pass
        size, count = self._whole(self.partial.read_bytes())
        self._file.truncate(size)
        self._synced = time.monotonic()
        return count

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Appends the rows of one batch with a single write."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # A lone surrogate, which JSON can bring in, goes out as its escape again.
        self._file.write(text.encode("utf-8", "backslashreplace"))
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

    def _whole(self, data: bytes) -> tuple[int, int]:
        """Bytes and rows of the longest beginning that is made of whole batches."""
        offset, kept = 0, (0, 0)
        for count, (key, line) in enumerate(zip(self.keys, io.BytesIO(data)), start=1):
            try:
                if not line.endswith(b"\n") or json.loads(line)["key"] != key:
                    break
            except (ValueError, KeyError, TypeError):
                break
            offset += len(line)
            if count % self.batch_size == 0 or count == len(self.keys):
                kept = offset, count
        return kept

    def _write_mark(self) -> None:
        data = self.path.read_bytes()
        statuses = Counter(json.loads(line)["status"] for line in io.BytesIO(data))
        sha256 = hashlib.sha256(data).hexdigest()
        counts = {"rows": len(self.keys), **statuses}
        records.write_json(self.mark, {**counts, "sha256": sha256})


def shards(out: Path, keys: Sequence[str], size: int, batch_size: int) -> list[Shard]:
    """Cuts sorted keys into shards of `size` rows; `size` is made of whole batches.

    Raises:
      ValueError: when `size` is no multiple of `batch_size`.
    """
    if batch_size < 1 or size < 1 or size % batch_size:
        near = max(size // max(batch_size, 1), 1) * batch_size
        raise ValueError(
            f"a shard of {size} rows is not made of whole batches of {batch_size}; "
            f"--shard-size {near} would be"
        )
    return [
        Shard(out, n, keys[start : start + size], batch_size)
        for n, start in enumerate(range(0, len(keys), size))
    ]


def merge(out: Path, name: str) -> tuple[dict[str, int], Counter]:
    """Joins the finished shards of `out` into `out/name`, whole or not at all.

    Args:
      out: the output folder.
      name: `captions.jsonl` or `objects.jsonl`.

    Returns:
      `{"rows", "ok", "error", "skipped"}`, how many, adding up; and how often each
      kind of error stands in them.

    Raises:
      ValueError: when shards are missing (naming them), damaged, or do not hold the
        keys `run.json` speaks of.
    """
    settings = read_run(out)["settings"]
    total, size = settings["images"]["count"], settings["shard_size"]
    numbers = range(-(-total // size))
    stems = [out / "parts" / f"part-{n:05d}" for n in numbers]
    missing = [s.name for s in stems if not s.with_suffix(".done.json").is_file()]
    if missing:
        some = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{len(missing)} of {len(stems)} shards of {out} are not finished: {some}. "
            "Run the ranks they belong to again, then merge"
        )
    counts = Counter(rows=0, ok=0, error=0, skipped=0)
    reasons: Counter = Counter()
    keys = hashlib.sha256()
    with records.atomic_file(out / name) as merged:
        for stem in stems:
            path, mark = stem.with_suffix(".jsonl"), stem.with_suffix(".done.json")
            data = path.read_bytes() if path.is_file() else b""
            said = json.loads(mark.read_text())["sha256"]
            if hashlib.sha256(data).hexdigest() != said:
                raise ValueError(
                    f"{path} is not what its mark {mark.name} says it was: it was "
                    "changed or damaged. Delete both and run again"
                )
            for line in io.BytesIO(data):
                row = json.loads(line)
                keys.update(row["key"].encode("utf-8", "surrogatepass") + b"\n")
                counts[row["status"]] += 1
                counts["rows"] += 1
                if row["error"]:
                    reasons[f"{row['status']}: {row['error'].split(':')[0]}"] += 1
            merged.write(data.decode())
        if keys.hexdigest() != settings["images"]["sha256"]:
            raise ValueError(f"the shards of {out} do not hold its run.json's keys")
    return dict(counts), reasons
