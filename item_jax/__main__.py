"""The door: `item-jax demo | index | audit | embed | train | evaluate | predict | ...`.

It parses and calls; everything it does can be imported.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from item_jax import __version__, config, records

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
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name, run, help, example, *, stage=False):
        p = verbs.add_parser(
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
        index,
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
        audit,
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
        build_dataset,
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

    verb(
        "embed",
        embed,
        "Embed the images, captions and objects of records; a stopped run goes on.",
        "item-jax embed --config=configs/item_vitl14.py --workdir run "
        "--config.dtype=bfloat16",
        stage=True,
    )
    verb(
        "train",
        train,
        "Train the head on embeddings; a stopped run goes on.",
        "item-jax train --config=configs/item_vitl14.py --workdir run "
        "--config.misalignment.w2=0",
        stage=True,
    )
    verb(
        "evaluate",
        evaluate,
        "Score the test split and print ACC, AP and AUC per generator.",
        "item-jax evaluate --config=configs/item_vitl14.py --workdir run",
        stage=True,
    )

    p = verb(
        "predict",
        predict,
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
        show_config,
        "Print every field of a configuration with its value.",
        "item-jax config --config=configs/item_vitl14.py",
    )
    p.add_argument("--config", help="run card; default: the paper's configuration")
    verb(
        "check",
        check,
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


def _config(arguments):
    c = config.load(arguments.config) if arguments.config else config.default()
    for name, value in arguments.overrides:
        config.override(c, name, value)
    return c


def _say(text: str) -> None:
    print(text, flush=True)


def index(arguments) -> int:
    """`item-jax index`."""
    found = _find(arguments.images, arguments)
    joined, report = records.join(
        found.records,
        captions=arguments.captions,
        objects=arguments.objects,
    )
    out = Path(arguments.out)
    records.write_records(out, joined)
    run = {
        "images": str(Path(arguments.images).resolve()),
        "captioner": _sidecar_name(arguments.captions, "captioner"),
        "grounder": _sidecar_name(arguments.objects, "grounder"),
        "pairs": found.pairs,
        "index": found.settings | {"faults": found.faults},
    }
    records.write_json(out.with_suffix(".run.json"), run)
    _say(found.text())
    _say(report.text())
    _say(f"wrote {out}")
    return 1 if found.faults else 0


def _find(root, arguments):
    from item_jax.datasets import layout

    return layout.find(
        root,
        arguments.benchmark,
        generators=tuple(g for g in arguments.generators.split(",") if g),
        split=arguments.split,
        train_subset=arguments.train_subset,
    )


def audit(arguments) -> int:
    """`item-jax audit`."""
    from item_jax.audit import audit, text

    c = _config(arguments)
    if arguments.records:
        from item_jax.datasets import jsonl

        found, run = jsonl.load(arguments.records)
        pairs = run.get("pairs")
    else:
        index = _find(arguments.root, arguments)
        found, pairs = index.records, index.pairs
    result = audit(
        found,
        arguments.root,
        pairs=pairs,
        quality=c.neutralise.quality,
        size=c.neutralise.size,
        threads=c.embed.threads,
    )
    _say(text(result))
    if arguments.json:
        records.write_json(arguments.json, result)
    return 1 if result["failures"] else 0


def build_dataset(arguments) -> int:
    """`item-jax build-dataset`."""
    from item_jax.datasets import jsonl, tfds

    found, run = jsonl.load(arguments.records)
    images = arguments.images or run.get("images")
    if not images:
        raise ValueError("where are the images? Give --images FOLDER")
    folder = tfds.build(
        found,
        images=images,
        data_dir=arguments.data_dir,
        name=arguments.name,
        run=run,
        shards=arguments.shards,
    )
    _say(f"packed {len(found)} images; wrote {folder}")
    return 0


def _sidecar_name(path: str | None, role: str) -> str | None:
    """Names a sidecar's model and settings by what its run.json says."""
    if path is None:
        return None
    for run in (Path(path).with_suffix(".run.json"), Path(path).parent / "run.json"):
        if run.is_file():
            said = json.loads(run.read_text(encoding="utf-8"))
            model = said.get(role, {}).get("id", "unnamed")
            return f"{model} ({str(said.get('fingerprint', 'no fingerprint'))[:12]})"
    return "unknown: no run.json beside the file"


