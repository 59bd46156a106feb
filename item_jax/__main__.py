"""The door: `item-jax demo | index | audit | embed | train | evaluate | predict | ...`.

It parses and calls; everything it does can be imported.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from item_jax import __version__, verbs

_STAGE_OPTIONS = """
Any field of the configuration can be set: --config.train.epochs=10
(`item-jax config` prints all of them with their values).
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns the exit status: 0, 1 (some images failed) or 2."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    try:
        arguments.overrides = _overrides(rest)
        if arguments.overrides and not hasattr(arguments, "config"):
            raise ValueError(f"takes no --config option such as {rest[0]}")
        if getattr(arguments, "distributed", False):
            from item_jax import sharding

            sharding.initialize()
        return arguments.run(arguments) or 0
    except (ValueError, OSError, RuntimeError, FloatingPointError) as e:
        if os.environ.get("ITEM_JAX_TRACEBACK"):
            raise
        print(f"item-jax {arguments.verb}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nitem-jax {arguments.verb}: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="item-jax",
        description="Detect AI-generated images by image-text misalignment (ITEM, "
        "TIDY), in JAX.",
        epilog="Begin with `item-jax demo`. `item-jax VERB --help` shows an example.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, run, help, example, *, stage=False):
        p = subparsers.add_parser(
            name,
            help=help,
            description=help + ("\n" + _STAGE_OPTIONS if stage else ""),
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=run)
        if stage:
            p.add_argument("--config", help="run card, such as configs/item_vitl14.py")
            p.add_argument("--workdir", required=True, help="where results go")
            p.add_argument(
                "--distributed",
                action="store_true",
                help="one of several processes (TPU pod, SLURM, JAX_PROCESS_ID ...)",
            )
        return p

    p = verb(
        "demo",
        demo,
        "Run every stage on the miniature world: index, embed, train, evaluate.",
        "item-jax demo",
    )
    p.add_argument("--workdir", default="item-jax-demo", help="default: %(default)s")

    p = verb(
        "index",
        verbs.index,
        "Find the images below a folder, join them with captions and objects, and "
        "write records.",
        "item-jax index --images data/images --captions data/captions.jsonl "
        "--objects data/objects.jsonl --out run/records.jsonl",
    )
    p.add_argument("--images", required=True, help="folder the keys are relative to")
    _layout_options(p)
    p.add_argument("--captions", help="captions.jsonl of scripts/caption.py")
    p.add_argument("--objects", help="objects.jsonl of scripts/ground.py")
    p.add_argument("--out", required=True, help="records.jsonl to write")

    p = verb(
        "audit",
        verbs.audit,
        "Say what the files of real and fake images give away by their formats, sizes "
        "and headers, and how far a classifier gets with that alone.",
        "item-jax audit data/CNN_synth_testset --benchmark forensynths\n"
        "  item-jax audit data --config.neutralise.quality=96 "
        "--config.neutralise.size=256",
    )
    p.add_argument("root", metavar="ROOT", help="folder of the images")
    _layout_options(p)
    p.add_argument("--records", help="records.jsonl; instead of reading the folder")
    p.add_argument("--config", help="run card, for its `neutralise`")
    p.add_argument("--json", help="write everything found to this file")

    p = verb(
        "build-dataset",
        verbs.build_dataset,
        "Pack records and their image files for TensorFlow Datasets (ArrayRecord; "
        "without TensorFlow).",
        "item-jax build-dataset --records run/records.jsonl --data-dir packed "
        "--name forensynths\n  item-jax embed --workdir run "
        "--config.data.records=packed/item/forensynths/1.0.0",
    )
    p.add_argument("--records", required=True, help="records.jsonl")
    p.add_argument("--images", help="default: what records.run.json says")
    p.add_argument("--data-dir", required=True, help="a folder, or gs://bucket/folder")
    p.add_argument("--name", required=True, help="of the data set")
    p.add_argument("--shards", type=int, default=0, help="files of a split")

    p = verb(
        "embed",
        verbs.embed,
        "Embed the images, captions and objects of records; a stopped run goes on.",
        "item-jax embed --config=configs/item_vitl14.py --workdir run "
        "--config.dtype=bfloat16",
        stage=True,
    )
    p.add_argument(
        "--retry-failed",
        action="store_true",
        help="make the shards again in which an image could not be read",
    )
    verb(
        "train",
        verbs.train,
        "Train the head on embeddings; a stopped run goes on.",
        "item-jax train --config=configs/item_vitl14.py --workdir run "
        "--config.misalignment.w2=0",
        stage=True,
    )
    p = verb(
        "evaluate",
        verbs.evaluate,
        "Score the test split and print ACC, AP and AUC per generator.",
        "item-jax evaluate --config=configs/item_vitl14.py --workdir run\n"
        "  item-jax evaluate --workdir genimage --head progan/head",
        stage=True,
    )
    p.add_argument("--head", help="trained in another workdir; default: WORKDIR/head")

    p = verb(
        "predict",
        verbs.predict,
        "Score images and show the evidence.",
        'item-jax predict photo.jpg --head run/head --caption "a dog on a beach"',
    )
    p.add_argument("image", nargs="+")
    p.add_argument("--head", required=True, help="folder or Hugging Face id")
    p.add_argument("--towers", help="folder or id; default: the head's own")
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--records", help="records.jsonl with captions and objects")
    source.add_argument("--caption", help="one caption for the image(s) given")
    p.add_argument("--json", help="write the results to this file, a line an image")

    p = verb(
        "config",
        verbs.show_config,
        "Print every field of a configuration with its value.",
        "item-jax config --config=configs/item_vitl14.py",
    )
    p.add_argument("--config", help="run card; default: the paper's configuration")
    verb(
        "check",
        verbs.check,
        "Print versions, devices and free disk space.",
        "item-jax check",
    )
    return parser


def _layout_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--benchmark",
        default="",
        help="forensynths, unifd, diffusionforensics or genimage, whose trees are "
        "known and checked; any other name is only written into the records",
    )
    p.add_argument(
        "--generators",
        default="",
        help="of a known benchmark: only these, such as ADM,glide; `paper`: the "
        "columns of ITEM's tables",
    )
    p.add_argument("--split", default="", help="of a known benchmark: only this one")
    p.add_argument(
        "--train-subset",
        default="",
        help="progan-20x2000 (default of forensynths), progan-4x10000, adm-40000, all",
    )


