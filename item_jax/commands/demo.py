"""`item-jax demo`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from item_jax.commands import option, say

HELP = "Run every stage on the miniature world: index, embed, train, evaluate."
EXAMPLE = "item-jax demo"
OPTIONS = (
    option("--workdir", default="item-jax-demo", help="default: %(default)s"),
    option(
        "--texts",
        default="captioned",
        choices=("captioned", "prompt"),
        help="captioned: what a captioner that looks at the pixels says, as in the "
        "paper; prompt: what the fakes were drawn from; default: %(default)s",
    ),
)

CAUGHT = "test/gan/1_fake/0005.jpg"
"""A fake that every seed of the head calls fake, P(fake) 0.86 to 0.89, with 4 boxes."""


def run(arguments: argparse.Namespace) -> int:
    from item_jax.__main__ import main
    from item_jax.datasets import miniature

    start = time.perf_counter()
    workdir = Path(arguments.workdir)
    world = miniature.unpack(workdir)
    captions, objects = miniature.text_files(world, arguments.texts)
    stages = [
        [
            *("index", "--images", str(world / "images")),
            *("--captions", str(captions), "--objects", str(objects)),
            *("--benchmark", "miniature", "--out", str(workdir / "records.jsonl")),
        ],
        *(
            [stage, f"--config=miniature:{workdir}", "--workdir", str(workdir)]
            for stage in ("embed", "train", "evaluate")
        ),
    ]
    for stage in stages:
        say(f"\n$ item-jax {' '.join(stage)}")
        status = main(stage)
        if status:
            return status
    if arguments.texts == "captioned":
        say(
            "\nWhat holds in this world, not computed by this run: measured before by\n"
            "scripts/miniature/claims.py and kept with the package. Differences of AUC "
            "in\npercent on families that the head has not seen; 95% intervals cover "
            "test images,\nseeds and the choice of training images; verdicts after "
            "Holm's correction."
        )
        for whose, title in (
            ("papers", "The papers claim:"),
            ("ours", "Neither paper compares:"),
        ):
            say(f"\n{title}")
            for claim, found in miniature.claims().items():
                if found["whose"] == whose:
                    low, high = found["interval_95"]
                    say(
                        f"  {found['verdict']:<9} {claim:<42} "
                        f"{found['difference']:+5.1f} {low:+5.1f} to {high:+5.1f}"
                    )
    else:
        say(
            "\nA prompt is no caption: the fakes were drawn from these sentences, and "
            "nobody looked\nat the pixels. ITEM is what `--texts captioned` shows."
        )
    say(
        f"\nThe whole demo took {time.perf_counter() - start:.0f} s. The miniature is "
        "a toy world: it shows that\nevery stage works, not what ITEM scores on "
        f"ForenSynths. Next, one image with its evidence:\n"
        f"  item-jax predict {world / 'images' / CAUGHT} --head {workdir / 'head'} "
        f"--records {workdir / 'records.jsonl'} --save-dir {workdir / 'evidence'}\n"
        "and all results as a page:\n"
        f"  item-jax report --workdir {workdir}"
    )
    return 0