def _source(path):
    """The records of a file, or the pack of a folder, and what is known of them."""
    from etils import epath

    from item_jax.datasets import jsonl

    if not epath.Path(path).is_dir():
        return jsonl.load(path)
    from item_jax.datasets import tfds

    pack = tfds.Pack(path)
    return pack, pack.run


def embed(arguments) -> int:
    """`item-jax embed`."""
    c = _config(arguments)
    workdir = Path(arguments.workdir)
    found, run = _source(c.data.records or workdir / "records.jsonl")
    images = c.data.images or run.get("images")
    if not images and isinstance(found, list):
        raise ValueError("where are the images? Set --config.data.images=FOLDER")

    from item_jax.embed import embed_records
    from item_jax.sharding import barrier, leads
    from item_jax.towers.load import load_towers

    towers = load_towers(c.tower, c.dtype)
    start = time.perf_counter()
    cache = embed_records(
        found,
        towers,
        c,
        images=images,
        folder=workdir / "embeddings",
        sidecars={k: run.get(k) for k in ("captioner", "grounder")},
        pairs=run.get("pairs"),
    )
    seconds = time.perf_counter() - start
    barrier("embedded")
    if not leads():
        return 0
    counts = cache.counts()
    rate = counts["in"] / max(seconds, 1e-9)
    _say(
        f"{counts['in']} images = {counts['done']} embedded + {counts['failed']} "
        f"failed, {seconds:.1f} s ({rate:.1f} img/s)"
    )
    for row in cache.failures()[:5]:
        _say(f"  failed: {row['key']}: {row['error']}")
    return 1 if counts["failed"] else 0


def train(arguments) -> int:
    """`item-jax train`."""
    from item_jax.cache import EmbeddingCache
    from item_jax.progress import progress
    from item_jax.sharding import leads
    from item_jax.train import train_heads

    c = _config(arguments)
    workdir = Path(arguments.workdir)
    cache = EmbeddingCache(workdir / "embeddings")
    start = time.perf_counter()
    with progress("train", c.train.epochs, "epoch", show=leads()) as bar:

        def on_epoch(epoch, losses):
            bar.update(epoch - bar.n)
            bar.set_postfix(loss=f"{losses.mean():.4f}")

        heads = train_heads(cache, c, workdir=workdir, on_epoch=on_epoch)
    if not leads():
        return 0
    said = heads[0].config["training"]
    _say(
        f"trained {len(heads)} head{'s' if len(heads) > 1 else ''} on {said['real']} "
        f"real + {said['fake']} fake of {', '.join(said['generators'])}, "
        f"{c.train.epochs} epochs, {time.perf_counter() - start:.1f} s; "
        f"wrote {workdir / 'head'}"
    )
    return 0


def evaluate(arguments) -> int:
    """`item-jax evaluate`."""
    from item_jax.cache import EmbeddingCache
    from item_jax.evaluate import evaluate_heads, table
    from item_jax.heads import Head
    from item_jax.sharding import leads

    if not leads():  # arithmetic on the cache: one process is enough
        return 0

    c = _config(arguments)
    workdir = Path(arguments.workdir)
    folders = [workdir / "head", *sorted((workdir / "head").glob("seed-*"))]
    results = evaluate_heads(
        EmbeddingCache(workdir / "embeddings"),
        [Head.load(folder) for folder in folders],
        c,
        workdir=workdir,
    )
    _say(table(results))
    _say(f"wrote {workdir / 'results'}")
    return 1 if results["counts"]["failed"] else 0


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
        _say(f"\n$ item-jax {' '.join(stage)}")
        status = main(stage)
        if status:
            return status
    fake = sorted((world / "images" / "test").glob("*/1_fake/*"))[0]
    _say(
        f"\nThe whole demo took {time.perf_counter() - start:.0f} s. The miniature is "
        "a toy world: it shows that\nevery stage works, not what ITEM scores on "
        f"ForenSynths. Next, one image with its evidence:\n  item-jax predict {fake} "
        f"--head {workdir / 'head'} --records {workdir / 'records.jsonl'}"
    )
    return 0


