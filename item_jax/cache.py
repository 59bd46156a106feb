"""The embedding cache: what the towers said, once, for every later question.

    embeddings/
      manifest.json            what it was made with, and how many shards belong to it
      shard-00012.safetensors  image_emb, text_emb [n, D]; object_emb, phrase_emb
                               [m, D]; object_offsets [n + 1]
      shard-00012.jsonl        one row per record, failed ones included

Embeddings are un-normalised. Row i of the arrays belongs to the i-th row of the
`.jsonl` whose status is "done". A shard counts once its `.safetensors` has its name,
which it gets last, by rename: whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from item_jax import misalignment, records

SCHEMA = "item-embeddings/1"
STORAGE = {"float32": np.float32, "float16": np.float16}


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Embeddings of n images with m objects, and the rows that say whose they are.

    Attributes:
      rows: n dictionaries `{key, label, benchmark, generator, split, caption, objects,
        ...}`.
      image_emb, text_emb: `[n, D]`.
      object_emb, phrase_emb: `[m, D]`.
      object_offsets: int64 `[n + 1]`.
    """

    rows: list[dict[str, Any]]
    image_emb: np.ndarray
    text_emb: np.ndarray
    object_emb: np.ndarray
    phrase_emb: np.ndarray
    object_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray:
        """int32 `[n]`: real 0, fake 1, unknown -1."""
        known = [records.LABELS.get(row["label"], -1) for row in self.rows]
        return np.array(known, np.int32)

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, as they stand in a shard."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "rows"]
        return {name: getattr(self, name) for name in names}

    def where(self, keep: Callable[[dict[str, Any]], bool]) -> Embeddings:
        """Returns the images whose row `keep` accepts, with their objects."""
        mask = np.array([keep(row) for row in self.rows], bool)
        if mask.all():
            return self
        counts = np.diff(self.object_offsets)
        objects = np.repeat(mask, counts)
        return Embeddings(
            [row for row, kept in zip(self.rows, mask) if kept],
            self.image_emb[mask],
            self.text_emb[mask],
            self.object_emb[objects],
            self.phrase_emb[objects],
            np.concatenate([[0], np.cumsum(counts[mask])]),
        )

    def misalignment(self, config: ConfigDict) -> np.ndarray:
        """Returns D of `config.misalignment` (ITEM Eq. 8), float32 `[n, D']`."""
        n, m = len(self), len(self.object_emb)
        # Rows are padded to powers of two, so that shards share compiled programs;
        # objects behind the last offset belong to nobody and are not counted.
        offsets = np.pad(self.object_offsets, (0, _padding(n)), mode="edge")
        pad = lambda x, count: np.pad(x, ((0, _padding(count)), (0, 0)))  # noqa: E731
        c = config.misalignment
        d = _compute(
            misalignment.get(c.name),
            pad(self.image_emb, n),
            pad(self.text_emb, n),
            pad(self.object_emb, m),
            pad(self.phrase_emb, m),
            offsets.astype(np.int32),
            c.w1,
            c.w2,
            no_objects=c.no_objects,
        )
        return np.asarray(d)[:n]


_compute = jax.jit(misalignment.compute, static_argnums=0, static_argnames="no_objects")


def _padding(count: int) -> int:
    return max(8, 1 << (count - 1).bit_length()) - count if count else 8