def _overrides(rest: list[str]) -> list[tuple[str, str]]:
    """Reads `--config.field=value` and `--config.field value`."""
    found = []
    rest = list(rest)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            raise ValueError(f"unknown argument {word!r}; see --help")
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            if not rest:
                raise ValueError(f"{word} needs a value: {word}=VALUE")
            value = rest.pop(0)
        found.append((name, value))
    return found


def demo(arguments) -> int:
    """`item-jax demo`."""
    from item_jax.datasets import miniature

    start = time.perf_counter()
    workdir = Path(arguments.workdir)
    world = miniature.unpack(workdir)
    card = workdir / "run_card.py"
    card.write_text(
        "from item_jax.datasets import miniature\n\n\n"
        f"def get_config():\n    return miniature.get_config({str(world)!r})\n"
    )
    stages = [
        [
            *("index", "--images", str(world / "images")),
            *("--captions", str(world / "captions.jsonl")),
            *("--objects", str(world / "objects.jsonl")),
            *("--benchmark", "miniature", "--out", str(workdir / "records.jsonl")),
        ],
        *(
            [stage, f"--config={card}", "--workdir", str(workdir)]
            for stage in ("embed", "train", "evaluate")
        ),
    ]
    for stage in stages:
        verbs.say(f"\n$ item-jax {' '.join(stage)}")
        status = main(stage)
        if status:
            return status
    fake = sorted((world / "images" / "test").glob("*/1_fake/*"))[0]
    verbs.say(
        f"\nThe whole demo took {time.perf_counter() - start:.0f} s. The miniature is "
        "a toy world: it shows that\nevery stage works, not what ITEM scores on "
        f"ForenSynths. Next, one image with its evidence:\n  item-jax predict {fake} "
        f"--head {workdir / 'head'} --records {workdir / 'records.jsonl'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
