"""The quality gate: are the miniature's fakes good enough to be worth detecting?

    python scripts/miniature/gate.py

measures the asset with the judge that comes in it, and writes `gate.json` beside this
file. Of each family it says

- how often the judge (`judge.py`), who has seen neither fakes nor the CLIP nor the
  captioner, reads the things of its pictures as their prompts say: 70% at least;
- how well a probe of 16 numbers of the spectrum (`item_jax.pixel_probe`), trained on
  this family's test images, tells those of each other family from real images: an AUC
  below 80 for all of them.

A family that misses either is named; its fakes stay in the miniature. It also says how
much worse than real scenes the judge reads the family: where it reads both alike, there
is little to find.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import judge
from families import FAMILIES
from item_jax import pixel_probe

ACCURACY, AUC = 0.70, 0.80
RESULT = Path(__file__).resolve().parent / "gate.json"


def measure(world: Path, judged_by: Path) -> dict:
    """Measures every family of a world.

    Args:
        world: an unpacked asset.
        judged_by: the folder of the judge.

    Returns:
        The content of `gate.json`.
    """
    model = judge.Judge.load(judged_by)
    rows = _read(world / "prompt" / "objects.jsonl")
    test = {name: images(world, rows, f"test/{name}/") for name in FAMILIES}
    real, real_things = images(world, rows, "test/0_real/")
    own = {name: spectra(pictures) for name, (pictures, _) in test.items()}
    nature, read = spectra(real), model.accuracy(real, real_things)
    families = {}
    for name, (pictures, things) in test.items():
        others = spectrum_auc(nature, own, name)
        seen = model.accuracy(pictures, things)
        families[name] = {
            "judge": seen,
            "below_real": round(read["phrase"] - seen["phrase"], 4),
            "spectrum_auc": others,
            "holds": seen["phrase"] >= ACCURACY and max(others.values()) < AUC,
        }
    return {
        "thresholds": {"phrase_accuracy_from": ACCURACY, "spectrum_auc_below": AUC},
        "judge": json.loads((judged_by / "config.json").read_text()),
        "real": {"judge": read},
        "families": families,
        "hold": [name for name, f in families.items() if f["holds"]],
        "miss": [name for name, f in families.items() if not f["holds"]],
    }


def write(found: dict, out: Path = RESULT) -> None:
    """Prints a result of `measure` and writes it."""
    out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


def table(found: dict) -> str:
    """The result as a table."""
    lines = [
        f"{'family':<16}{'phrases':>8}{'below real':>12}"
        f"{'spectrum, worst of others':>30}"
    ]
    for name, figures in found["families"].items():
        other, worst = max(figures["spectrum_auc"].items(), key=lambda item: item[1])
        lines.append(
            f"{name:<16}{100 * figures['judge']['phrase']:>8.1f}"
            f"{100 * figures['below_real']:>12.1f}"
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
    parser.add_argument("--out", type=Path, default=RESULT, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = miniature.world()
    write(measure(world, world / "judge"), args.out)


if __name__ == "__main__":
    main()
