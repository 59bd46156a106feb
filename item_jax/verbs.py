"""What each verb of the command line does and prints; `__main__` parses for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from item_jax import __version__, config, records
from item_jax.join import join


def _config(arguments):
    c = config.load(arguments.config) if arguments.config else config.default()
    for name, value in arguments.overrides:
        config.override(c, name, value)
    config.check(c)
    return c


def say(text: str) -> None:
    """Prints at once, also into a pipe."""
    print(text, flush=True)


def index(arguments) -> int:
    """`item-jax index`."""
    found = _find(arguments.images, arguments)
    joined, report = join(
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
    say(found.text())
    say(report.text())
    say(f"wrote {out}")
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
    say(text(result))
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
    say(f"packed {len(found)} images; wrote {folder}")
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
    from item_jax.datasets import jsonl

    c = _config(arguments)
    workdir = Path(arguments.workdir)
    found, run = _source(c.data.records or workdir / "records.jsonl")
    images = c.data.images or run.get("images")
    if not images and isinstance(found, jsonl.RecordFile):
        raise ValueError("where are the images? Set --config.data.images=FOLDER")

    from item_jax.embed import embed_records
    from item_jax.sharding import barrier, keep_programs, leads
    from item_jax.towers.load import load_towers

    keep_programs()
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
        retry_failed=arguments.retry_failed,
    )
    seconds = time.perf_counter() - start
    barrier("embedded")
    if not leads():
        return 0
    counts = cache.counts()
    rate = counts["in"] / max(seconds, 1e-9)
    say(
        f"{counts['in']} images = {counts['done']} embedded + {counts['failed']} "
        f"failed, {seconds:.1f} s ({rate:.1f} img/s)"
    )
    for row in cache.failures()[:5]:
        say(f"  failed: {row['key']}: {row['error']}")
    return 1 if counts["failed"] else 0


def train(arguments) -> int:
    """`item-jax train`."""
    from item_jax.cache import EmbeddingCache
    from item_jax.progress import progress
    from item_jax.sharding import keep_programs, leads
    from item_jax.train import train_heads

    c = _config(arguments)
    keep_programs()
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
    say(
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
    from item_jax.sharding import keep_programs, leads

    if not leads():  # arithmetic on the cache: one process is enough
        return 0

    c = _config(arguments)
    keep_programs()
    workdir = Path(arguments.workdir)
    head = Path(arguments.head or workdir / "head")
    folders = [head, *sorted(head.glob("seed-*"))]
    results = evaluate_heads(
        EmbeddingCache(workdir / "embeddings"),
        [Head.load(folder) for folder in folders],
        c,
        workdir=workdir,
    )
    say(table(results))
    say(f"wrote {workdir / 'results'}")
    return 1 if results["counts"]["failed"] else 0


def predict(arguments) -> int:
    """`item-jax predict`."""
    from item_jax.detector import ItemDetector
    from item_jax.sharding import keep_programs

    paths = [Path(os.path.abspath(p)) for p in arguments.image]
    root = Path(os.path.commonpath([p.parent for p in paths]))
    keys = [p.relative_to(root).as_posix() for p in paths]
    if arguments.caption is not None:
        wanted = [records.Record(key, caption=arguments.caption) for key in keys]
    else:
        wanted = _records_of(paths, keys, arguments.records)
    keep_programs()
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
            say(f"{name}: failed: {prediction.error}")
        else:
            row |= _explained(detector, record, root)
            say(_verdict_text(row, detector.head.config["threshold"]))
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
        say(f"--config.{name}={value!r}")
    return 0


def check(arguments) -> int:
    """`item-jax check`."""
    import importlib.metadata as metadata
    import platform
    import shutil

    import jax

    say(f"item-jax {__version__}, Python {platform.python_version()}")
    for name in (
        *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
        *("transformers", "tensorflow-datasets", "numpy", "pillow", "scikit-learn"),
    ):
        try:
            say(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            say(f"  {name} is missing: pip install {name}")
    devices = jax.devices()
    say(f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})")
    say(f"{shutil.disk_usage('.').free / 2**30:.1f} GiB of disk free here")
    return 0
