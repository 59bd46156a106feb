"""`item-jax predict`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from item_jax import files, records
from item_jax.commands import (
    SIDECARS,
    card_warnings,
    configured,
    option,
    say,
    sidecar_request,
)

HELP = "Score images and show the evidence."
EXAMPLE = (
    "item-jax predict photos/ --head run/head --save-dir evidence \\\n"
    "      --caption-with Salesforce/blip2-opt-2.7b --ground-with mm-grounding-dino\n"
    '  item-jax predict photo.jpg --head run/head --caption "a dog on a beach"'
)
OPTIONS = (
    option("image", nargs="+", metavar="PATH", help="image files, folders, globs"),
    option("--head", required=True, help="fitted method: folder or Hugging Face id"),
    option("--towers", help="folder, id or ID@REVISION; default: the head's own"),
    option("--records", help="records.jsonl with captions and objects"),
    option("--caption", help="one caption for the image(s) given"),
    *SIDECARS,
    option(
        "--no-evidence",
        action="store_true",
        help="only the score, not what it would be without each object",
    ),
    option("--save-dir", metavar="FOLDER", help="draw the evidence, a PNG an image"),
    option(
        "--json",
        help="write the results to this file, a line an image; `label` is what the "
        "records say, or null",
    ),
)

AT_ONCE = 64  # images whose views may wait in memory together
BY_HAND = {"captioner": {"id": "given by hand"}, "grounder": None}


class Inputs(NamedTuple):
    """What is to be scored.

    Attributes:
      records: one per image.
      facts: `captioner` and `grounder`, dictionaries or None.
      notes: what a user should know of them.
    """

    records: list[records.Record]
    facts: dict[str, Any]
    notes: list[str]


def run(arguments: argparse.Namespace) -> int:
    from item_jax import hub, settings
    from item_jax.datasets import folder
    from item_jax.detector import ItemDetector, towers_of
    from item_jax.sharding import enable_compilation_cache

    _check(arguments)
    # Whatever can be wrong is found before a model is loaded or an image captioned.
    c = configured(arguments)
    method, place = hub.load(arguments.head)
    paths = folder.image_files(arguments.image)
    root = Path(os.path.commonpath([p.parent for p in paths]))
    keys = [p.relative_to(root).as_posix() for p in paths]
    inputs = _inputs(arguments, root, keys, method)
    dtype = c.dtype if any(n == "dtype" for n, _ in arguments.overrides) else None
    enable_compilation_cache()
    towers = towers_of(method, arguments.towers, dtype, folder=place)
    detector = ItemDetector(towers, method, c)
    other = settings.compare_roles(method.embedding, inputs.facts, what=method.name)
    card = card_warnings(arguments, c, method.embedding, "the head")
    warnings = [*card, *detector.warnings, *other]
    for warning in warnings:
        say(f"warning: {warning}")
    for note in inputs.notes:
        say(f"note: {note}")
    about = method.range()
    say(f"{method.name}: {about['text']}")
    beside = {
        "range": about,
        **{role: (facts or {}).get("id") for role, facts in inputs.facts.items()},
        "warnings": warnings,
    }
    failed, drawn = 0, []
    mark = " (other captions or boxes than the head's)" if other else ""
    shown = {k: _shown(p) for k, p in zip(keys, paths)}
    with _json_lines(arguments.json) as write:
        scored = _scored(detector, inputs.records, root, arguments)
        for record, row, explanation in scored:
            row = {"image": shown[record.key], **row, "label": record.label, **beside}
            say(_verdict_text(row, explanation, method.threshold, mark))
            write(row)
            failed += row["status"] != "done"
            drawn += [row["evidence"]] if "evidence" in row else []
    if arguments.save_dir:
        say(_drawn_text(drawn))
    return 1 if failed else 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuses options that contradict each other."""
    ways = ("records", "caption", "caption_with")
    if sum(getattr(arguments, way) is not None for way in ways) != 1:
        raise ValueError(
            "give either --records FILE or --caption TEXT or --caption-with MODEL, "
            "such as Salesforce/blip2-opt-2.7b"
        )
    if arguments.save_dir and arguments.no_evidence:
        raise ValueError("--save-dir draws the evidence: leave out --no-evidence")
    sidecar_request(arguments)


def _inputs(arguments, root: Path, keys: Sequence[str], method) -> Inputs:
    """The records to score, from wherever the options say."""
    if arguments.caption is not None:
        caption = arguments.caption
        return Inputs([records.Record(k, caption=caption) for k in keys], BY_HAND, [])
    if arguments.records is not None:
        from item_jax.datasets import dataset

        known = _records_of(root, keys, arguments.records)
        beside = Path(arguments.records).with_suffix(".run.json")
        facts = {}
        if beside.is_file():
            facts = dataset.check_facts(files.read_json(beside), beside)
        return Inputs(known, {r: facts.get(r) for r in BY_HAND}, [])
    from item_jax import sidecar_runs

    request = sidecar_request(arguments)
    assert request is not None
    sidecar_runs.check_installed(request)
    found = sidecar_runs.annotate(
        root, keys, request, cache=arguments.sidecar_cache, say=say
    )
    notes = []
    if not request.ground_with and "object_emb" in getattr(method.module, "NEEDS", ()):
        notes.append(
            "no objects, and none are used: --ground-with NAME, such as "
            "mm-grounding-dino, would find them"
        )
    return Inputs(found.records, found.facts, notes)


