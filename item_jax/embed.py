"""Towers over the mesh: views and unique texts in, embeddings out.

The one place where the costly part of ITEM runs, for a whole benchmark into a cache
(`embed_records`) and for a few images in memory (`embed_images`).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from item_jax import config as config_lib
from item_jax import perturb, pipeline, settings
from item_jax.cache import EmbeddingCache
from item_jax.datasets import dataset as datasets
from item_jax.datasets.dataset import Dataset, RecordList
from item_jax.embeddings import OUTPUTS, Embeddings, Row, check_finite
from item_jax.images import ImageError, file_of
from item_jax.pipeline import ImageViews
from item_jax.progress import progress
from item_jax.records import Record
from item_jax.sharding import is_main_process
from item_jax.towers.outputs import EMBEDDING, split


def embed_images(
    images: Iterable[ImageViews], towers: Any, config: ConfigDict
) -> tuple[Embeddings, list[Row]]:
    """Embeds the views and texts of images.

    Args:
      images: from `pipeline.stream`; consumed as the towers proceed.
      towers: the CLIP model, see `item_jax/towers/README.md`.
      config: `embed`.

    Returns:
      The embeddings of the images without an error, float32 (`outputs` float16), and
      one row for every image in order, `status` "done" or "failed".

    Raises:
      RuntimeError: at the first failure, when `config.embed.on_error` is "stop".
      ValueError: for an embedding that is not finite, naming the image; for an output
        that the towers do not have.
    """
    c = config.embed
    rows: list[Row] = []  # filled while the views go by
    whole: list[bool] = []  # which views are of a whole image
    views = _views(images, rows, whole, stop=c.on_error == "stop")
    view_emb, outputs = _encoded(views, whole, towers, config)

    done = [row for row in rows if row["status"] == "done"]
    captions = [row["caption"] for row in done]
    phrases = [entry["phrase"] for row in done for entry in row["objects"]]
    text_emb, truncated = towers.embed_text(
        captions + phrases, batch_size=c.text_batch_size, mode=c.mode
    )
    for row, cut in zip(done, truncated):
        row["caption_truncated"] = bool(cut)

    counts = np.array([len(row["objects"]) for row in done], np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    is_whole = np.array(whole, bool)
    embeddings = Embeddings(
        rows=done,
        image_emb=view_emb[is_whole],
        text_emb=text_emb[: len(done)],
        object_emb=view_emb[~is_whole],
        phrase_emb=text_emb[len(done) :],
        object_offsets=offsets,
        outputs=outputs,
    )
    check_finite(embeddings, f"towers {towers.name} in {towers.dtype}")
    return embeddings, rows


def _encoded(
    views: Iterator[np.ndarray], whole: list[bool], towers: Any, config: ConfigDict
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Embeds the views of images.

    Args:
      views: uint8 `[K, S, S, 3]` of each image.
      whole: is true at a view of a whole image once that view was taken.
      towers: the CLIP model.
      config: `embed`.

    Returns:
      float32 `[N, D]` of all views, and of the whole images the outputs of
      `embed.outputs`, float16 by name.
    """
    c = config.embed
    names = [name for name in OUTPUTS if name in c.outputs]
    if not names:
        encoder = towers.image_encoder(batch_size=c.batch_size, mode=c.mode)
        results = encoder.stream(pipeline.pack(views, encoder.batch_size))
        nothing = np.zeros((0, towers.embed_dim), np.float32)
        return np.concatenate([nothing, *results]), {}
    shapes = towers.output_shapes((EMBEDDING, *names))
    encoder = towers.image_encoder(
        batch_size=c.batch_size, mode=c.mode, outputs=tuple(shapes)
    )
    found = {
        name: [np.zeros((0, *shape), np.float32 if name == EMBEDDING else np.float16)]
        for name, shape in shapes.items()
    }
    seen = 0
    for rows in encoder.stream(pipeline.pack(views, encoder.batch_size)):
        kept = np.array(whole[seen : seen + len(rows)], bool)
        seen += len(rows)
        for name, value in split(rows, shapes, tuple(shapes)).items():
            # Of an object only the embedding is kept; a whole shard of the others in
            # float32 would be gigabytes.
            own = value if name == EMBEDDING else half(value[kept])
            found[name].append(own)
    arrays = {name: np.concatenate(parts) for name, parts in found.items()}
    return arrays.pop(EMBEDDING), arrays


