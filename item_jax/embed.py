"""Towers over the mesh: views and unique texts in, embeddings out.

The one place where the costly part of ITEM runs, for a whole benchmark into a cache
(`embed_records`) and for a few images in memory (`embed_items`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from item_jax import neutralise, perturb, pipeline
from item_jax.cache import STORAGE, EmbeddingCache, Embeddings
from item_jax.config import nearest
from item_jax.progress import progress
from item_jax.records import digest
from item_jax.sharding import leads
from item_jax.towers.load import Towers
from item_jax.views import CROPS, GEOMETRIES

ON_ERROR = ("report", "stop")


def embedding_settings(towers: Towers, config: ConfigDict) -> dict[str, Any]:
    """Returns what an embedding depends on besides its image, caption and objects.

    A cache is refused when one of these differs, and a head remembers them.
    """
    return {
        "checkpoint_sha256": towers.checkpoint_sha256,
        "dtype": towers.dtype,
        "image_size": towers.image_size,
        "geometry": config.views.geometry,
        "object_crop": config.views.object_crop,
        "score_threshold": config.data.score_threshold,
        "max_objects": config.data.max_objects,
        "min_object_pixels": config.data.min_object_pixels,
        "neutralise_quality": config.neutralise.quality,
        "neutralise_size": config.neutralise.size,
        "perturbation": f"{config.perturb.name}:{config.perturb.severity}",
    }


def embed_items(
    items: Iterable[pipeline.Item], towers: Towers, config: ConfigDict
) -> tuple[Embeddings, list[dict[str, Any]]]:
    """Embeds the views and texts of items.

    Args:
      items: from `pipeline.stream`; consumed as the towers proceed.
      towers: the CLIP model.
      config: `embed`.

    Returns:
      The embeddings of the items without an error, float32, and one row for every
      item in order, `status` "done" or "failed".

    Raises:
      RuntimeError: at the first failure, when `config.embed.on_error` is "stop".
    """
    kept: list[pipeline.Item] = []
    rows: list[dict[str, Any]] = []

    def views():
        for item in items:
            rows.append(_row(item))
            if item.error is None:
                kept.append(item)
                yield item.views
            elif config.embed.on_error == "stop":
                raise RuntimeError(f"{item.record.key}: {item.error}")

    encoder = towers.image_encoder(
        batch_size=config.embed.batch_size, mode=config.embed.mode
    )
    nothing = np.zeros((0, towers.embed_dim), np.float32)
    packed = pipeline.pack(views(), encoder.batch_size)
    view_emb = np.concatenate([nothing, *encoder.stream(packed)])

    captions = [item.record.caption for item in kept]
    phrases = [o.phrase for item in kept for o in item.objects]
    text_emb = towers.encode_text(
        captions + phrases,
        batch_size=config.embed.text_batch_size,
        mode=config.embed.mode,
    )
    _, cut = towers.tokenize(captions) if captions else ([], [])
    done = [row for row in rows if row["status"] == "done"]
    for row, truncated in zip(done, cut):
        row["caption_truncated"] = bool(truncated)

    counts = np.array([len(item.objects) for item in kept], np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    first = offsets[:-1] + np.arange(len(kept))  # a global view leads its objects
    is_global = np.zeros(len(view_emb), bool)
    is_global[first] = True
    embeddings = Embeddings(
        rows=done,
        image_emb=view_emb[is_global],
        text_emb=text_emb[: len(captions)],
        object_emb=view_emb[~is_global],
        phrase_emb=text_emb[len(captions) :],
        object_offsets=offsets,
    )
    return embeddings, rows


def _row(item: pipeline.Item) -> dict[str, Any]:
    record = item.record
    return {
        "key": record.key,
        "label": record.label,
        "benchmark": record.benchmark,
        "generator": record.generator,
        "split": record.split,
        "status": "done" if item.error is None else "failed",
        "error": item.error,
        "caption": record.caption,
        "objects": [
            {"phrase": o.phrase, "box": list(o.box), "score": o.score}
            for o in item.objects
        ],
    }


def embed_records(
    records: pipeline.Source,
    towers: Towers,
    config: ConfigDict,
    *,
    images: str | Path | None,
    folder: str | Path,
    sidecars: dict[str, Any] | None = None,
    pairs: dict[str, str] | None = None,
    retry_failed: bool = False,
) -> EmbeddingCache:
    """Embeds records into a cache; begun work goes on where it stopped.

    Args:
      records: all images, in a fixed order; or a `datasets.tfds.Pack`, which holds
        them with their files.
      towers: the CLIP model.
      config: see `item_jax.config`.
      images: the folder the keys are relative to; None with a pack.
      folder: of the cache.
      sidecars: what is known of captioner and grounder, part of the fingerprint.
      pairs: generator -> source of the real images it is tested against, where it has
        none of its own; see `item_jax.protocol`.
      retry_failed: make the shards again that hold images which failed, for files
        that have been mended or could not be reached for a while. What a sidecar
        failed on is part of the records and stays as it is.

    Returns:
      The finished cache. In a multi-process run each process embeds every
      `process_count`-th shard on its own devices and the cache may lack those of
      processes that are still at work.

    Raises:
      ValueError: when `folder` holds a cache made with other settings (naming them).
    """
    _check_settings(config)
    if images is not None and not Path(images).is_dir():
        raise ValueError(f"no folder of images {str(images)!r}")
    size = config.embed.shard_size
    cache = EmbeddingCache.create(
        folder,
        {
            "fingerprint": embedding_settings(towers, config)
            | {
                "records_sha256": digest(records),
                "shard_size": size,
                "storage": config.embed.storage,
            }
            | (sidecars or {}),
            "towers": towers.name,
            "embed_dim": towers.embed_dim,
            "records": len(records),
            "shards": -(-len(records) // size),
            "pairs": pairs or {},
        },
    )
    share = slice(jax.process_index(), None, jax.process_count())
    mine = range(cache.manifest["shards"])[share]
    if retry_failed:
        cache.forget_failed(mine)
    missing = set(cache.missing)
    pending = [i for i in mine if i in missing]
    shards = [range(len(records))[i * size : (i + 1) * size] for i in pending]
    order = np.concatenate([np.arange(r.start, r.stop) for r in shards] or [[]])
    items = pipeline.stream(
        records,
        root=images,
        config=config,
        image_size=towers.image_size,
        order=order,
    )
    failed = 0
    with progress("embed", len(order), "img", show=leads()) as bar:
        for i, numbers in zip(pending, shards):
            shard = _counted(itertools.islice(items, len(numbers)), bar)
            embeddings, rows = embed_items(shard, towers, config)
            failed += len(rows) - len(embeddings)
            cache.write(i, embeddings, rows)
            if failed:
                bar.set_postfix(failed=failed)
    return cache


def _check_settings(config: ConfigDict) -> None:
    """Refuses wrong settings before a manifest is written with them."""
    for name, value, allowed in (
        ("embed.storage", config.embed.storage, STORAGE),
        ("embed.on_error", config.embed.on_error, ON_ERROR),
        ("views.geometry", config.views.geometry, GEOMETRIES),
        ("views.object_crop", config.views.object_crop, CROPS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; {nearest(value, allowed)}")
    perturb.label(config.perturb.name, config.perturb.severity)
    neutralise.check(quality=config.neutralise.quality, size=config.neutralise.size)


def _counted(items, bar):
    for item in items:
        yield item
        bar.update()
