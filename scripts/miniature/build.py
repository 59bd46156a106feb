"""Builds the miniature world from scratch.

    python scripts/miniature/build.py --out item_jax/assets/miniature.zip

Each stage writes its result into the working folder and is skipped when that is there:
delete a folder to repeat its stage. Stages may run in parallel, as processes that share
the folder (`--stages`). It takes hours on one CPU core, less with `--minutes`;
`--effort 0.02` tries everything in about a quarter of an hour, with poor figures.

    clip                   the towers
    captioner, detector    what looks at the pixels; real scenes alone
    judge                  the independent network of the quality gate
    sketch, vqvae          what the families share
    vae, gan, ...          the families (families/)
    images                 reals and fakes, photographed
    texts                  scripts/caption.py and scripts/ground.py on all of them
    gate                   the quality gate, gate.json beside this file
    zip                    the asset
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

import captioner_training
import clip_training
import detector
import gate
import generators
import judge
import packing
import pools
from families import FAMILIES, NEEDS_CODES

# Steps at effort 1.
STEPS = {
    "clip": 900,
    "captioner": 1_000,
    "detector": 1_500,
    "judge": 1_200,
    "sketch": 3_000,
    "vqvae": 2_500,
    **dict.fromkeys((f for f in FAMILIES if f != "repaint"), 2_500),
}
NEEDS = {
    **dict.fromkeys(FAMILIES, ("sketch",)),
    "vqvae": ("sketch",),
    **dict.fromkeys(NEEDS_CODES, ("sketch", "vqvae")),
    "images": ("sketch", "vqvae", *(f for f in FAMILIES if f != "repaint")),
    "texts": ("images", "captioner", "detector"),
    "gate": ("images", "judge"),
    "zip": ("clip", "texts", "gate"),
}
SKETCHED = 8_000  # scenes that the families are trained on


def train(stage: str, workdir: Path, how: dict) -> dict:
    """Trains one model into `workdir/STAGE` and returns its facts."""
    pool = pools.open_pool(workdir, pools.JUDGE if stage == "judge" else pools.TRAIN)
    folder = workdir / stage
    folder.mkdir(parents=True, exist_ok=True)
    if stage in ("clip", "captioner"):
        training = clip_training if stage == "clip" else captioner_training
        # Where only facts.json was deleted, it is trained further.
        runs = folder / "runs.json"
        earlier = json.loads(runs.read_text()) if runs.exists() else []
        how["seed"] += len(earlier)
        earlier.append(training.train(pool, folder / "model", **how))
        runs.write_text(json.dumps(earlier))
        sums = {k: round(sum(r[k] for r in earlier), 1) for k in ("steps", "minutes")}
        facts = earlier[-1] | sums | {"runs": len(earlier)}
        if stage == "captioner":  # it is measured by what it says, with the texts
            return facts
        held_out = pools.open_pool(workdir, pools.HELD_OUT)
        return facts | {"held_out": clip_training.measure(folder / "model", held_out)}
    if stage == "detector":
        model, facts = detector.train(pool, **how)
        model.save(folder / "model", facts)
        return facts
    if stage == "judge":
        model, facts = judge.train(pool, **how)
        held_out = pools.open_pool(workdir, pools.HELD_OUT)
        facts["held_out"] = model.accuracy(held_out.images, held_out.things())
        model.save(folder / "model", facts)
        return facts
    if stage == "sketch":
        return generators.train_sketch(pool, workdir, SKETCHED, **how)
    vq = generators.load("vqvae", workdir) if stage in NEEDS_CODES else None
    sketches = np.load(workdir / "sketch" / "train.npy", mmap_mode="r")
    model, facts = generators.train(stage, pool, sketches, vq, **how)
    generators.save(model, folder)
    return facts


def run(stage: str, args: argparse.Namespace) -> None:
    """Runs a stage, unless its result is in the working folder."""
    done = args.workdir / stage / "facts.json"
    if done.exists():
        print(f"{stage}: already in {done.parent}")
        return
    missing = [
        need
        for need in NEEDS.get(stage, ())
        if not (args.workdir / need / "facts.json").exists()
    ]
    if missing:
        raise SystemExit(f"{stage} needs {', '.join(missing)}: run that first")
    if stage in STEPS:
        steps = max(1, round(STEPS[stage] * args.effort))
        how = {"steps": steps, "minutes": args.minutes, "seed": pools.SEED}
        facts = train(stage, args.workdir, how)
    elif stage == "images":
        facts = packing.draw_images(args.workdir)
    elif stage == "texts":
        facts = packing.write_texts(args.workdir)
    elif stage == "gate":
        facts = gate.measure(args.workdir / "world", args.workdir / "judge" / "model")
        gate.write(facts)
    else:
        facts = packing.pack(args.workdir, args.out)
    print(stage, json.dumps(facts, indent=2), flush=True)
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(facts, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = [*STEPS, "images", "texts", "gate", "zip"]
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
    for stage in stages:
        if stage in args.stages:
            run(stage, args)


if __name__ == "__main__":
    main()
