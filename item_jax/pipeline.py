"""Grain: records -> decoded, perturbed, cropped uint8 views -> full device batches.

Every record comes out exactly once and in order, as `ImageViews` that hold either its
views or the reason why it has none. An image is decoded once, however many objects
are cut from it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from item_jax import images, neutralise, perturb
from item_jax.budget import IN_FLIGHT
from item_jax.datasets.dataset import Dataset
from item_jax.records import Object, Record
from item_jax.views import global_view, object_view


@dataclasses.dataclass(frozen=True)
class ImageViews:
    """An image on its way to the towers.

    Attributes:
      record: what is known of it.
      views: uint8 `[1 + K, S, S, 3]`, the global view and then one per object kept;
        `[0, S, S, 3]` when `error` is set.
      objects: the K objects kept, best score first.
      error: why the image cannot be embedded, or None; it begins with "sidecar: ",
        "caption: " or "image: ".
      file: `bytes` and `sha256` of the image file, and its `mtime_ns` where it is a
        file of its own; None if it was not read.
    """

    record: Record
    views: np.ndarray
    objects: tuple[Object, ...] = ()
    error: str | None = None
    file: dict[str, Any] | None = None


# -------------------------------------------------------------------------- one image


def load(
    dataset: Dataset, number: int, *, config: ConfigDict, image_size: int
) -> ImageViews:
    """Reads one image and cuts its views.

    Args:
      dataset: where the image is from.
      number: of its record. Without a caption, or with an error, it is a failure.
      config: `data`, `views`, `neutralise` and `perturb` of `item_jax.config`.
      image_size: S, pixels.
    """
    record = dataset.record(number)
    error, file = _unusable(record), None
    if error is None:
        try:
            time = _modified(dataset, record)
            data = dataset.read(number)
            digest = hashlib.sha256(data).hexdigest()
            file = {"bytes": len(data), "sha256": digest} | time
            pixels = images.count_pixels(data, max_pixels=config.data.max_pixels)
            with IN_FLIGHT.hold(pixels):
                cut = _cut(record, data, config, image_size)
                return dataclasses.replace(cut, file=file)
        except images.ImageError as e:
            error = f"image: {record.key!r}: {e}"
    nothing = np.zeros((0, image_size, image_size, 3), np.uint8)
    return ImageViews(record, nothing, error=error, file=file)


def _modified(dataset: Dataset, record: Record) -> dict[str, int]:
    root = getattr(dataset, "image_root", None)
    if root is None:
        return {}
    try:
        return {"mtime_ns": images.file_of(root, record.key).stat().st_mtime_ns}
    except (OSError, ValueError):  # reading it says what is wrong
        return {}


def _unusable(record: Record) -> str | None:
    """Why a record cannot be embedded whatever its image is, or None."""
    if record.error is not None:
        return f"sidecar: {record.error}"
    if record.caption is None or not record.caption.strip():
        return "caption: the record has none"
    return None


def _cut(
    record: Record, data: bytes, config: ConfigDict, image_size: int
) -> ImageViews:
    """Decodes an image, neutralises it first, perturbs it next and cuts it last."""
    image = images.decode(data, max_pixels=config.data.max_pixels)
    height, width = image.shape[:2]
    image = altered(image, record.key, config)
    views = [global_view(image, image_size, geometry=config.views.geometry)]
    objects = []
    for candidate in best_objects(record, config):
        box: neutralise.Box | None = candidate.box
        if config.neutralise.size:
            box = neutralise.middle_box(candidate.box, height, width)
        if box is None:
            continue
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
    return ImageViews(record, np.stack(views), tuple(objects))


def altered(image: np.ndarray, key: str, config: ConfigDict) -> np.ndarray:
    """Neutralises an upright image, then perturbs it, uint8 `[H, W, 3]`."""
    image = neutralise.neutralise(
        image, quality=config.neutralise.quality, size=config.neutralise.size
    )
    name, severity = config.perturb.name, config.perturb.severity
    return perturb.perturb(image, name, severity, key=key)


def best_objects(record: Record, config: ConfigDict) -> list[Object]:
    """Returns the candidates that the thresholds of `config.data` keep, best first."""
    kept = [o for o in record.objects if o.score >= config.data.score_threshold]
    kept.sort(key=lambda o: -o.score)  # stable: equal scores stay in caption order
    return kept[: config.data.max_objects]


# ------------------------------------------------------------------------- all images


def stream(
    dataset: Dataset,
    *,
    config: ConfigDict,
    image_size: int,
    order: Sequence[int] | None = None,
) -> Iterator[ImageViews]:
    """Yields one `ImageViews` per record, in order, decoding ahead.

    Pillow releases the interpreter lock while it decodes, so threads are enough for
    most machines; `config.embed.workers` processes, with `config.embed.threads` threads
    each, are for hosts of many cores. At most two images per thread wait in memory
    (in a worker, two per thread and as many on their way), and `item_jax.budget`
    bounds the pixels being decoded: memory stays flat whatever the number of records.

    Args:
      dataset: of the images; with workers it must be picklable.
      config: see `load`; `embed.threads` and `embed.workers`.
      image_size: S, pixels.
      order: which records, by number; default all. Processes that share a data set take
        disjoint orders that cover it.

    Raises:
      ValueError: for settings of `neutralise` or `perturb` that do not exist.
    """
    neutralise.check(quality=config.neutralise.quality, size=config.neutralise.size)
    perturb.label(config.perturb.name, config.perturb.severity)
    read = functools.partial(load, dataset, config=config, image_size=image_size)
    c = config.embed
    ahead = 2 * c.threads
    numbers = range(len(dataset)) if order is None else order
    loaded = (
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
        loaded = loaded.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=c.workers, per_worker_buffer_size=ahead
            )
        )
    return iter(loaded)


def pack(views: Iterable[np.ndarray], batch_size: int) -> Iterator[np.ndarray]:
    """Packs views of consecutive images into full batches; only the last is short.

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