def half(values: np.ndarray) -> np.ndarray:
    """Returns values in float16, as outputs are kept; too large ones are infinite."""
    with np.errstate(over="ignore"):  # `check_finite` names the image
        return values.astype(np.float16)


def _views(
    images: Iterable[ImageViews],
    rows: list[Row],
    whole: list[bool],
    *,
    stop: bool,
) -> Iterator[np.ndarray]:
    """Yields the views of each image that has some.

    It appends a row for every image to `rows`, and for every view to `whole` whether it
    is of the whole image.
    """
    for image in images:
        rows.append(_row(image))
        if image.error is None:
            whole += [True] + [False] * (len(image.views) - 1)
            yield image.views
        elif stop:
            raise RuntimeError(f"{image.record.key}: {image.error}")


def _row(image: ImageViews) -> Row:
    record = image.record
    row: Row = {
        "key": record.key,
        "label": record.label,
        "benchmark": record.benchmark,
        "generator": record.generator,
        "split": record.split,
        "status": "done" if image.error is None else "failed",
        "error": image.error,
        "caption": record.caption,
        "objects": [
            {"phrase": o.phrase, "box": list(o.box), "score": o.score}
            for o in image.objects
        ],
    }
    if image.error is not None:  # it begins with the stage that failed
        row["stage"] = image.error.partition(":")[0]
    if image.file is not None:
        row["file"] = image.file
    return row


def embed_records(
    data: Dataset | Sequence[Record],
    towers: Any,
    config: ConfigDict,
    *,
    folder: str | Path,
    images: str | Path | None = None,
    facts: dict[str, Any] | None = None,
    retry_failed: bool = False,
) -> EmbeddingCache:
    """Embeds a data set into a cache; begun work goes on where it stopped.

    Every shard that is there is read and compared with its checksums: a damaged one is
    made again, and so is one of whose image files some have changed since.

    Args:
      data: all images, in a fixed order; or a list of records, with `images`.
      towers: the CLIP model.
      config: see `item_jax.config`.
      folder: of the cache.
      images: the folder that the keys of a list of records are relative to.
      facts: instead of the data set's: `captioner`, `grounder`, `real_sources`.
      retry_failed: make the shards again in which an image could not be read, for
        files that have been mended or were out of reach for a while. What a sidecar
        failed on is part of the records and stays as it is.

    Returns:
      The finished cache; its `made` says which shards were made now, and why those that
      were there had to be. In a multi-process run each process embeds every
      `process_count`-th shard on its own devices and the cache may lack those of
      processes that are still at work.

    Raises:
      ValueError: for wrong settings; captions of other pixels than are embedded; or a
        `folder` that holds a cache, or shards, made with other settings or of other
        records (naming each field that differs).
    """
    config_lib.check(config, (*settings.SECTIONS, "dtype", "embed"))
    perturb.label(config.perturb.name, config.perturb.severity)
    if not isinstance(data, Dataset):
        data = RecordList(data, images)
    elif images is not None:
        raise ValueError("images= goes with a list of records; a data set has its own")
    root = getattr(data, "image_root", None)
    if root is not None and not Path(root).is_dir():
        raise ValueError(f"no folder of images {str(root)!r}")
    known = datasets.facts(data) if facts is None else facts
    check_perturbation(known, config)
    size = config.embed.shard_size
    cache = EmbeddingCache.create(
        folder,
        settings.embedding(towers, config, known),
        records=len(data),
        records_sha256=datasets.digest(data),
        shard_size=size,
        storage=config.embed.storage,
        real_sources=datasets.real_sources(data, known),
    )
    share = slice(jax.process_index(), None, jax.process_count())
    mine = range(cache.manifest["shards"])[share]
    cache.made = cache.faults(mine)
    for i in mine:
        if i not in cache.made:
            rows = cache.rows(i)
            changed = _changed(data, cache, i, rows, threads=config.embed.threads)
            if changed or (retry_failed and _unread(rows)):
                cache.made[i] = changed
    pending = sorted(cache.made)
    shards = [range(len(data))[i * size : (i + 1) * size] for i in pending]
    order = [number for numbers in shards for number in numbers]
    stream = pipeline.stream(
        data, config=config, image_size=towers.image_size, order=order
    )
    failed = 0
    with progress("embed", len(order), "img", show=is_main_process()) as bar:
        for i, numbers in zip(pending, shards):
            shard = _counted(itertools.islice(stream, len(numbers)), bar)
            embeddings, rows = embed_images(shard, towers, config)
            failed += len(rows) - len(embeddings)
            cache.write(i, embeddings, rows)
            if failed:
                bar.set_postfix(failed=failed)
    return cache


