"""`item-jax predict`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from item_jax import files, records
from item_jax.choices import nearest
from item_jax.commands import configured, option, say

HELP = "Score images and show the evidence."
EXAMPLE = 'item-jax predict photo.jpg --head run/head --caption "a dog on a beach"'
OPTIONS = (
    option("image", nargs="+", metavar="IMAGE", help="image files"),
    option("--head", required=True, help="fitted method: folder or Hugging Face id"),
    option("--towers", help="folder or id; default: the head's own"),
    option("--records", help="records.jsonl with captions and objects"),
    option("--caption", help="one caption for the image(s) given"),
    option(
        "--no-evidence",
        action="store_true",
        help="only the score, not what it would be without each object",
    ),
    option("--json", help="write the results to this file, a line an image"),
)

AT_ONCE = 64  # images whose views may wait in memory together


def run(arguments: argparse.Namespace) -> int:
    from item_jax.detector import ItemDetector
    from item_jax.progress import progress
    from item_jax.sharding import enable_compilation_cache

    if (arguments.records is None) == (arguments.caption is None):
        raise ValueError("give either --records FILE or --caption TEXT")
    paths = [Path(os.path.abspath(p)) for p in arguments.image]
    for name, path in zip(arguments.image, paths):
        if path.is_dir():
            raise ValueError(f"{name} is a folder; name the image files, as {name}/*")
    root = Path(os.path.commonpath([p.parent for p in paths]))
    keys = [p.relative_to(root).as_posix() for p in paths]
    if arguments.caption is not None:
        wanted = [records.Record(key, caption=arguments.caption) for key in keys]
    else:
        wanted = _records_of(paths, keys, arguments.records)
    c = configured(arguments)
    dtype = c.dtype if any(n == "dtype" for n, _ in arguments.overrides) else None
    enable_compilation_cache()
    detector = ItemDetector.from_pretrained(
        arguments.head, towers=arguments.towers, dtype=dtype, config=c
    )
    for warning in detector.warnings:
        say(f"warning: {warning}")
    about = detector.method.range()
    say(f"{detector.method.name}: {about['text']}")
    rows: list[dict[str, Any]] = []
    many = len(wanted) > AT_ONCE
    with progress("predict", len(wanted), "img", show=many) as bar:
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            for row in _rows(detector, some, root, arguments):
                row = {"image": arguments.image[len(rows)], **row, "range": about}
                say(_verdict_text(row, detector.method.threshold))
                rows.append(row)
                bar.update()
    if arguments.json:
        files.write_json_lines(arguments.json, rows)
    return 1 if any(row["status"] != "done" for row in rows) else 0


def _rows(detector, wanted, root, arguments) -> list[dict[str, Any]]:
    """The results of some images, as they go to --json."""
    if arguments.no_evidence:
        return [_row(p) for p in detector.predict(wanted, images=root)]
    rows = []
    for e in detector.explain(wanted, images=root):
        row = _row(e.prediction)
        if e.prediction.status == "done":
            row |= {
                "p_fake_without_global": e.p_fake_without_global,
                "p_fake_without_objects": e.p_fake_without_objects,
                "objects": [
                    {
                        "phrase": o.object.phrase,
                        "box": list(o.object.box),
                        "cosine": o.cosine,
                        "p_fake_without": o.p_fake_without,
                    }
                    for o in e.objects
                ],
            }
        rows.append(row)
    return rows


def _row(prediction) -> dict[str, Any]:
    names = ("p_fake", "verdict", "status", "error", "caption", "cosine")
    return {name: getattr(prediction, name) for name in names}


def _records_of(paths, keys, file) -> list[records.Record]:
    """Finds each image's record: the one whose key its path ends with."""
    known = {record.key: record for record in records.iter_records(file)}
    wanted = []
    for path, key in zip(paths, keys):
        parts = path.parts
        endings = ("/".join(parts[i:]) for i in range(1, len(parts)))
        match = next((e for e in endings if records.normalise_key(e) in known), None)
        if match is None:
            raise ValueError(
                f"{file} has no record for {path}; {nearest(key, list(known)[:20])}"
            )
        record = known[records.normalise_key(match)]
        wanted.append(dataclasses.replace(record, key=key))
    return wanted


def _verdict_text(row: dict[str, Any], threshold: float) -> str:
    if row["status"] != "done":
        return f"{row['image']}: failed: {files.printable(row['error'])}"
    lines = [
        f"{row['image']}: {row['verdict']}, P(fake) = {row['p_fake']:.3f} "
        f"(fake above {threshold:.4g}), cosine {row['cosine']:+.3f}",
        f"  caption: {files.printable(row['caption'])}",
    ]
    if row.get("p_fake_without_global") is not None:
        lines.append(
            f"  P(fake) without the whole image {row['p_fake_without_global']:.3f}, "
            f"without objects {row['p_fake_without_objects']:.3f}"
        )
    if row.get("objects"):
        phrases = [files.printable(o["phrase"]) for o in row["objects"]]
        width = max(map(len, phrases))
        lines.append(f"  {'object':<{width}}  cosine  P(fake) without it")
        lines += [
            f"  {phrase:<{width}}  {o['cosine']:+.3f}  {o['p_fake_without']:.3f}"
            for phrase, o in zip(phrases, row["objects"])
        ]
    return "\n".join(lines)
