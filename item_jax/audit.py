"""What the files of a data set give away before anybody looks at a picture.

Where real images are JPEGs and fakes PNGs, or the two differ in size, a detector can
score well and have learned nothing of fakes. The audit says how different the files of
the two labels are, and how well a classifier does that sees nothing but their headers.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from item_jax import images, neutralise, protocol
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

FOLDS = 5
FEATURES = {
    "format": ("format", "mode", "progressive", "subsampling"),
    "JPEG quality": ("quality",),
    "size": ("width", "height"),
    "metadata": ("exif", "icc"),
}
"""The groups of header fields that are tried alone."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an image file tells.

    Attributes:
      format: one of `item_jax.images.FORMATS`.
      mode: Pillow's: RGB, L, P, RGBA, ...
      width, height: pixels, as stored.
      quality: of a JPEG, 1..100 on libjpeg's scale; the nearest when its table is
        another program's; 0 for other formats.
      subsampling: of the chroma of a JPEG: 0 is 4:4:4, 1 4:2:2, 2 4:2:0; else -1.
      progressive: whether the JPEG is.
      exif, icc: whether there is an EXIF block, a colour profile.
      bytes: of the file.
      sha256: of the file.
    """

    format: str
    mode: str
    width: int
    height: int
    quality: int
    subsampling: int
    progressive: bool
    exif: bool
    icc: bool
    bytes: int
    sha256: str


def header(data: bytes) -> Header:
    """Reads the header of an image file.

    Raises:
      ImageError: if the data are no image of `item_jax.images.FORMATS`.
    """
    return images.parse(data, functools.partial(_header, data))


def _header(data: bytes, name: str, image: Image.Image) -> Header:
    tables = getattr(image, "quantization", None) if name == "JPEG" else None
    return Header(
        format=name,
        mode=image.mode,
        width=image.width,
        height=image.height,
        quality=_quality(tables[0]) if tables else 0,
        subsampling=JpegImagePlugin.get_sampling(image) if tables else -1,
        progressive=bool(image.info.get("progressive")),
        exif=bool(image.info.get("exif")) or (name == "PNG" and b"eXIf" in data[:4096]),
        icc=bool(image.info.get("icc_profile")),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )


def _quality(table: Sequence[int]) -> int:
    """The quality whose luminance table is nearest, by the sum of differences."""
    return int(np.abs(_tables() - np.array(table)).sum(1).argmin()) + 1


@functools.cache
def _tables() -> np.ndarray:
    """libjpeg's luminance tables of qualities 1 to 100, as Pillow gives them back."""
    grey = np.zeros((8, 8, 3), np.uint8)
    tables = []
    for quality in range(1, 101):
        with Image.open(io.BytesIO(encode_jpeg(grey, quality))) as image:
            tables.append(image.quantization[0])
    return np.array(tables)


def audit(
    records: Sequence[Record],
    root: str | Path,
    *,
    pairs: dict[str, str] | None = None,
    quality: int = 0,
    size: int = 0,
    threads: int = 8,
) -> dict[str, Any]:
    """Examines the files of a data set.

    Args:
      records: with labels.
      root: the folder the keys are relative to.
      pairs: generator -> source of its real images; see `item_jax.protocol`.
      quality: with `size`, also examine the files that `item_jax.neutralise` would
        make: `config.neutralise`; 0 for none.
      size: see `quality`.
      threads: that read files.

    Returns:
      `images`, `failures` [{key, error}], `generators` {name: {"real", "fake" (what
      their files are, see `describe`), "headers" and, when asked for, "neutralised"
      (see `leak`)}}, `duplicates` [[key, ...]], `crossed` (how many of those are real
      and fake), `near_empty` [key], `neutralise` {quality, size}, `warnings` [text].

    Raises:
      ValueError: for a size without a quality, which would leave the formats as they
        are, or values that do not exist.
    """
    neutralise.check(quality=quality, size=size)
    if size and not quality:
        raise ValueError(
            "neutralise.size without neutralise.quality leaves JPEG and PNG as they are"
        )

    def examine(record: Record):
        try:
            data = images.read_bytes(root, record.key)
            after = None
            before = header(data)
            if quality:
                picture = neutralise.neutralise(images.decode(data), size=size)
                after = header(encode_jpeg(picture, quality))
            return before, after, None
        except images.ImageError as e:
            return None, None, str(e)

    found = []
    with (
        ThreadPoolExecutor(threads) as pool,
        progress("audit", len(records), "img") as bar,
    ):
        # In pieces, so that neither files nor futures pile up.
        for start in range(0, len(records), 1024):
            for result in pool.map(examine, records[start : start + 1024]):
                found.append(result)
                bar.update()
    rows = [dataclasses.asdict(record) for record in records]
    labels = np.array([LABELS.get(row["label"], -1) for row in rows])
    good = np.array([before is not None for before, _, _ in found], bool)
    result: dict[str, Any] = {
        "root": os.fspath(root),
        "images": len(rows),
        "failures": [
            {"key": row["key"], "error": error}
            for row, (_, _, error) in zip(rows, found)
            if error is not None
        ],
        "neutralise": {"quality": quality, "size": size},
        "generators": {},
    }
    for name, index in protocol.groups(rows, pairs=pairs).items():
        index = index[good[index]]
        entry: dict[str, Any] = {
            label: describe([found[i][0] for i in index[labels[index] == number]])
            for label, number in LABELS.items()
        }
        entry["headers"] = leak([found[i][0] for i in index], labels[index])
        if quality:
            entry["neutralised"] = leak([found[i][1] for i in index], labels[index])
        result["generators"][name] = entry
    headers = {row["key"]: before for row, (before, _, _) in zip(rows, found) if before}
    result |= _duplicates(headers, dict(zip((r["key"] for r in rows), labels)))
    result["near_empty"] = [key for key, h in headers.items() if near_empty(h)]
    result["warnings"] = _warnings(result)
    return result


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


