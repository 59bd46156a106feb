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

import grain
import numpy as np
from ml_collections import ConfigDict

from item_jax import images, perturb
from item_jax.records import Object, Record


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
    record: Record, *, root: str | Path, config: ConfigDict, image_size: int
) -> Item:
    """Reads one image and cuts its views.

    Args:
      record: with a caption; without one the item is a failure.
      root: the folder its key is relative to.
      config: `data`, `views` and `perturb` of `item_jax.config`.
      image_size: S, pixels.
    """
    nothing = np.zeros((0, image_size, image_size, 3), np.uint8)
    if record.error is not None:
        return Item(record, nothing, error=f"sidecar: {record.error}")
    if not (record.caption or "").strip():
        return Item(record, nothing, error="caption: the record has none")
    try:
        image = images.read_image(root, record.key)
    except images.ImageError as e:
        return Item(record, nothing, error=f"image: {e}")
    if config.perturb.name != "none":
        image = perturb.perturb(
            image, config.perturb.name, config.perturb.severity, key=record.key
        )
    views = [images.global_view(image, image_size, geometry=config.views.geometry)]
    objects = []
    for candidate in best_objects(record, config):
        view = images.object_view(
            image,
            candidate.box,
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
    records: Sequence[Record],
    *,
    root: str | Path,
    config: ConfigDict,
    image_size: int,
) -> Iterator[Item]:
    """Yields one `Item` per record, in order, decoding ahead in threads.

    Pillow frees the interpreter lock while it decodes. At most two items per thread
    wait in memory, so that memory stays flat whatever the number of records.
    """
    read = functools.partial(load, root=root, config=config, image_size=image_size)
    threads = config.embed.threads
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(
        grain.MapDataset.source(records).map(read).to_iter_dataset(read_options=options)
    )


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
