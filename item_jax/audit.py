"""What the files of a data set give away before anybody looks at a picture.

Where real images are JPEGs and fakes PNGs, or the two differ in size, a detector can
score well and have learned nothing of fakes. The audit says how different the files of
the two labels are, how well a classifier does that sees nothing but their headers, and
how well one does that sees statistics of pixels and no content (`pixel_probe`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from item_jax import images, neutralise, pixel_probe, protocol
from item_jax.budget import IN_FLIGHT
from item_jax.datasets import dataset as datasets
from item_jax.datasets.dataset import Dataset, RecordList
from item_jax.headers import Header, header
from item_jax.perturb import encode_jpeg
from item_jax.progress import progress
from item_jax.records import LABELS, Record

NEAR_EMPTY = (640, 1 / 60)
"""A file of fewer bytes than the first plus the second times its pixels shows next to
nothing. A JPEG of one colour has 32 bits for each 16 x 16 pixels (the shortest codes of
its six blocks), which is 1/64 byte a pixel, after a header of 626 bytes; a PNG of one
colour has less. Photographs have more even at quality 5."""

LEAK = 0.15
"""How far above chance the AP of headers may be before it is called a leak."""

PIXELS = 0.6
"""The AUC of the pixel probe above which a warning is given, if its 95% interval leaves
out 0.5: with ten images of a label every fourth probe of pure noise is above."""

FOLDS = 5
FEATURES = {
    "format": ("format", "mode", "progressive", "subsampling"),
    "JPEG quality": ("quality",),
    "size": ("width", "height"),
    "metadata": ("exif", "icc"),
}
"""The groups of header fields that are tried alone."""


def audit(
    data: Dataset | Sequence[Record],
    image_root: str | Path | None = None,
    *,
    real_sources: Mapping[str, str] | None = None,
    quality: int = 0,
    size: int = 0,
    pixels: bool = True,
    threads: int = 8,
    max_pixels: int = images.MAX_PIXELS,
) -> dict[str, Any]:
    """Examines the files of a data set.

    Args:
      data: a data set, or a list of records, with labels.
      image_root: of records: the folder the keys are relative to.
      real_sources: {generator: generator whose real images it is tested against}, see
        `item_jax.protocol`; by default what the data set says.
      quality: with `size`, also examine the files that `item_jax.neutralise` would
        make: `config.neutralise`; 0 for none.
      size: see `quality`.
      pixels: whether to decode the images for the pixel probe; headers alone are much
        faster.
      threads: that read files.
      max_pixels: most pixels of an image, `config.data.max_pixels`.

    Returns:
      `root` (the folder of the images), `images`, `failures` [{key, error}],
      `generators` {name: {"real", "fake" (what their files are, see `describe`),
      "headers" and, when asked for, "neutralised" (see `leak`); "pixels" and
      "pixels_neutralised" {source of real images: see `pixel_probe.probe`}}},
      `duplicates` [[key, ...]], `crossed` (how many of those are real and fake),
      `near_empty` [key], `too_small` [key] (images too small for the pixel probe),
      `damaged_metadata` [{key, error}] (images that are read without their metadata),
      `neutralise` {quality, size}, `warnings` [text].

    Raises:
      ValueError: for a size without a quality, which would leave the formats as they
        are, or values that do not exist.
    """
    neutralise.check(quality=quality, size=size)
    if size and not quality:
        raise ValueError(
            "neutralise.size without neutralise.quality leaves JPEG and PNG as they are"
        )
    if isinstance(data, list | tuple):
        data = RecordList(data, image_root)
    dataset = cast(Dataset, data)
    rows = [vars(record) for record in datasets.records(dataset)]
    options = {
        "quality": quality,
        "size": size,
        "pixels": pixels,
        "max_pixels": max_pixels,
    }
    found = list(_examine_all(dataset, threads, options))
    labels = np.array([LABELS.get(row["label"], -1) for row in rows])
    good = np.array([one.error is None for one in found], bool)
    facts = datasets.facts(dataset)
    result: dict[str, Any] = {
        "root": facts["images"] or type(dataset).__name__,
        "images": len(rows),
        "failures": [
            {"key": row["key"], "error": one.error}
            for row, one in zip(rows, found)
            if one.error is not None
        ],
        "neutralise": {"quality": quality, "size": size},
        "generators": {},
    }
    known = facts["real_sources"] if real_sources is None else real_sources
    sources = protocol.complete_real_sources(rows, known)
    for name, index in protocol.groups(rows, real_sources=sources).items():
        index = index[good[index]]
        entry: dict[str, Any] = {
            label: describe([found[i].header for i in index[labels[index] == number]])
            for label, number in LABELS.items()
        }
        entry["headers"] = leak([found[i].header for i in index], labels[index])
        if quality:
            after = [found[i].header_after for i in index]
            entry["neutralised"] = leak(after, labels[index])
        if pixels:
            entry["pixels"] = _probe(rows, found, labels, index, "pixels")
            if quality:
                entry["pixels_neutralised"] = _probe(
                    rows, found, labels, index, "pixels_after"
                )
        result["generators"][name] = entry
    headers = {row["key"]: one.header for row, one in zip(rows, found) if one.header}
    result["too_small"] = [
        row["key"]
        for row, one in zip(rows, found)
        if pixels and one.header and one.pixels is None
    ]
    result |= _duplicates(headers, dict(zip((r["key"] for r in rows), labels)))
    result["near_empty"] = [key for key, h in headers.items() if near_empty(h)]
    result["damaged_metadata"] = [
        {"key": key, "error": h.damaged} for key, h in headers.items() if h.damaged
    ]
    result["warnings"] = _warnings(result)
    return result


@dataclasses.dataclass(frozen=True)
class Examined:
    """What was found of a file.

    Attributes:
      header, header_after: as it is, and neutralised if asked for; None if it failed.
      pixels, pixels_after: of `pixel_probe.features`, likewise.
      error: why it failed.
    """

    header: Any = None  # a Header; Any, since those without an error have one
    header_after: Any = None
    pixels: np.ndarray | None = None
    pixels_after: np.ndarray | None = None
    error: str | None = None


def _examine_all(
    dataset: Dataset, threads: int, options: dict[str, Any]
) -> Iterator[Examined]:
    examine = functools.partial(_examine, dataset, **options)
    with (
        ThreadPoolExecutor(threads) as pool,
        progress("audit", len(dataset), "img") as bar,
    ):
        # In pieces, so that neither files nor futures pile up.
        for start in range(0, len(dataset), 1024):
            numbers = range(start, min(start + 1024, len(dataset)))
            for result in pool.map(examine, numbers):
                yield result
                bar.update()


def _examine(
    dataset: Dataset,
    number: int,
    *,
    quality: int,
    size: int,
    pixels: bool,
    max_pixels: int,
) -> Examined:
    try:
        data = dataset.read(number)
        before = header(data, max_pixels=max_pixels)
        if not quality and not pixels:
            return Examined(before)
        with IN_FLIGHT.hold(images.count_pixels(data, max_pixels=max_pixels)):
            image = images.decode(data, max_pixels=max_pixels)
            found = pixel_probe.features(image) if pixels else None
            if not quality:
                return Examined(before, None, found)
            image = neutralise.neutralise(image, size=size)
            after = encode_jpeg(image, quality)
            found_after = None
            if pixels:
                count = image.shape[0] * image.shape[1]
                found_after = pixel_probe.features(
                    images.decode(after, max_pixels=count)
                )
            return Examined(before, header(after), found, found_after)
    except images.ImageError as e:
        return Examined(error=str(e))


def _probe(
    rows: Sequence[Mapping[str, Any]],
    found: Sequence[Examined],
    labels: np.ndarray,
    index: np.ndarray,
    which: str,
) -> dict[str, dict[str, Any] | None]:
    """The pixel probe of a generator's fakes against each source of its real images.

    Of files that are the same byte for byte the first counts alone: a copy in another
    fold would be recognised.
    """
    seen = set()
    kept: dict[str | None, list[int]] = {}  # of the fakes under None
    for i in index:
        values = getattr(found[i], which)
        own = (found[i].header.sha256, labels[i])
        if values is not None and own not in seen:
            seen.add(own)
            real = rows[i]["generator"] or "unnamed"
            kept.setdefault(real if labels[i] == 0 else None, []).append(i)
    fakes = kept.pop(None, [])
    out = {}
    for source, reals in sorted(kept.items(), key=str):
        both = [*reals, *fakes]
        x = np.stack([getattr(found[i], which) for i in both])
        out[str(source)] = pixel_probe.probe(x, labels[both])
    return out


def near_empty(header: Header) -> bool:
    """Whether a file is too small to show anything, by `NEAR_EMPTY`."""
    base, pixel = NEAR_EMPTY
    return header.bytes < base + pixel * header.width * header.height


def describe(headers: Sequence[Header]) -> dict[str, Any]:
    """Sums up the files of one label.

    Returns:
      `n`; `formats` {name: share}; `quality` {"median", "low", "high"} of the JPEGs;
      `sizes` {"WxH": share}, the three most frequent, and how many there are in
      `different_sizes`; `exif`, `icc`, shares.
    """
    n = len(headers)
    sizes = Counter(f"{h.width}x{h.height}" for h in headers)
    jpeg = [h.quality for h in headers if h.format == "JPEG"]
    return {
        "n": n,
        "formats": {
            k: c / n for k, c in Counter(h.format for h in headers).most_common()
        },
        "quality": {
            "median": float(np.median(jpeg)),
            "low": min(jpeg),
            "high": max(jpeg),
        }
        if jpeg
        else None,
        "sizes": {k: c / n for k, c in sizes.most_common(3)},
        "different_sizes": len(sizes),
        "exif": sum(h.exif for h in headers) / n if n else None,
        "icc": sum(h.icc for h in headers) / n if n else None,
    }


def leak(headers: Sequence[Header], labels: np.ndarray) -> dict[str, float] | None:
    """How well headers alone tell fake from real: AP of a decision tree.

    scikit-learn's, at least five files in a leaf, judged by stratified five-fold
    cross-validation: each file by a tree that has not seen it.

    Args:
      headers: n of them.
      labels: int `[n]`, real 0 and fake 1.

    Returns:
      `chance`, the share of fakes, which is the AP of guessing; `all`, and one figure
      for each of `FEATURES` alone; None with fewer than ten files of a label.
    """
    if min((labels == 0).sum(), (labels == 1).sum()) < 2 * FOLDS:
        return None
    figures = {"chance": float(labels.mean())}
    groups = {"all": tuple(f for own in FEATURES.values() for f in own)} | FEATURES
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    tree = DecisionTreeClassifier(min_samples_leaf=5, random_state=0)
    for name, fields in groups.items():
        x = np.concatenate([_column(headers, field) for field in fields], axis=1)
        p = cross_val_predict(tree, x, labels, cv=folds, method="predict_proba")[:, 1]
        figures[name] = float(average_precision_score(labels, p))
    return figures


def _column(headers: Sequence[Header], field: str) -> np.ndarray:
    """A field as numbers `[n, k]`: words become one column each."""
    values = [getattr(h, field) for h in headers]
    if not isinstance(values[0], str):
        return np.array(values, np.float32)[:, None]
    words = sorted(set(values))
    return np.array([[v == w for w in words] for v in values], np.float32)


def _duplicates(headers: dict[str, Header], labels: dict[str, int]) -> dict[str, Any]:
    same: dict[str, list[str]] = {}
    for key, h in headers.items():
        same.setdefault(h.sha256, []).append(key)
    groups = [keys for keys in same.values() if len(keys) > 1]
    crossed = [keys for keys in groups if {0, 1} <= {labels[k] for k in keys}]
    return {"duplicates": groups, "crossed": len(crossed)}


def _too_few(real: int, fake: int) -> str:
    if fake and not real:
        return f"{fake} fake files and no real ones to compare them with"
    return f"{real} real and {fake} fake files are too few to judge"


def _warnings(result: dict[str, Any]) -> list[str]:
    found = []
    for name, entry in result["generators"].items():
        found += _header_warnings(name, entry)
        for source, probed in entry.get("pixels", {}).items():
            if not gives_away(probed):
                continue
            after = entry.get("pixels_neutralised", {}).get(source)
            still = f", {after['auc']:.3f} after neutralising" if after else ""
            found.append(
                f"{name}: pixel statistics without content reach AUC "
                f"{probed['auc']:.3f} against the real images of {source}{still}: "
                "fakes differ in processing, or leave traces of their generator"
            )
    if result["crossed"]:
        found.append(
            f"{result['crossed']} files have both labels, byte for byte the same"
        )
    if result["near_empty"]:
        found.append(
            f"{len(result['near_empty'])} files are almost empty, such as "
            f"{result['near_empty'][0]}"
        )
    if damaged := result["damaged_metadata"]:
        found.append(
            f"{len(damaged)} files have damaged metadata, and only their pixels are "
            f"read, such as {damaged[0]['key']}: {damaged[0]['error']}"
        )
    return found


def gives_away(probed: dict[str, Any] | None) -> bool:
    """Whether a pixel probe is worth a warning; see `PIXELS`."""
    if probed is None:
        return False
    return probed["auc"] > PIXELS and probed["interval_95"][0] > 0.5


def _header_warnings(name: str, entry: dict[str, Any]) -> list[str]:
    real, fake, headers = entry["real"], entry["fake"], entry["headers"]
    if headers is None:
        return [f"{name}: {_too_few(real['n'], fake['n'])}"]
    gone = headers["chance"] + LEAK * (1 - headers["chance"])
    if headers["all"] < gone:
        return []
    by = [f for f in FEATURES if headers[f] >= gone]
    found = [
        f"{name}: headers alone reach AP {headers['all']:.3f} (chance "
        f"{headers['chance']:.3f}); label is confounded with "
        f"{', '.join(by) or 'several fields together'}: real {brief(real)}; fake "
        f"{brief(fake)}"
    ]
    after = entry.get("neutralised")
    if after and after["all"] >= gone:
        found.append(
            f"{name}: still AP {after['all']:.3f} after neutralising; set both "
            "neutralise.quality and neutralise.size"
        )
    return found


def brief(entry: dict[str, Any]) -> str:
    """Returns what `describe` found in a few words."""
    formats = " + ".join(
        f"{name} {share:.0%}" if share < 1 else name
        for name, share in list(entry["formats"].items())[:2]
    )
    quality = entry["quality"]
    if quality:
        low, high = quality["low"], quality["high"]
        formats += f" q{low}" if low == high else f" q{low}-{high}"
    size = next(iter(entry["sizes"]), "")
    several = entry["different_sizes"] > 1
    return f"{formats} {size}" + f" and {entry['different_sizes'] - 1} more" * several
