"""Builds the miniature world from scratch: scenes, CLIP, generators, fakes, zip.

    python scripts/miniature/build.py --out item_jax/assets/miniature.zip

Each stage writes its result into the working folder (`clip/`, `vae/`, `gan/`, `flow/`)
and is skipped when that exists: delete a folder to repeat its stage. Stages may run in
parallel, as processes that share the folder (`--stages`). It takes about half an hour
on two free CPU cores; `--effort 0.02` tries everything in a few minutes, with poor
figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import camera
import clip_training
import generators
import scenes

SEED = 20
STEPS = {"clip": 900, "vae": 700, "gan": 700, "flow": 1500}  # at effort 1
TRAIN_SCENES, HELD_OUT_SCENES = 30_000, 1_000
# Image sets: (split, generator) -> images per class. Scenes are seeded by
# [SEED, number of the split, number of the scene]; no number is used twice.
SETS = {
    ("train", "vae"): 400,
    ("test", "vae"): 150,
    ("test", "gan"): 150,
    ("test", "flow"): 150,
}
TRAIN, HELD_OUT, REAL, FAKE, CAMERA = 0, 1, 10, 20, 30


@dataclasses.dataclass
class Pool:
    """Scenes of one split, in arrays.

    Attributes:
        images, clean: uint8 [N, 64, 64, 3].
        layouts: int16 [N, 5, 7], see `scenes.Scene`.
        captions, others: N sentences, right and wrong in one detail.
        phrases, objects: per scene, see `scenes.Scene`.
        crops: uint8 [M, 64, 64, 3], the objects' views; crop_phrases: M phrases.
    """

    images: np.ndarray
    clean: np.ndarray
    layouts: np.ndarray
    captions: list[str]
    others: list[str]
    phrases: list
    objects: list
    crops: np.ndarray
    crop_phrases: list[str]


def _draw(job: tuple[int, int]) -> tuple[scenes.Scene, list[np.ndarray]]:
    scene = scenes.draw_scene(np.random.default_rng([SEED, *job]))
    return scene, [camera.object_view(scene.image, b) for _, _, b in scene.objects]


@functools.cache
def draw_pool(split: int, count: int) -> Pool:
    """Draws `count` scenes; the same ones each time."""
    with multiprocessing.get_context("spawn").Pool(2) as workers:
        drawn = workers.map(_draw, [(split, i) for i in range(count)], chunksize=100)
    drawn_scenes = [scene for scene, _ in drawn]
    return Pool(
        images=np.stack([s.image for s in drawn_scenes]),
        clean=np.stack([s.clean for s in drawn_scenes]),
        layouts=np.stack([s.layout for s in drawn_scenes]),
        captions=[s.caption for s in drawn_scenes],
        others=[s.other_caption for s in drawn_scenes],
        phrases=[s.phrases for s in drawn_scenes],
        objects=[s.objects for s in drawn_scenes],
        crops=np.stack([v for _, views in drawn for v in views]),
        crop_phrases=[p for s in drawn_scenes for p, _, _ in s.objects],
    )


def train_stage(stage: str, workdir: Path, effort: float, minutes: float) -> None:
    """Trains the CLIP or one generator, unless it is in the working folder."""
    folder = workdir / stage
    if (folder / "facts.json").exists():
        print(f"{stage}: already in {folder}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    pool = draw_pool(TRAIN, TRAIN_SCENES)
    steps = max(1, round(STEPS[stage] * effort))
    how = {"steps": steps, "minutes": minutes, "seed": SEED}
    if stage == "clip":
        facts = clip_training.train(pool, folder / "model", **how)
        held_out = draw_pool(HELD_OUT, HELD_OUT_SCENES)
        facts["held_out"] = clip_training.measure(folder / "model", held_out)
    else:
        model, facts = generators.train(stage, pool, **how)
        save_file(model.state_dict(), folder / "model.safetensors")
    print(stage, json.dumps(facts, indent=2), flush=True)
    (folder / "facts.json").write_text(json.dumps(facts))


def draw_images(workdir: Path) -> tuple[dict[str, bytes], list[dict], list[dict]]:
    """Photographs reals and fakes; returns files by key, caption rows, object rows."""
    files, captions, objects = {}, [], []
    for number, ((split, family), count) in enumerate(SETS.items()):
        real, described = (
            draw_pool(REAL + number, count),
            draw_pool(FAKE + number, count),
        )
        model = generators.FAMILIES[family]()
        model.load_state_dict(load_file(workdir / family / "model.safetensors"))
        drawn = generators.draw(model.eval(), described.layouts, seed=SEED + number)
        photographs = [
            camera.photograph(x, np.random.default_rng([SEED, CAMERA + number, i]))
            for i, x in enumerate(drawn)
        ]
        for label, pool, images in (
            ("0_real", real, real.images),
            ("1_fake", described, photographs),
        ):
            for i, image in enumerate(images):
                key = f"{split}/{family}/{label}/{i:04d}.jpg"
                data = files[key] = camera.to_jpeg(image)
                start = {"key": key, "sha256": hashlib.sha256(data).hexdigest()}
                end = {"status": "done", "error": None}
                size = {"width": camera.SIDE, "height": camera.SIDE}
                captions.append({**start, **size, "caption": pool.captions[i], **end})
                phrases = [{"phrase": p, "span": s} for p, s in pool.phrases[i]]
                boxes = [
                    {"phrase": p, "span": s, "box": b, "score": 1.0}
                    for p, s, b in pool.objects[i]
                ]
                objects.append({**start, "phrases": phrases, "objects": boxes, **end})
    return files, captions, objects


def run_json(role: str, about: dict) -> str:
    """Returns the text of `run.json` for a sidecar file, with its fingerprint."""
    run = {"schema": "item-sidecar/2", role: about}
    canonical = json.dumps(run, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    return json.dumps({**run, "fingerprint": fingerprint}, indent=2) + "\n"


def pack(workdir: Path, out: Path) -> None:
    """Writes the zip; the same input gives the same bytes."""
    files, captions, objects = draw_images(workdir)
    members = {f"images/{key}": data for key, data in files.items()}
    members["captions.jsonl"] = _lines(captions)
    members["objects.jsonl"] = _lines(objects)
    members["captions.run.json"] = run_json(
        "captioner",
        {"id": "miniature scene sentence", "seed": SEED, "world": "scenes.py"},
    )
    members["objects.run.json"] = run_json(
        "grounder",
        {"id": "miniature scene boxes", "seed": SEED, "world": "scenes.py"},
    )
    for path in (workdir / "clip" / "model").iterdir():
        members[f"clip/{path.name}"] = path.read_bytes()
    members["README.md"] = readme(
        {s: json.loads((workdir / s / "facts.json").read_text()) for s in STEPS}
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, members[name], zipfile.ZIP_DEFLATED, 9)
    os.replace(partial, out)
    print(f"{out}: {len(members)} files, {out.stat().st_size / 1e6:.2f} MB")


def _lines(rows: list[dict]) -> str:
    return "".join(json.dumps(r) + "\n" for r in sorted(rows, key=lambda r: r["key"]))


def readme(facts: dict[str, dict]) -> str:
    """Returns the README of the world from the facts of its trainings."""
    seen = facts["clip"]["held_out"]
    models = "\n".join(
        f"| {stage} | {f['parameters']:,} | {f['steps']:,} | {f['minutes']} |"
        for stage, f in facts.items()
    )
    sets = "\n".join(
        f"| {split}/{family} | {n} | {n} |" for (split, family), n in SETS.items()
    )
    return f"""# The miniature world

