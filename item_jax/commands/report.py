"""`item-jax report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from item_jax import files
from item_jax.commands import (
    CACHE,
    HEAD,
    WORKDIR,
    method_folders,
    option,
    say,
)
from item_jax.workdir import Workdir

HELP = (
    "Write report.html: tables, figures, and a gallery of hits and errors with their "
    "evidence, in one file."
)
EXAMPLE = (
    "item-jax report --workdir run\n"
    "  item-jax report --workdir genimage --head progan/head --audit audit.json"
)
OPTIONS = (
    WORKDIR,
    CACHE,
    HEAD,
    option(
        "--as",
        dest="name",
        default="",
        metavar="NAME",
        help="of results/NAME/; default: results/, or results/CACHE/ with --cache",
    ),
    option(
        "--records",
        help="records or data set with the image files; default: WORKDIR/records.jsonl",
    ),
    option("--images", metavar="FOLDER", help="of the image files, if they moved"),
    option(
        "--pictures",
        type=int,
        metavar="N",
        help="so many images are shown as pictures; 0 for a file without any; default: "
        "240, about 5 MB",
    ),
    option("--audit", metavar="FILE", help="what `item-jax audit --json FILE` wrote"),
    option("--gate", metavar="FILE", help="what scripts/miniature/gate.py wrote"),
    option("--out", metavar="FILE", help="default: report.html in the results' folder"),
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax import gallery, report, results

    count = gallery.PICTURES if arguments.pictures is None else arguments.pictures
    if count < 0:
        raise ValueError(f"--pictures {count}: a number of images, 0 or more")
    workdir = Workdir(arguments.workdir)
    folder = workdir.results(arguments.name or arguments.cache)
    found = results.read(folder)
    audit = files.read_json(arguments.audit) if arguments.audit else None
    gate = files.read_json(arguments.gate) if arguments.gate else None
    notes: list[str] = []
    shown = {}
    if count:
        shown = gallery.pictures(
            found,
            gallery.choose(found, count),
            dataset=_dataset(arguments, workdir, notes),
            **_evidence(arguments, workdir, found, notes),
        )
    paper = _paper(workdir, notes)
    for note in notes:
        say(f"warning: {note}")
    path = Path(arguments.out or folder / "report.html")
    report.write(
        path,
        found,
        pictures=shown,
        audit=audit,
        gate=gate,
        paper=paper,
        notes=notes,
    )
    missing = sum(p.jpeg is None for p in shown.values())
    size = path.stat().st_size / 1e6
    say(
        f"wrote {path}, {size:.1f} MB: {len(found.rows):,} images, "
        f"{len(shown) - missing} of them with a picture"
    )
    return 0


def _paper(workdir: Workdir, notes: list[str]) -> dict[str, Any]:
    """What `item-jax paper` made: the drawings. Its tables have pages of their own."""
    from item_jax import experiments
    from item_jax.experiments import drawing, output

    found = {}
    for name in experiments.NAMES:
        path = workdir.results() / "paper" / f"{name}.json"
        if not path.is_file() or experiments.get(name).draw is drawing.grid:
            continue
        try:
            title, artefact = output.read(path)
        except ValueError as e:
            notes.append(str(e))
            continue
        if artefact.rows:
            found[name] = title, artefact
    return found


def _dataset(arguments, workdir: Workdir, notes: list[str]) -> Any:
    """Where the image files are; None, with a note, when they are not found."""
    from item_jax.datasets.dataset import open_dataset

    given = arguments.records or arguments.images
    try:
        return open_dataset(arguments.records or workdir.records, arguments.images)
    except (ValueError, OSError) as e:
        if given:
            raise
        notes.append(f"no pictures: {e}; --records and --images say where they are")
        return None


def _evidence(arguments, workdir: Workdir, found, notes: list[str]) -> dict[str, Any]:
    """The cache and the methods that were evaluated, those that are still there."""
    from item_jax.cache import EmbeddingCache
    from item_jax.fitted import load_seeds
    from item_jax.methods import reads_pixels
    from item_jax.model_card import settings_of
    from item_jax.sharding import enable_compilation_cache

    try:
        cache = EmbeddingCache(workdir.cache(arguments.cache))
    except ValueError as e:
        notes.append(f"no evidence, no boxes: {e}")
        return {}
    if cache.embedding != found.summary["embedding"]:
        notes.append(
            "no evidence, no boxes: the results are of other embeddings than those in "
            f"{cache.folder}; --cache names another, or run `item-jax evaluate` again"
        )
        return {}
    enable_compilation_cache()
    folders = method_folders(arguments)
    fitted = {}
    for name, evaluated in found.summary["methods"].items():
        if name not in folders:
            notes.append(
                f"no evidence of {name}: not among the methods of {workdir.path}; "
                "--head names one of another workdir"
            )
            continue
        try:
            method = load_seeds(folders[name])[0]
        except (ValueError, OSError) as e:
            notes.append(f"no evidence of {name}: {e}")
            continue
        if reads_pixels(method.module):
            notes.append(f"no evidence of {name}: it reads pixels, not embeddings")
            continue
        if settings_of(method.config) != settings_of(evaluated["config"]):
            notes.append(
                f"no evidence of {name}: {folders[name]} was fitted again since; run "
                "`item-jax evaluate` again"
            )
            continue
        fitted[name] = method
    return {"cache": cache, "fitted": fitted}
