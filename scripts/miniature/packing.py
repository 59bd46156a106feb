"""From trained models to the asset: images, texts, zip.

The folder `WORKDIR/world` is what the asset unpacks to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

import camera
import captioner_training
import detector
import generators
import pools
import readme
from families import FAMILIES, TRAINED_ON

REALS = {"train": 300, "test": 500}  # shared by all families
FAKES = {"train": 300, "test": 150}  # of each family
SCRIPTS = Path(__file__).resolve().parent.parent
CAPTION = ("--preset", "hf-greedy", "--batch-size", "50")
GROUND = ("--grounder", "grounder", "--batch-size", "50")


def prompts(family: str, split: str) -> pools.Pool:
    """The scenes whose layouts a family draws: of no other use, and never empty."""
    first = {"train": pools.PROMPT_TRAIN, "test": pools.PROMPT_TEST}[split]
    count = FAKES[split]
    pool = pools.draw_pool(first + list(FAMILIES).index(family), count + count // 8)
    return pool.take([i for i, own in enumerate(pool.objects) if own][:count])


def draw_family(workdir: Path, family: str) -> None:
    """Draws and photographs the fakes of a family into the world, with their prompts.

    What is there already is kept.
    """
    number = list(FAMILIES).index(family)
    done = workdir / "images" / f"{family}.jsonl"
    if done.exists():
        return
    rows = []
    for place, split in enumerate(("test", *(["train"] * (family in TRAINED_ON)))):
        pool = prompts(family, split)
        seed = pools.SEED + 10 * number + place
        drawn = generators.draw(family, workdir, pool, seed=seed)
        start = [pools.SEED, pools.CAMERA, number, place]
        images = [
            camera.photograph(clean, np.random.default_rng([*start, i]))
            for i, clean in enumerate(drawn)
        ]
        rows += _write(workdir, f"{split}/{family}/1_fake", images, pool)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(_lines(rows))


def draw_images(workdir: Path) -> dict:
    """Writes all images of the world, and the prompts as `prompt/`."""
    rows = []
    for split, number in (("train", pools.REAL_TRAIN), ("test", pools.REAL_TEST)):
        pool = pools.draw_pool(number, REALS[split])
        rows += _write(workdir, f"{split}/0_real", pool.images, pool)
    for family in FAMILIES:
        draw_family(workdir, family)
        text = (workdir / "images" / f"{family}.jsonl").read_text()
        rows += [json.loads(line) for line in text.splitlines()]
    world = workdir / "world" / "prompt"
    world.mkdir(parents=True, exist_ok=True)
    rows.sort(key=lambda row: row["key"])
    captions = [{k: v for k, v in r.items() if k not in TEXT_OF_OBJECTS} for r in rows]
    objects = [{k: v for k, v in r.items() if k not in TEXT_OF_CAPTION} for r in rows]
    (world / "captions.jsonl").write_text(_lines(captions))
    (world / "objects.jsonl").write_text(_lines(objects))
    about = {"id": "miniature prompt", "seed": pools.SEED, "world": "scenes.py"}
    for role, name in (("captioner", "captions"), ("grounder", "objects")):
        (world / f"{name}.run.json").write_text(_run_json({role: about}))
    return {"images": len(rows)}


TEXT_OF_OBJECTS = ("phrases", "objects")
TEXT_OF_CAPTION = ("sha256", "width", "height", "caption")


def _write(workdir: Path, folder: str, images, pool: pools.Pool) -> list[dict]:
    """Writes JPEG files and returns a row of each with what it was drawn from."""
    place = workdir / "world" / "images" / folder
    place.mkdir(parents=True, exist_ok=True)
    rows = []
    for i, image in enumerate(images):
        key = f"{folder}/{i:04d}.jpg"
        data = camera.to_jpeg(image)
        (place / f"{i:04d}.jpg").write_bytes(data)
        rows.append(
            {
                "key": key,
                "sha256": hashlib.sha256(data).hexdigest(),
                "width": camera.SIDE,
                "height": camera.SIDE,
                "caption": pool.captions[i],
                "phrases": [{"phrase": p, "span": s} for p, s in pool.phrases[i]],
                "objects": [
                    {"phrase": p, "span": s, "box": b, "score": 1.0}
                    for p, s, b in pool.objects[i]
                ],
                "status": "done",
                "error": None,
            }
        )
    return rows


def write_texts(workdir: Path) -> dict:
    """Captions and grounds the world by the sidecar programs.

    Returns:
        The accuracy of captioner and detector on scenes they have not seen, in files
        that are made as those of the world.
    """
    world = workdir / "world"
    for name in ("captioner", "detector"):
        shutil.rmtree(world / name, ignore_errors=True)
        shutil.copytree(workdir / name / "model", world / name)
    held_out = pools.open_pool(workdir, pools.HELD_OUT)
    seen = workdir / "held-out"
    _write(seen, "", held_out.images, held_out)
    run_sidecars(seen / "world" / "images", world, seen)
    names = sorted((seen / "world" / "images").glob("*.jpg"))
    pictures = np.stack([np.asarray(Image.open(name)) for name in names])
    captions = [row["caption"] for row in _read(seen / "captions" / "captions.jsonl")]
    measured = captioner_training.measure(captions, held_out)
    run_sidecars(world / "images", world, workdir / "texts")
    for role, name in (("captioner", "captions"), ("grounder", "objects")):
        out = workdir / "texts" / name
        shutil.copyfile(out / f"{name}.jsonl", world / f"{name}.jsonl")
        run = json.loads((out / "run.json").read_text())
        run.pop("images")  # a path of this machine
        (world / f"{name}.run.json").write_text(json.dumps(run, indent=2) + "\n")
        assert run[role]["id"]
    return {
        "captioner": measured,
        "detector": detector.measure(
            detector.Detector.load(world / "detector"),
            dataclasses.replace(held_out, images=pictures),
        ),
    }


def run_sidecars(images: Path, world: Path, out: Path, keep: bool = False) -> None:
    """Runs `scripts/caption.py` and `scripts/ground.py` with the world's models.

    Args:
        images: a folder of images.
        world: has `captioner/` and `detector/`.
        out: gets `captions/`, `phrases.jsonl` and `objects/`.
        keep: whether to continue what is there; else it is deleted first.
    """
    for name in () if keep else ("captions", "objects"):
        shutil.rmtree(out / name, ignore_errors=True)
    _program("caption", images, out, "captions", world, *CAPTION)
    captions = out / "captions" / "captions.jsonl"
    # NLTK's tagger is not made for "a small pink heart": the phrases of this world's
    # sentences are found by its own grammar.
    phrases = [
        {"key": r["key"], "phrases": captioner_training.find_phrases(r["caption"])}
        for r in _read(captions)
    ]
    (out / "phrases.jsonl").write_text(_lines(phrases))
    given = ("--captions", captions, "--phrases", out / "phrases.jsonl")
    _program("ground", images, out, "objects", world, *given, *GROUND)


def _program(name: str, images: Path, out: Path, result: str, world: Path, *options):
    model = world / {"caption": "captioner", "ground": "detector"}[name]
    command = [sys.executable, SCRIPTS / f"{name}.py", "--images", images]
    command += ["--out", out / result, "--model", model, *options]
    path = os.pathsep.join([str(SCRIPTS / "miniature"), os.getenv("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    subprocess.run([str(c) for c in command], check=True, env=environment)


def pack(workdir: Path, out: Path) -> dict:
    """Writes the zip; the same world gives the same bytes."""
    world = workdir / "world"
    for name in ("clip", "judge"):
        shutil.rmtree(world / name, ignore_errors=True)
        shutil.copytree(workdir / name / "model", world / name)
    facts = {
        path.parent.name: json.loads(path.read_text())
        for path in workdir.glob("*/facts.json")
    }
    (world / "README.md").write_text(readme.text(facts))
    members = sorted(p for p in world.rglob("*") if p.is_file())
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for path in members:
            name = path.relative_to(world).as_posix()
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    os.replace(partial, out)
    return {"files": len(members), "bytes": out.stat().st_size}


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _lines(rows: list[dict]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


def _run_json(about: dict) -> str:
    """The text of a `run.json` of texts that no program has written."""
    run = {"schema": "item-sidecar/2", **about}
    canonical = json.dumps(run, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({**run, "fingerprint": fingerprint}, indent=2) + "\n"