A small closed world on which every stage of ITEM runs for real on a CPU. It is a toy
world: it shows that the code works and how the method behaves here, and says nothing
about ForenSynths or any other benchmark of photographs.

## What is in it

- `images/`: 64x64 JPEG files (quality {camera.JPEG_QUALITY}). Real: drawn scenes, up
  to {scenes.MAX_THINGS} things on a textured ground. Fake: the same kind of scene
  drawn by a small generative model from a layout (boxes with the names of what is in
  them, and the ground's names and frame). Both are taken by one simulated camera
  (exposure, lens, noise) and saved by one encoder. Real scenes of the sets are
  disjoint, and none was used to train anything.
- `captions.jsonl`, `objects.jsonl`: for each image the scene's sentence, its noun
  phrases and the boxes of its things. A fake's are those of the layout it was drawn
  from, as a prompt would be. About {scenes.EMPTY_SHARE:.0%} of the scenes are empty and
  have no boxes; a ground is a phrase without a box.
- `clip/`: a small CLIP in the Hugging Face format (float16), trained on
  {TRAIN_SCENES:,} other scenes with their sentences and on their objects with their
  phrases.

| set | real | fake |
| --- | --- | --- |
{sets}

## How it was made

`python scripts/miniature/build.py`, seed {SEED}, PyTorch on a CPU. The clock may cut a
training short (`--minutes`); the table has the steps taken.

| model | parameters | steps | minutes |
| --- | --- | --- | --- |
{models}

The generators (a VAE, a GAN and a flow-matching model) share one small U-Net backbone;
their training sets are the clean renderings of the same {TRAIN_SCENES:,} scenes.

The CLIP on {seen["scenes"]:,} scenes it has not seen, float16 weights run in float32:

| measure | value |
| --- | --- |
| recall@1, image to sentence among {seen["scenes"]:,} | \
{seen["image_to_text_recall_at_1"]:.3f} |
| recall@1, sentence to image among {seen["scenes"]:,} | \
{seen["text_to_image_recall_at_1"]:.3f} |
| right sentence above one wrong in a single detail | \
{seen["right_over_nearly_right"]:.3f} |
| object's phrase first among {len(scenes.all_phrases())} | \
{seen["crop_phrase_accuracy"]:.3f} |

Licence: Apache-2.0, as the repository.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = [*STEPS, "zip"]
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("item_jax/assets/miniature.zip"),
        help="the zip to write (default: %(default)s)",
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("miniature-work"),
        help="folder of intermediate results (default: %(default)s)",
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=stages,
        default=stages,
        metavar="STAGE",
        help=f"which to run, of {', '.join(stages)} (default: all)",
    )
    parser.add_argument(
        "--effort",
        type=float,
        default=1.0,
        help="factor on all training steps (default: %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="the most that a training may take; its schedule is shortened to fit"
        " (default: no limit)",
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="PyTorch threads (default: %(default)s)"
    )
    args = parser.parse_args()
    for name in ("effort", "minutes", "threads"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name} must be above 0, found {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    for stage in STEPS:
        if stage in args.stages:
            train_stage(stage, args.workdir, args.effort, args.minutes)
    if "zip" in args.stages:
        missing = [s for s in STEPS if not (args.workdir / s / "facts.json").exists()]
        if missing:
            parser.error(
                f"{args.workdir} has no result of {', '.join(missing)}: run it first"
            )
        pack(args.workdir, args.out)


if __name__ == "__main__":
    main()