def predict(arguments) -> int:
    """`item-jax predict`."""
    from item_jax.detector import ItemDetector

    paths = [Path(p).resolve() for p in arguments.image]
    root = Path(os.path.commonpath([p.parent for p in paths]))
    keys = [p.relative_to(root).as_posix() for p in paths]
    if arguments.caption is not None:
        wanted = [records.Record(key, caption=arguments.caption) for key in keys]
    else:
        wanted = _records_of(paths, keys, arguments.records)
    detector = ItemDetector.from_pretrained(arguments.head, towers=arguments.towers)
    predictions = detector.predict(wanted, images=root)
    rows = []
    for name, record, prediction in zip(arguments.image, wanted, predictions):
        row: dict[str, Any] = {
            "image": name,
            "p_fake": prediction.p_fake,
            "verdict": prediction.verdict,
            "status": prediction.status,
            "error": prediction.error,
            "caption": record.caption,
            "cosine": prediction.cosine,
        }
        if prediction.status != "done":
            _say(f"{name}: failed: {prediction.error}")
        else:
            row |= _explained(detector, record, root)
            _say(_verdict_text(row, detector.head.config["threshold"]))
        rows.append(row)
    if arguments.json:
        records.write_json_lines(arguments.json, rows)
    return 1 if any(row["status"] != "done" for row in rows) else 0


def _records_of(paths, keys, file) -> list[records.Record]:
    """Finds each image's record: the one whose key its path ends with."""
    import dataclasses

    known = {record.key: record for record in records.iter_records(file)}
    wanted = []
    for path, key in zip(paths, keys):
        parts = path.parts
        endings = ("/".join(parts[i:]) for i in range(1, len(parts)))
        match = next((e for e in endings if records.normalise_key(e) in known), None)
        if match is None:
            raise ValueError(
                f"{file} has no record for {path}; "
                f"{config.nearest(key, list(known)[:20])}"
            )
        record = known[records.normalise_key(match)]
        wanted.append(dataclasses.replace(record, key=key))
    return wanted


def _explained(detector, record, root) -> dict[str, Any]:
    e = detector.explain(record, images=root)
    return {
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


def _verdict_text(row, threshold) -> str:
    lines = [
        f"{row['image']}: {row['verdict']}, P(fake) = {row['p_fake']:.3f} "
        f"(fake above {threshold}), cosine {row['cosine']:+.3f}",
        f"  caption: {row['caption']}",
        f"  P(fake) without the whole image {row['p_fake_without_global']:.3f}, "
        f"without objects {row['p_fake_without_objects']:.3f}",
    ]
    if row["objects"]:
        width = max(len(o["phrase"]) for o in row["objects"])
        lines.append(f"  {'object':<{width}}  cosine  P(fake) without it")
        lines += [
            f"  {o['phrase']:<{width}}  {o['cosine']:+.3f}  {o['p_fake_without']:.3f}"
            for o in row["objects"]
        ]
    return "\n".join(lines)


def show_config(arguments) -> int:
    """`item-jax config`."""
    for name, value in config.leaves(_config(arguments)).items():
        _say(f"--config.{name}={value!r}")
    return 0


def check(arguments) -> int:
    """`item-jax check`."""
    import importlib.metadata as metadata
    import platform
    import shutil

    import jax

    _say(f"item-jax {__version__}, Python {platform.python_version()}")
    for name in (
        *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
        *("transformers", "tensorflow-datasets", "numpy", "pillow", "scikit-learn"),
    ):
        try:
            _say(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            _say(f"  {name} is missing: pip install {name}")
    devices = jax.devices()
    _say(f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})")
    _say(f"{shutil.disk_usage('.').free / 2**30:.1f} GiB of disk free here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
