"""`item-jax index`."""

from __future__ import annotations

import argparse
from pathlib import Path

from item_jax import files, protocol, records
from item_jax.commands import LAYOUT, configured, find_images, option, say
from item_jax.join import check_perturbations, join, sidecar_facts

HELP = (
    "Find the images below a folder, join them with captions and objects, and write "
    "records."
)
EXAMPLE = (
    "item-jax index --images data/images --captions data/captions.jsonl "
    "--objects data/objects.jsonl --out run/records.jsonl"
)
OPTIONS = (
    option("--images", required=True, help="folder the keys are relative to"),
    *LAYOUT,
    option("--captions", help="captions.jsonl of scripts/caption.py"),
    option("--objects", help="objects.jsonl of scripts/ground.py"),
    option("--out", required=True, help="records.jsonl to write"),
)


def run(arguments: argparse.Namespace) -> int:
    c = configured(arguments)
    chosen = bool(arguments.config or arguments.overrides)
    captioner = sidecar_facts(arguments.captions, "captioner")
    grounder = sidecar_facts(arguments.objects, "grounder")
    check_perturbations(captioner, grounder)
    found = find_images(arguments.images, arguments)
    joined, report = join(
        found.records,
        captions=arguments.captions,
        objects=arguments.objects,
        threshold=c.data.score_threshold if chosen else None,
    )
    rows = [vars(record) for record in joined]
    out = Path(arguments.out)
    run = {
        "images": str(Path(arguments.images).resolve()),
        "captioner": captioner,
        "grounder": grounder,
        "real_sources": protocol.complete_real_sources(rows, found.real_sources),
        "index": found.settings | {"faults": found.faults},
    }
    records.write_records(out, joined)
    files.write_json(out.with_suffix(".run.json"), run)
    say(found.text())
    say(report.text())
    say(f"wrote {out}")
    return 1 if found.faults else 0
