"""The quality gate: are the miniature's fakes good enough to be worth detecting?

    python scripts/miniature/gate.py

unpacks the asset, trains the judge on fresh real scenes if it is not in the working
folder (two minutes), and writes `gate.json` beside this file. Of each family it says

- how often the judge (`judge.py`), who has seen neither fakes nor the CLIP nor the
  captioner, reads the things of its pictures as their prompts say: 70% at least;
- how well a probe of 16 numbers of the spectrum (`item_jax.pixel_probe`), trained on
  this family's test images, tells those of each other family from real images: an AUC
  below 80 for all of them.

A family that misses either is named; its fakes stay in the miniature.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import generators
import judge
import pools
from families import FAMILIES
from item_jax import pixel_probe

ACCURACY, AUC = 0.70, 0.80
RESULT = Path(__file__).resolve().parent / "gate.json"


def measure(workdir: Path, world: Path | None = None) -> dict:
    """Measures every family of a world.

    Args:
        workdir: has the judge; gets it if not.
        world: an unpacked asset; `WORKDIR/world` by default.

    Returns:
        The content of `gate.json`.
    """
    world = world or workdir / "world"
    model, about = open_judge(workdir)
    rows = _read(world / "prompt" / "objects.jsonl")
    test = {name: images(world, rows, f"test/{name}/") for name in FAMILIES}
    real, real_things = images(world, rows, "test/0_real/")
    own = {name: spectra(pictures) for name, (pictures, _) in test.items()}
    nature = spectra(real)
    families = {}
    for name, (pictures, things) in test.items():
        others = spectrum_auc(nature, own, name)
        seen = model.accuracy(pictures, things)
        families[name] = {
            "judge": seen,
            "spectrum_auc": others,
            "holds": seen["phrase"] >= ACCURACY and max(others.values()) < AUC,
        }
    return {
        "thresholds": {"phrase_accuracy_from": ACCURACY, "spectrum_auc_below": AUC},
        "judge": about,
        "real": {"judge": model.accuracy(real, real_things)},
        "families": families,
        "hold": [name for name, f in families.items() if f["holds"]],
        "miss": [name for name, f in families.items() if not f["holds"]],
    }


def open_judge(workdir: Path) -> tuple[judge.Judge, dict]:
    """Returns the judge and its facts, trained now if it is not in the folder."""
    folder = workdir / "judge"
    if not (folder / "facts.json").exists():
        pool = pools.open_pool(workdir, pools.JUDGE)
        how = {"steps": judge.STEPS, "minutes": math.inf, "seed": pools.SEED}
        model, facts = judge.train(pool, **how)
        generators.save(model, folder)
        held_out = pools.open_pool(workdir, pools.HELD_OUT)
        facts["held_out"] = model.accuracy(held_out.images, held_out.things())
        (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    model = judge.Judge()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval(), json.loads((folder / "facts.json").read_text())


def write(found: dict, out: Path = RESULT) -> None:
    """Prints a result of `measure` and writes it."""
    out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


def table(found: dict) -> str:
    """The result as a table."""
    lines = [f"{'family':<16}{'phrases':>8}{'spectrum, worst of others':>30}"]
    for name, figures in found["families"].items():
        other, worst = max(figures["spectrum_auc"].items(), key=lambda item: item[1])
        lines.append(
            f"{name:<16}{100 * figures['judge']['phrase']:>8.1f}"
            f"{100 * worst:>13.1f} on {other:<14}"
            f"  {'holds' if figures['holds'] else 'MISSES'}"
        )
    lines.append(f"{'real':<16}{100 * found['real']['judge']['phrase']:>8.1f}")
    return "\n".join(lines)


def images(world: Path, rows: list[dict], start: str) -> tuple[np.ndarray, list]:
    """The images whose keys begin so, and phrase and box of their things."""
    own = [row for row in rows if row["key"].startswith(start)]
    images = [np.asarray(Image.open(world / "images" / row["key"])) for row in own]
    things = [[(o["phrase"], o["box"]) for o in row["objects"]] for row in own]
    return np.stack(images), things


def spectra(images: np.ndarray) -> np.ndarray:
    return np.stack([pixel_probe.features(i)[-pixel_probe.RINGS :] for i in images])


def spectrum_auc(
    real: np.ndarray, fakes: dict[str, np.ndarray], name: str
) -> dict[str, float]:
    """AUC on each other family of a probe trained on one; float [n, 16] each."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    labels = np.repeat([0, 1], [len(real), len(fakes[name])])
    probe.fit(np.concatenate([real, fakes[name]]), labels)
    return {n: _auc(probe, real, x) for n, x in fakes.items() if n != name}


def _auc(probe, real: np.ndarray, fake: np.ndarray) -> float:
    labels = np.repeat([0, 1], [len(real), len(fake)])
    scores = probe.decision_function(np.concatenate([real, fake]))
    return round(float(roc_auc_score(labels, scores)), 4)


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    from item_jax.datasets import miniature

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("miniature-work"),
        help="folder for the judge and its scenes (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = miniature.unpack(args.workdir / "asset")
    found = measure(args.workdir, world)
    write(found, args.out)


if __name__ == "__main__":
    main()
