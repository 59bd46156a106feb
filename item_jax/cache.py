"""The embedding cache: computed once by the towers, read by everything after them.

    embeddings/
      manifest.json            what it was made with, and how many shards belong to it
      shard-00012.safetensors  image_emb, text_emb [n, D]; object_emb, phrase_emb
                               [m, D]; object_offsets [n + 1]; outputs of the image
                               tower that were asked for, float16 [n, ...]
      shard-00012.jsonl        one row per record, failed ones included

Embeddings are un-normalised. Row i of the arrays belongs to the i-th row of the
`.jsonl` whose status is "done". A shard counts once its `.safetensors` has its name,
which it gets last, by rename: whole or not at all. It carries its number, the settings
and the digest of the records that it was made with, and the checksums of its arrays and
rows (`item_jax.shards`): which cache it belongs to is known by its content.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import files, settings, shards
from item_jax.embeddings import Embeddings, Row

SCHEMA = "item-embeddings/3"


class EmbeddingCache:
    """A folder of embedded shards.

    Attributes:
      folder: where it is.
      manifest: `{schema, embedding, records, records_sha256, shard_size, storage,
        shards, real_sources}`; `embedding` as `item_jax.settings` describes it.
      made: shards that `embed_records` made in this process, by number: why the one
        that was there could not stay (damage, changed images), or None.
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
        self.made: dict[int, str | None] = {}
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

        Shards that are there without a manifest are taken if they were made with these
        settings, of these records.

        Raises:
          ValueError: if the folder holds a cache, or whole shards, made with other
            settings or of other records (naming each field that differs).
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
        wanted = shards.origin(json.loads(json.dumps(manifest)))
        remedy = (
            "Give this one a name (--cache NAME), use another --workdir, or delete "
            "that folder"
        )
        begun = cls(folder) if path.is_file() else None
        if begun is not None:
            differing = shards.differences(begun.made_with, wanted)
            if differing:
                raise ValueError(
                    f"the embeddings in {folder} were made with other settings: "
                    f"{'; '.join(differing)}. {remedy}"
                )
        names, others = _numbers(Path(folder)), []
        for shard in names:
            try:
                shards.check(_path(Path(folder), shard), shard, made_with=wanted)
            except shards.OtherShard as e:
                others.append(e)
            except (shards.DamagedShard, FileNotFoundError):
                pass  # `embed_records` makes it again, and says so
        if others:
            raise ValueError(
                f"{len(others)} of {len(names)} shards in {folder} were made with "
                f"other settings, {others[0].name} with: "
                f"{'; '.join(others[0].differing)}. {remedy}"
            )
        if begun is None or begun.real_sources != real_sources:
            files.write_json(path, manifest)  # no embedding depends on the sources
            return cls(folder)
        return begun

    def path(self, shard: int, suffix: str = ".safetensors") -> Path:
        """Returns the file of a shard."""
        return _path(self.folder, shard, suffix)

    @property
    def made_with(self) -> shards.Origin:
        """What every shard of this cache is made with; see `shards.origin`."""
        return shards.origin(self.manifest)

    @property
    def present(self) -> set[int]:
        """The numbers of the shards that are there, by their headers.

        A shard that is cut, empty, or of another cache is not there; bytes that changed
        inside one are found when it is read.
        """
        made_with, found = self.made_with, set()
        for shard in range(self.manifest["shards"]):
            try:
                shards.check(self.path(shard), shard, made_with=made_with)
            except (shards.DamagedShard, shards.OtherShard, FileNotFoundError):
                continue
            found.add(shard)
        return found

    @property
    def finished(self) -> bool:
        """Whether every shard is there, as `present` says."""
        return len(self.present) == self.manifest["shards"]

    @property
    def extra(self) -> list[Path]:
        """Files of shards beyond the last one. Nothing reads them."""
        total = self.manifest["shards"]
        return [self.path(n) for n in _numbers(self.folder) if n >= total]

    def faults(self, numbers: Iterable[int]) -> dict[int, str | None]:
        """Reads shards and says which have to be made.

        Args:
          numbers: of the shards.

        Returns:
          By number, in order: why a shard is damaged, or None where it is missing.
          Whole ones are left out.

        Raises:
          OtherShard: for one that was made with other settings.
        """
        found: dict[int, str | None] = {}
        for shard in numbers:
            try:
                self.read(shard)
            except FileNotFoundError:
                found[shard] = None
            except shards.DamagedShard as e:
                found[shard] = e.why
        return found

    def write(self, shard: int, embeddings: Embeddings, rows: list[Row]) -> None:
        """Writes a shard: `rows` of all its records, arrays of those that are done.

        Raises:
          ValueError: if a number is not finite, naming array and key.
          OSError: naming the file, if it cannot be written.
        """
        path, made_with = self.path(shard), self.made_with
        shards.write(path, shard, embeddings, rows, made_with=made_with)

    def read(self, shard: int) -> tuple[Embeddings, list[Row]]:
        """Returns the embeddings of a shard and the rows of its failed records.

        Raises:
          FileNotFoundError: if it is not there.
          DamagedShard: if it is damaged, or not the one that its name says; a
            `ValueError`, with the remedy.
          OtherShard: if it was made with other settings than the manifest has; a
            `ValueError` too.
        """
        embeddings, failed = shards.read(
            self.path(shard),
            shard,
            count=self.count(shard),
            made_with=self.made_with,
        )
        return dataclasses.replace(embeddings, images=self.images), failed

    def rows(self, shard: int) -> list[Row]:
        """Returns the rows of a shard, failed ones included, without its arrays.

        Raises:
          ValueError: as `read`; bytes that changed inside its arrays are not noticed.
        """
        return shards.read_rows(
            self.path(shard),
            shard,
            count=self.count(shard),
            made_with=self.made_with,
        )

    def count(self, shard: int) -> int:
        """Returns how many records a shard holds."""
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
        """Refuses a cache with missing or damaged shards, by their headers.

        Raises:
          ValueError: if some are missing, or the first that is damaged or of other
            settings.
        """
        total, made_with = self.manifest["shards"], self.made_with
        missing, wrong = 0, []
        for shard in range(total):
            try:
                shards.check(self.path(shard), shard, made_with=made_with)
            except FileNotFoundError:
                missing += 1
            except (shards.DamagedShard, shards.OtherShard) as e:
                wrong.append(e)
        if missing:
            raise ValueError(
                f"{self.folder} is incomplete: {missing} of {total} shards are "
                "missing; run `item-jax embed` again"
            )
        if wrong:
            raise wrong[0]

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


def _path(folder: Path, shard: int, suffix: str = ".safetensors") -> Path:
    return folder / f"shard-{shard:05d}{suffix}"


def _numbers(folder: Path) -> list[int]:
    """The numbers of shards that files in a folder are named after, ascending."""
    if not folder.is_dir():
        return []
    found = set()
    for path in folder.iterdir():
        match = re.fullmatch(r"shard-(\d+)\.safetensors", path.name)
        if match and path.name == _path(folder, int(match[1])).name:
            found.add(int(match[1]))
    return sorted(found)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        raw = files.read_json(path)
        if raw.get("schema") == SCHEMA:
            _check_manifest(raw, path)
    except ValueError as e:
        raise ValueError(
            f"{e}. Delete {path} and run `item-jax embed` again, with the same options "
            "as before: whole shards stay"
        ) from e
    schema = raw.get("schema")
    if schema != SCHEMA:
        raise ValueError(
            f"{path} is of schema {schema!r}; this version reads {SCHEMA!r}. Delete "
            f"{path.parent} and run `item-jax embed` again"
        )
    return raw


def _check_manifest(raw: Mapping[str, Any], path: Path) -> None:
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