def _warnings(result: dict[str, Any]) -> list[str]:
    said = []
    for name, entry in result["generators"].items():
        real, fake, headers = entry["real"], entry["fake"], entry["headers"]
        if headers is None:
            said.append(
                f"{name}: {real['n']} real and {fake['n']} fake files are too few to "
                "judge"
            )
            continue
        gone = headers["chance"] + LEAK * (1 - headers["chance"])
        if headers["all"] < gone:
            continue
        by = [f for f in FEATURES if headers[f] >= gone]
        said.append(
            f"{name}: headers alone reach AP {headers['all']:.3f} (chance "
            f"{headers['chance']:.3f}); label is confounded with "
            f"{', '.join(by) or 'several fields together'}: real {_brief(real)}; fake "
            f"{_brief(fake)}"
        )
        after = entry.get("neutralised")
        if after and after["all"] >= gone:
            said.append(
                f"{name}: still AP {after['all']:.3f} after neutralising; set both "
                "neutralise.quality and neutralise.size"
            )
    if result["crossed"]:
        said.append(f"{result['crossed']} files stand under both labels, byte for byte")
    if result["near_empty"]:
        said.append(
            f"{len(result['near_empty'])} files are next to empty, such as "
            f"{result['near_empty'][0]}"
        )
    return said


def _brief(entry: dict[str, Any]) -> str:
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


def text(result: dict[str, Any]) -> str:
    """Returns an audit as a report for people."""
    failures, done = result["failures"], result["images"] - len(result["failures"])
    lines = [
        f"{result['images']:,} files below {result['root']} = {done:,} read + "
        f"{len(failures):,} failed",
        "",
    ]
    names = list(result["generators"])
    wide = max([len("generator"), *map(len, names)]) + 2
    again = result["neutralise"]["quality"]
    title = f"{'generator':<{wide}}{'label':<6}{'files':>8}  {'files are':<40}"
    lines.append(f"{title}{'EXIF':>6}{'ICC':>6}")
    for name in names:
        for label in LABELS:
            e = result["generators"][name][label]
            if not e["n"]:
                continue
            lines.append(
                f"{name if label == 'real' else '':<{wide}}{label:<6}{e['n']:>8,}  "
                f"{_brief(e):<40}{e['exif']:>6.0%}{e['icc']:>6.0%}"
            )
    lines += [
        "",
        "AP of a classifier that sees headers alone (chance: the share of fakes)",
    ]
    columns = ["chance", "all", *FEATURES]
    titles = [c.removeprefix("JPEG ") for c in columns]
    title = f"{'generator':<{wide}}" + "".join(f"{t:>10}" for t in titles)
    lines.append(title + f"{'neutralised':>13}" * bool(again))
    for name in names:
        figures = result["generators"][name]["headers"]
        if figures is None:
            continue
        line = f"{name:<{wide}}" + "".join(f"{figures[c]:>10.3f}" for c in columns)
        after = result["generators"][name].get("neutralised")
        lines.append(line + (f"{after['all']:>13.3f}" if after else ""))
    copies = sum(len(keys) - 1 for keys in result["duplicates"])
    lines += [
        "",
        f"{copies:,} files are copies of another; {len(result['near_empty']):,} are "
        "next to empty, such as pictures of one colour",
    ]
    lines += [f"failed: {f['key']}: {f['error']}" for f in failures[:5]]
    if len(failures) > 5:
        lines.append(f"failed: ... and {len(failures) - 5:,} more")
    lines += [f"warning: {w}" for w in result["warnings"]]
    if any("headers alone" in w for w in result["warnings"]) and not again:
        lines.append(
            "To make all files alike: --config.neutralise.quality=96 "
            "--config.neutralise.size=256, here to see the effect, and with embed"
        )
    return "\n".join(lines)