def _scored(
    detector, wanted: Sequence[records.Record], root: Path, arguments
) -> Iterator[tuple[records.Record, dict[str, Any], Any]]:
    """Yields each record, its results and explanation; draws the evidence."""
    from item_jax.progress import progress

    with progress("predict", len(wanted), "img", show=len(wanted) > 1) as bar:
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            if arguments.no_evidence:
                rows = [_row(p) for p in detector.predict(some, images=root)]
                explained: list[Any] = [None] * len(rows)
            else:
                explained = detector.explain(some, images=root)
                rows = [_explained_row(e) for e in explained]
            for record, row, explanation in zip(some, rows, explained):
                if arguments.save_dir and row["status"] == "done":
                    row["evidence"] = _draw(
                        explanation, detector.method, record, root, arguments
                    )
                yield record, row, explanation
                bar.update()


def _draw(explanation, method, record: records.Record, root: Path, arguments) -> str:
    """Draws the evidence of one image into --save-dir; returns the path."""
    from item_jax import images, plots

    image = images.read_image(root, record.key)
    step = max(1, -(-max(image.shape[:2]) // SIDE))
    figure = plots.evidence(image[::step, ::step], explanation, method)
    path = Path(arguments.save_dir) / f"{record.key}.png"
    with files.atomic_file(path, binary=True) as f:
        figure.savefig(f, format="png", dpi=100)
    return str(path)


SIDE = 1000  # pixels; the drawing shows about 400


@contextlib.contextmanager
def _json_lines(path: str | None):
    """Gives a function that writes a row at once, whole lines only."""
    if path is None:
        yield lambda row: None
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="\n") as f:

        def write(row: dict[str, Any]) -> None:
            f.write(files.json_line(row))
            f.flush()

        yield write


def _shown(path: Path) -> str:
    """A path as a person would write it: relative to here if it is below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _explained_row(explanation) -> dict[str, Any]:
    row = _row(explanation.prediction)
    if explanation.prediction.status != "done":
        return row
    return row | {
        "p_fake_without_global": explanation.p_fake_without_global,
        "p_fake_without_objects": explanation.p_fake_without_objects,
        "objects": [
            {
                "phrase": o.object.phrase,
                "box": list(o.object.box),
                "cosine": o.cosine,
                "p_fake_without": o.p_fake_without,
            }
            for o in explanation.objects
        ],
    }


def _row(prediction) -> dict[str, Any]:
    names = ("p_fake", "verdict", "status", "error", "caption", "cosine")
    return {name: getattr(prediction, name) for name in names}


def _records_of(root: Path, keys, file) -> list[records.Record]:
    """Finds each image's record: the one whose key its path ends with."""
    known = {record.key: record for record in records.iter_records(file)}
    wanted = []
    for key in keys:
        path = root / key
        parts = path.parts
        endings = ("/".join(parts[i:]) for i in range(1, len(parts)))
        match = next((e for e in endings if records.normalise_key(e) in known), None)
        if match is None:
            # A million keys would take minutes: those of the same name, or some.
            same = [k for k in known if k.rpartition("/")[2] == path.name]
            near = difflib.get_close_matches(
                str(path), (same or list(known))[:1000], n=3, cutoff=0
            )
            raise ValueError(
                f"{file} has {len(known):,} records and none for {path}; the nearest "
                f"keys: {', '.join(near) or 'none'}. An image without a record needs "
                "--caption TEXT or --caption-with MODEL instead of --records"
            )
        record = known[records.normalise_key(match)]
        wanted.append(dataclasses.replace(record, key=key))
    return wanted


def _drawn_text(paths: Sequence[str]) -> str:
    if not paths:
        return "evidence: no picture, since no image could be scored"
    first = files.printable(paths[0])
    if len(paths) == 1:
        return f"evidence: {first}"
    return f"evidence: {len(paths):,} pictures, the first {first}"


def _verdict_text(
    row: dict[str, Any], explanation, threshold: float, mark: str = ""
) -> str:
    image = files.printable(row["image"])
    if row["status"] != "done":
        return f"{image}: failed: {files.printable(row['error'])}"
    truth = ""
    if row["label"] is not None:
        right = "right" if row["verdict"] == row["label"] else "wrong"
        truth = f"; {right}: the records say {row['label']}"
    lines = [
        f"{image}: {row['verdict']}, P(fake) = {row['p_fake']:.3f} "
        f"(fake above {threshold:.4g}), cosine {row['cosine']:+.3f}{mark}{truth}",
        f"  caption: {files.printable(row['caption'])}",
    ]
    return "\n".join(lines + (_evidence_text(explanation) if explanation else []))


def _evidence_text(explanation) -> list[str]:
    """The score without each part, a line each."""
    from item_jax import evidence

    p_fake, lines = explanation.prediction.p_fake, []
    if explanation.p_fake_without_global is not None:
        lines.append(
            f"  P(fake) without {evidence.WHOLE} "
            f"{explanation.p_fake_without_global:.3f}, without {evidence.OBJECTS} "
            f"{explanation.p_fake_without_objects:.3f}"
        )
    parts = evidence.shown(explanation.objects)
    phrases = [files.printable(part.object.phrase) for part in parts]
    width = max(map(len, ["object", *phrases]))
    if parts:
        lines.append(f"  {'object':<{width}}  effect        cosine  P(fake) without it")
    for phrase, part in zip(phrases, parts):
        does = evidence.EFFECTS[evidence.effect(p_fake, part.p_fake_without)]
        lines.append(
            f"  {phrase:<{width}}  {does:<12}  {part.cosine:+.3f}  "
            f"{part.p_fake_without:.3f}"
        )
    return lines
