"""The embedding cache: computed once by the towers, read by everything after them.

    embeddings/
      manifest.json            what it was made with, and how many shards belong to it
      shard-00012.safetensors  image_emb, text_emb [n, D]; object_emb, phrase_emb
                               [m, D]; object_offsets [n + 1]; outputs of the image
                               tower that were asked for, float16 [n, ...]
      shard-00012.jsonl        one row per record, failed ones included

Embeddings are un-normalised. Row i of the arrays belongs to the i-th row of the
`.jsonl` whose status is "done". A shard counts once its `.safetensors` has its name,
which it gets last, by rename: whole or not at all. It carries its number and the
checksums of its arrays and rows (`item_jax.shards`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import files, settings, shards
from item_jax.embeddings import Embeddings, Row

SCHEMA = "item-embeddings/2"
SCHEMA_0_1 = "item-embeddings/1"  # of version 0.1: read, never continued


class EmbeddingCache:
    """A folder of embedded shards.

    Attributes:
      folder: where it is.
      manifest: `{schema, embedding, records, records_sha256, shard_size, storage,
        shards, real_sources}`; `embedding` as `item_jax.settings` describes it.
      images: key -> the image, for methods that read pixels; None until it is set, to
        an `item_jax.pixels.Pictures`.
    """

    images: Callable[[str], np.ndarray] | None = None

    def __init__(self, folder: str | Path):
        """Opens a cache.

        Raises:
          ValueError: if there is none, or its manifest is damaged or of another schema.
        """
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        if not path.is_file():
            raise ValueError(
                f"no embedding cache in {folder}: {path} is missing. `item-jax embed` "
                "makes one"
            )
        self.manifest = _read_manifest(path)

    @property
    def embedding(self) -> settings.Embedding:
        """What the embeddings depend on; see `item_jax.settings`."""
        return self.manifest["embedding"]

    @property
    def embed_dim(self) -> int:
        """D, the width of the joint space."""
        return self.embedding["tower"]["embed_dim"]

    @property
    def real_sources(self) -> dict[str, str]:
        """generator -> generator whose real images it is tested against."""
        return self.manifest["real_sources"]

    @classmethod
    def create(
        cls,
        folder: str | Path,
        embedding: settings.Embedding,
        *,
        records: int,
        records_sha256: str,
        shard_size: int,
        storage: str,
        real_sources: dict[str, str],
    ) -> EmbeddingCache:
        """Makes a cache, or opens the one that was begun with the same settings.

        Raises:
          ValueError: if the folder holds a cache made with other settings (naming each
            that differs) or begun by version 0.1.
        """
        path = Path(folder) / "manifest.json"
        manifest = {
            "schema": SCHEMA,
            "embedding": embedding,
            "records": records,
            "records_sha256": records_sha256,
            "shard_size": shard_size,
            "storage": storage,
            "shards": -(-records // shard_size),
            "real_sources": real_sources,
        }
        if not path.is_file():
            files.write_json(path, manifest)
            return cls(folder)
        cache = cls(folder)
        differing = settings.differences(cache.embedding, embedding)
        differing += [
            f"{name} was {cache.manifest[name]!r} and is {manifest[name]!r}"
            for name in ("records_sha256", "shard_size", "storage")
            if cache.manifest[name] != manifest[name]
        ]
        if differing:
            raise ValueError(
                f"the embeddings in {folder} were made with other settings: "
                f"{'; '.join(differing)}. Give this one a name (--cache NAME), use "
                "another --workdir, or delete that folder"
            )
        if cache.manifest["schema"] != SCHEMA:
            if cache.finished:
                return cache
            raise ValueError(
                f"the embeddings in {folder} were begun by version 0.1 of item_jax and "
                "cannot be continued; delete that folder and embed again"
            )
        if cache.real_sources != real_sources:  # on which no embedding depends
            files.write_json(path, manifest)
            cache.manifest = manifest
        return cache

    def path(self, shard: int, suffix: str = ".safetensors") -> Path:
        """Returns the file of a shard."""
        return self.folder / f"shard-{shard:05d}{suffix}"

    @property
    def present(self) -> set[int]:
        """The numbers of the shards that are there."""
        names = (
            re.fullmatch(r"shard-(\d+)\.safetensors", p.name)
            for p in self.folder.iterdir()
        )
        return {int(m[1]) for m in names if m}

    @property
    def finished(self) -> bool:
        """Whether every shard is there."""
        return len(self.present) >= self.manifest["shards"]

    def write(self, shard: int, embeddings: Embeddings, rows: list[Row]) -> None:
        """Writes a shard: `rows` of all its records, arrays of those that are done.

        Raises:
          ValueError: if a number is not finite, naming array and key.
        """
        storage = self.manifest["storage"]
        shards.write(self.path(shard), shard, embeddings, rows, storage=storage)

    def read(self, shard: int) -> tuple[Embeddings, list[Row]]:
        """Returns the embeddings of a shard and the rows of its failed records.

        Raises:
          ValueError: if the shard is damaged, or not the one that its name and the
            manifest say, with the remedy.
        """
        embeddings, failed = shards.read(
            self.path(shard),
            shard,
            count=self._count(shard),
            embed_dim=self.embed_dim,
            storage=self.manifest["storage"],
            outputs=self.embedding.get("outputs", {}),
            marked=self.manifest["schema"] == SCHEMA,
        )
        return dataclasses.replace(embeddings, images=self.images), failed

    def rows(self, shard: int) -> list[Row]:
        """Returns the rows of a shard, failed ones included, without its arrays."""
        return shards.read_rows(self.path(shard, ".jsonl"), self._count(shard))

    def _count(self, shard: int) -> int:
        size = self.manifest["shard_size"]
        return min(size, self.manifest["records"] - shard * size)

    def __iter__(self) -> Iterator[tuple[Embeddings, list[Row]]]:
        """Yields every shard in order, as `read` returns it.

        Raises:
          ValueError: if shards are missing: half a cache never reads as whole.
        """
        self.check_finished()
        for shard in range(self.manifest["shards"]):
            yield self.read(shard)

    def check_finished(self) -> None:
        """Refuses a cache with missing shards.

        Raises:
          ValueError: if some are.
        """
        total, found = self.manifest["shards"], self.present
        missing = total - sum(i < total for i in found)
        if missing:
            raise ValueError(
                f"{self.folder} is not finished: {missing} of {total} shards are "
                "missing; run embed again"
            )

    def selects(self, row: Row, *, split: str = "", generators: Sequence = ()) -> bool:
        """Whether a row is of a split and of some generators.

        Args:
          row: of the cache.
          split: "" takes all.
          generators: empty takes all; the real images a generator is tested against
            belong to it, whatever their own generator.
        """
        if split and row["split"] != split:
            return False
        if not generators or row["generator"] in generators:
            return True
        sources = {self.real_sources.get(g) for g in generators}
        return row["label"] == "real" and row["generator"] in sources

    def select(
        self, *, split: str = "", generators: Iterable[str] = ()
    ) -> Iterator[Embeddings]:
        """Yields the done rows that `selects` accepts, shard by shard."""
        wanted = tuple(generators)
        for embeddings, _ in self:
            chosen = embeddings.where(
                lambda row: self.selects(row, split=split, generators=wanted)
            )
            if len(chosen):
                yield chosen

    def forget_failed(self, shards: Iterable[int]) -> None:
        """Deletes the shards in which an image could not be read, to be made again.

        Args:
          shards: the numbers to look at; missing ones are skipped.
        """
        for shard in set(shards) & self.present:
            if any(row.get("stage") == "image" for row in self.rows(shard)):
                self.path(shard).unlink()

    def summary(self) -> tuple[dict[str, int], list[Row]]:
        """Counts the rows; arrays are not read.

        Returns:
          `{"in", "done", "failed"}`, of which `in` is the sum of the other two, and the
          failed rows, each with its `error`.
        """
        self.check_finished()
        done, failures = 0, []
        for shard in range(self.manifest["shards"]):
            rows = self.rows(shard)
            failed = [row for row in rows if row["status"] != "done"]
            done += len(rows) - len(failed)
            failures += failed
        counts = {
            "in": done + len(failures),
            "done": done,
            "failed": len(failures),
        }
        return counts, failures

    def counts(self) -> dict[str, int]:
        """Returns the counts of `summary`."""
        return self.summary()[0]


def _read_manifest(path: Path) -> dict[str, Any]:
    raw = files.read_json(path)
    schema = raw.get("schema")
    if schema == SCHEMA_0_1:
        raw = _upgrade(raw, path)
    elif schema != SCHEMA:
        raise ValueError(
            f"{path} is of schema {schema!r}; this version reads {SCHEMA!r} and "
            f"{SCHEMA_0_1!r}"
        )
    settings.check(raw, path)
    for name in ("records", "shard_size", "shards"):
        files.field(raw, name, int, path)
    files.field(raw, "records_sha256", str, path)
    storage = files.field(raw, "storage", str, path)
    if storage not in shards.STORAGE:
        raise ValueError(
            f"{path}: storage is {storage!r}; allowed: {list(shards.STORAGE)}"
        )
    sources = files.field(raw, "real_sources", dict, path)
    if not all(isinstance(v, str) for v in sources.values()):
        raise ValueError(f"{path}: 'real_sources' does not map names to names")
    size, records = raw["shard_size"], raw["records"]
    if size < 1 or records < 0 or raw["shards"] != -(-records // size):
        raise ValueError(
            f"{path}: {records} records in shards of {size} are not {raw['shards']} "
            "shards"
        )
    return raw


def _upgrade(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Brings the manifest of version 0.1 into today's form."""
    old = files.field(raw, "fingerprint", dict, path)
    try:
        embedding = settings.upgrade(
            old, tower=raw["towers"], embed_dim=raw["embed_dim"]
        )
        names = ("records_sha256", "shard_size", "storage")
        moved = {name: old[name] for name in names}
        kept = {name: raw[name] for name in ("schema", "records", "shards")}
    except (KeyError, AttributeError, TypeError, ValueError) as e:
        raise ValueError(f"{path}: {type(e).__name__}: {e}") from e
    sources = {"real_sources": raw.get("pairs", {})}
    return kept | {"embedding": embedding} | moved | sources