def _changed(
    data: Dataset, cache: EmbeddingCache, shard: int, rows: list[Row], *, threads: int
) -> str | None:
    """Says how many images of a shard have changed since they were embedded.

    A file of another size has; one of another time is read and its digest compared.
    Data sets that are not image files are not looked at, nor are files that are gone.

    Args:
      data: the data set.
      cache: its cache.
      shard: the shard's number.
      rows: of the shard.
      threads: how many files are asked about at once.

    Returns:
      Why the shard has to be made again, or None.
    """
    root = getattr(data, "image_root", None)
    if root is None:
        return None
    first = shard * cache.manifest["shard_size"]

    def has_changed(i: int) -> bool:
        known = rows[i].get("file")
        if known is None:
            return False
        try:
            status = file_of(root, rows[i]["key"]).stat()
            if status.st_size != known["bytes"]:
                return True
            if status.st_mtime_ns == known.get("mtime_ns"):
                return False
            found = hashlib.sha256(data.read(first + i)).hexdigest()
        except (OSError, ImageError):
            return False
        return found != known["sha256"]

    with ThreadPoolExecutor(threads) as pool:
        changed = np.flatnonzero(list(pool.map(has_changed, range(len(rows)))))
    if not len(changed):
        return None
    key = rows[changed[0]]["key"]
    return f"{len(changed)} of {len(rows)} image files changed, such as {key!r}"


def _unread(rows: Iterable[Row]) -> bool:
    """Whether an image of a shard could not be read."""
    return any(row.get("stage") == "image" for row in rows)


def check_perturbation(facts: dict[str, Any], config: ConfigDict) -> list[str]:
    """Makes sure that perturbed captions and boxes meet pixels perturbed alike.

    Captions of clean pixels may meet perturbed ones: that is ITEM's Fig. 4 with its
    captions kept, and the settings of the cache say so.

    Args:
      facts: of the data set: `captioner` and `grounder`.
      config: `perturb`.

    Returns:
      A notice for clean captions or boxes of perturbed pixels.

    Raises:
      ValueError: naming the two perturbations and the remedy.
    """
    pixels = perturb.label(config.perturb.name, config.perturb.severity)
    notices = []
    for role, what in (("captioner", "captions"), ("grounder", "boxes")):
        made = (facts.get(role) or {}).get("perturbation", "none")
        if made in ("none", pixels):
            if made != pixels:
                notices.append(f"{what} of clean pixels, images perturbed by {pixels}")
            continue
        name, _, severity = made.rpartition(":")
        raise ValueError(
            f"the {what} were made of pixels perturbed by {made}, these are perturbed "
            f"by {pixels}: set --config.perturb.name={name} "
            f"--config.perturb.severity={severity}, or take {what} of the same pixels"
        )
    return notices


def geometry_notice(towers: Any, config: ConfigDict) -> list[str]:
    """Says where whole images are resized in another way than in the towers' training.

    ITEM's own geometry, a plain centre crop, resizes nothing and is never noted.

    Args:
      towers: the CLIP model; its `geometry` may be unknown.
      config: `views`.
    """
    theirs, ours = getattr(towers, "geometry", ""), config.views.geometry
    if ours in ("item", theirs) or not theirs:
        return []
    return [
        f"images are resized by {ours!r}, the towers were trained with {theirs!r} "
        f"(--config.views.geometry={theirs})"
    ]


def outputs_cost(shapes: Mapping[str, Sequence[int]], images: int) -> str:
    """Says what the outputs of the image tower cost on disk.

    Args:
      shapes: of the outputs, for one image, by name.
      images: how many there are.
    """
    named = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    each = 2 * sum(math.prod(shape) for shape in shapes.values())  # float16
    total, unit = float(each * images), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if total >= 1000:
            total, unit = total / 1000, larger
    return (
        f"outputs: {named}, {each:,} bytes an image, {total:.3g} {unit} for "
        f"{images:,} images"
    )


def _counted(images: Iterable[ImageViews], bar: Any) -> Iterator[ImageViews]:
    for image in images:
        yield image
        bar.update()