class EmbeddingCache:
    """A folder of embedded shards.

    Attributes:
      folder: where it is.
      manifest: `{schema, fingerprint, towers, embed_dim, records, shards, pairs}`.
    """

    def __init__(self, folder: str | Path):
        """Opens a cache.

        Raises:
          ValueError: when there is none, or its manifest is of another schema.
        """
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise ValueError(f"no embedding cache in {folder}: {path} is missing")
        self.manifest = json.loads(path.read_text(encoding="utf-8"))
        if self.manifest.get("schema") != SCHEMA:
            raise ValueError(
                f"{path} is of schema {self.manifest.get('schema')!r}; this version "
                f"reads {SCHEMA!r}"
            )

    @classmethod
    def create(cls, folder: str | Path, manifest: dict[str, Any]) -> EmbeddingCache:
        """Makes a cache, or opens the one that was begun with the same settings.

        Raises:
          ValueError: when the folder holds a cache made with other settings, naming
            each field that differs.
        """
        path = Path(folder) / "manifest.json"
        manifest = {"schema": SCHEMA} | manifest
        if not path.is_file():
            records.write_json(path, manifest)
            return cls(folder)
        cache = cls(folder)
        old, new = cache.manifest["fingerprint"], manifest["fingerprint"]
        differing = [
            f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        if differing:
            raise ValueError(
                f"the embeddings in {folder} were made with other settings: "
                f"{'; '.join(differing)}. Use another --workdir, or delete that folder"
            )
        if cache.manifest != manifest:  # the pairs, on which no embedding depends
            records.write_json(path, manifest)
            cache.manifest = manifest
        return cache

    def path(self, shard: int, suffix: str = ".safetensors") -> Path:
        """Returns the file of a shard."""
        return self.folder / f"shard-{shard:05d}{suffix}"

    @property
    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        shards = range(self.manifest["shards"])
        return [i for i in shards if not self.path(i).is_file()]

    def write(self, shard: int, embeddings: Embeddings, rows: list[dict]) -> None:
        """Writes a shard: `rows` of all its records, arrays of those that are done."""
        records.write_json_lines(self.path(shard, ".jsonl"), rows)
        storage = STORAGE[self.manifest["fingerprint"]["storage"]]
        arrays = {
            name: np.ascontiguousarray(
                value if name == "object_offsets" else value.astype(storage)
            )
            for name, value in embeddings.arrays().items()
        }
        path = self.path(shard)
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
        with open(partial, "wb") as f:
            f.write(save(arrays))
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)

    def read(self, shard: int) -> tuple[Embeddings, list[dict]]:
        """Returns the embeddings of a shard and the rows of its failed records.

        Raises:
          ValueError: when the shard is damaged, naming it and the remedy.
        """
        path = self.path(shard)
        remedy = f"delete {path} and run embed again"
        try:
            arrays = load_file(path)
            lines = records.read_json_lines(self.path(shard, ".jsonl"))
            rows = [row for _, row in lines]
        except (SafetensorError, OSError, ValueError) as e:
            raise ValueError(f"shard {path} is damaged ({e}); {remedy}") from e
        done = [row for row in rows if row["status"] == "done"]
        failed = [row for row in rows if row["status"] != "done"]
        if len(arrays["image_emb"]) != len(done):
            raise ValueError(
                f"shard {path} holds {len(arrays['image_emb'])} embeddings for "
                f"{len(done)} rows; {remedy}"
            )
        return Embeddings(rows=done, **arrays), failed

    def shards(self) -> Iterator[tuple[Embeddings, list[dict]]]:
        """Yields every shard in order, as `read` returns it.

        Raises:
          ValueError: when shards are missing: half a cache never reads as whole.
        """
        missing = self.missing
        if missing:
            raise ValueError(
                f"{self.folder} is not finished: {len(missing)} of "
                f"{self.manifest['shards']} shards are missing; run embed again"
            )
        for shard in range(self.manifest["shards"]):
            yield self.read(shard)

    def select(self, *, split: str = "", generators=()) -> Iterator[Embeddings]:
        """Yields the done rows of a split and of some generators, shard by shard.

        Args:
          split: "" takes all.
          generators: empty takes all; the real images a generator is tested against
            carry its name too, or that of their source in the manifest's `pairs`.
        """
        pairs = self.manifest.get("pairs", {})
        generators = set(generators) | {pairs.get(g, g) for g in generators}

        def keep(row):
            return (not split or row["split"] == split) and (
                not generators or row["generator"] in generators
            )

        for embeddings, _ in self.shards():
            chosen = embeddings.where(keep)
            if len(chosen):
                yield chosen

    def forget_failed(self, shards: Iterable[int]) -> None:
        """Deletes those of some shards in which an image failed, to be made again.

        Args:
          shards: their numbers; missing ones are passed over.
        """
        for shard in set(shards) - set(self.missing):
            _, failed = self.read(shard)
            if any(row["error"].startswith("image: ") for row in failed):
                self.path(shard).unlink()

    def counts(self) -> dict[str, int]:
        """Returns `{"in", "done", "failed"}`; `in` is the sum of the other two."""
        done = failed = 0
        for embeddings, failures in self.shards():
            done += len(embeddings)
            failed += len(failures)
        return {"in": done + failed, "done": done, "failed": failed}

    def failures(self) -> list[dict[str, Any]]:
        """Returns the rows of all failed records, each with its `error`."""
        return [row for _, failed in self.shards() for row in failed]
