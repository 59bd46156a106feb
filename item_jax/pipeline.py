"""Grain: records -> decoded, perturbed, cropped uint8 views -> full device batches.

Every record comes out exactly once and in order, as an `Item` that holds either its
views or the reason why it has none. An image is decoded once, however many objects
are cut from it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from item_jax import images, neutralise, perturb
from item_jax.records import Object, Record
from item_jax.views import global_view, object_view

Source: TypeAlias = Sequence[Record] | Sequence[tuple[Record, bytes]]


@dataclasses.dataclass(frozen=True)
class Item:
    """A record on its way to the towers.

    Attributes:
      record: where it comes from.
      views: uint8 `[1 + K, S, S, 3]`, the global view and then one per object kept;
        `[0, S, S, 3]` when `error` is set.
      objects: the K objects kept, best score first.
      error: why the record cannot be embedded, or None.
    """

    record: Record
    views: np.ndarray
    objects: tuple[Object, ...] = ()
    error: str | None = None


def load(
    record: Record | tuple[Record, bytes],
    *,
    root: str | Path | None,
    config: ConfigDict,
    image_size: int,
) -> Item:
    """Reads one image and cuts its views.

    The image is made neutral first, perturbed next, and cut last.

    Args:
      record: with a caption; without one the item is a failure. A pair holds the
        content of the image file too.
      root: the folder its key is relative to; not used for a pair.
      config: `data`, `views`, `neutralise` and `perturb` of `item_jax.config`.
      image_size: S, pixels.
    """
    record, data = record if isinstance(record, tuple) else (record, None)
    nothing = np.zeros((0, image_size, image_size, 3), np.uint8)
    if record.error is not None:
        return Item(record, nothing, error=f"sidecar: {record.error}")
    if not (record.caption or "").strip():
        return Item(record, nothing, error="caption: the record has none")
    try:
        if data is None:
            data = images.read_bytes(root, record.key)
        image = images.decode(data)
        height, width = image.shape[:2]
        image = neutralise.neutralise(
            image, quality=config.neutralise.quality, size=config.neutralise.size
        )
        if config.perturb.name != "none":
            image = perturb.perturb(
                image, config.perturb.name, config.perturb.severity, key=record.key
            )
    except images.ImageError as e:
        return Item(record, nothing, error=f"image: {record.key!r}: {e}")
    views = [global_view(image, image_size, geometry=config.views.geometry)]
    objects = []
    for candidate in best_objects(record, config):
        box = candidate.box
        if config.neutralise.size:
            box = neutralise.middle_box(box, height, width)
        view = None
        if box is not None:
            view = object_view(
                image,
                box,
                image_size,
                crop=config.views.object_crop,
                min_pixels=config.data.min_object_pixels,
            )
        if view is not None:
            views.append(view)
            objects.append(candidate)
    return Item(record, np.stack(views), tuple(objects))


def best_objects(record: Record, config: ConfigDict) -> list[Object]:
    """Returns the candidates the thresholds of `config.data` keep, best first."""
    kept = [o for o in record.objects if o.score >= config.data.score_threshold]
    kept.sort(key=lambda o: -o.score)  # stable: equal scores stay in caption order
    return kept[: config.data.max_objects]


def stream(
    records: Source,
    *,
    root: str | Path | None,
    config: ConfigDict,
    image_size: int,
    order: Sequence[int] | None = None,
) -> grain.DatasetIterator:
    """Yields one `Item` per record, in order, decoding ahead.

    Pillow frees the interpreter lock while it decodes, so threads are enough for most
    machines; `config.embed.workers` processes, with `config.embed.threads` threads
    each, are for hosts of many cores. At most two items per thread wait in memory
    (in a worker, two items per thread and as many on their way), so that memory stays
    flat whatever the number of records.

    Args:
      records: anything indexed by 0..n-1 that gives a `Record`, or a pair of one and
        the content of its image file.
      root: the folder the keys are relative to; None when `records` gives pairs.
      config: see `load`; `embed.threads` and `embed.workers`.
      image_size: S, pixels.
      order: which records, by number; default all. Processes that share a set take
        disjoint orders that cover it.

    Returns:
      An iterator; its `get_state()` is a small JSON-able position, and `set_state` of
      another one over the same records and workers goes on from there.
    """
    neutralise.check(quality=config.neutralise.quality, size=config.neutralise.size)
    read = functools.partial(
        _load_number, records, root=root, config=config, image_size=image_size
    )
    c = config.embed
    ahead = 2 * c.threads
    numbers = range(len(records)) if order is None else order
    items = (
        grain.MapDataset.source(numbers)
        .map(read)
        .to_iter_dataset(
            grain.ReadOptions(num_threads=c.threads, prefetch_buffer_size=ahead)
        )
    )
    if c.workers:
        # Grain asks absl for a flag, which nobody has parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        items = items.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=c.workers, per_worker_buffer_size=ahead
            )
        )
    return iter(items)


def _load_number(records: Source, number: int, **options) -> Item:
    return load(records[number], **options)


def pack(views: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Packs views of consecutive items into full batches; only the last is short.

    Args:
      views: uint8 arrays `[K, S, S, 3]`, any K.
      batch_size: rows of a batch.

    Yields:
      uint8 `[batch_size, S, S, 3]`, the last with the rest.
    """
    waiting: list[np.ndarray] = []
    count = 0
    for rows in views:
        waiting.append(rows)
        count += len(rows)
        while count >= batch_size:
            rows = np.concatenate(waiting)
            yield rows[:batch_size]
            waiting = [rows[batch_size:]]
            count -= batch_size
    if count:
        yield np.concatenate(waiting)
