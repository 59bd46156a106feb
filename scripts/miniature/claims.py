"""Which claims of the papers hold in the miniature world, with paired intervals.

    python scripts/miniature/claims.py

embeds the miniature (captioned, prompt, and the test images perturbed), trains ITEM's
head in each variant with several seeds on each family that has a training set, scores
all test images, and writes `item_jax/assets/miniature_claims.json`. A figure is the
AUC, averaged over the families that the head has not seen. A difference is paired: both
sides score the same images, and images and seeds are in its interval
(`item_jax.statistics`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import item_jax
from families import TRAINED_ON
from item_jax import evaluate, protocol, statistics
from item_jax.datasets import miniature
from item_jax.datasets.folder import FolderDataset, label_folders

RESULT = Path(item_jax.__file__).parent / "assets" / "miniature_claims.json"
BOTH, GLOBAL, LOCAL = {}, {"w2": 0.0}, {"w1": 0.0}
ASIDE = {"levels": "concat"}
VARIANTS: dict[str, dict[str, Any]] = {
    "item": BOTH,
    "item, global": GLOBAL,
    "item, local": LOCAL,
    "image only": {"name": "image_only"},
    "image only, global": {"name": "image_only", **GLOBAL},
    "image only, local": {"name": "image_only", **LOCAL},
    "item, side by side": ASIDE,
    "image only, side by side": {"name": "image_only", **ASIDE},
    "text only": {"name": "text_only"},
    "absolute": {"name": "absolute_unit"},
    "tidy": {"name": "tidy"},
}
PERTURBED = ("noise:3", "blur:1", "jpeg:3")
# claim: (better, worse)
CLAIMS: dict[str, tuple[str, str]] = {
    "multi-modal beats image only, both levels": ("item", "image only"),
    "multi-modal beats image only, global": ("item, global", "image only, global"),
    "multi-modal beats image only, local": ("item, local", "image only, local"),
    "multi-modal beats image only, levels side by side": (
        "item, side by side",
        "image only, side by side",
    ),
    "multi-modal beats text only": ("item", "text only"),
    "both levels beat global": ("item", "item, global"),
    "both levels beat local": ("item", "item, local"),
    "both levels side by side beat global": ("item, side by side", "item, global"),
    "both levels side by side beat local": ("item, side by side", "item, local"),
    "levels side by side beat their sum": ("item, side by side", "item"),
    "signed (ITEM) beats absolute on unit embeddings": ("item", "absolute"),
    "signed (ITEM) beats TIDY": ("item", "tidy"),
    "the head beats two cosines": ("item", "cosine"),
}


def open_cache(name: str, workdir: Path, world: Path, towers, config):
    """Embeds the miniature, or goes on with what the folder has.

    Args:
        name: "captioned", "prompt", or a perturbation `NAME:SEVERITY` of the test
            images (with the captions and boxes of the clean ones).
    """
    config = config.copy_and_resolve_references()
    texts = name if name in miniature.TEXTS else "captioned"
    images = world / "images"
    data = FolderDataset(
        images,
        *miniature.text_files(world, texts),
        index=label_folders(images, benchmark="miniature"),
    )
    if name in miniature.TEXTS:
        return item_jax.embed_records(data, towers, config, folder=workdir / name)
    config.perturb.name, severity = name.split(":")
    config.perturb.severity = int(severity)
    test = [record for record in data.records if record.split == "test"]
    return item_jax.embed_records(
        test,
        towers,
        config,
        folder=workdir / name.replace(":", "-"),
        images=images,
        facts=data.facts,
    )


def fit(cache, config, family: str) -> dict[str, list]:
    """Fits every variant, and the two cosines, on one family."""
    config = config.copy_and_resolve_references()
    config.train.generators = (family,)
    images = item_jax.training_set(cache, config)
    fitted = {}
    for name, change in VARIANTS.items():
        variant = config.copy_and_resolve_references()
        variant.misalignment.update(change)
        fitted[name] = item_jax.fit_method("item", images, variant)
    fitted["cosine"] = item_jax.fit_method("cosine", images, config)
    return fitted


class Scored:
    """Scores of several methods on one set of test images.

    Attributes:
        estimates: with the columns `(name, seed)`.
    """

    def __init__(self, columns, labels, groups):
        self.columns = {name: [] for name, _ in columns}
        for name, seed in columns:
            self.columns[name].append((name, seed))
        self.estimates = statistics.estimate(labels, groups, columns)

    def figures(self, name: str) -> dict[str, Any]:
        """AUC in percent, mean over seeds: `macro`, its interval, and each family."""
        return self._summary(
            lambda group: self.estimates.figure(self.columns[name], "auc", group)
        )

    def difference(self, one: str, other: str) -> dict[str, Any]:
        """The same of `one` - `other`, with its p."""
        sides = self.columns[one], self.columns[other]
        found = self._summary(
            lambda group: self.estimates.difference(*sides, "auc", group)
        )
        low, high = found["interval_95"]
        verdict = "holds" if low > 0 else "fails" if high < 0 else "undecided"
        return {"difference": found.pop("macro"), **found, "verdict": verdict}

    def _summary(self, of) -> dict[str, Any]:
        macro = of(None)
        families = {name: of(name) for name in self.estimates.groups}
        return {
            "macro": _percent(macro.value),
            "interval_95": [_percent(v) for v in macro.ends],
            **({} if macro.p is None else {"p": float(f"{macro.p:.3g}")}),
            "families": {n: _percent(f.value) for n, f in families.items() if f},
        }


def _percent(value: float) -> float:
    return round(100 * float(value), 2)


def score(cache, fitted, seen: tuple[str, ...]) -> tuple[dict, np.ndarray, dict]:
    """Scores the test images: columns, labels, and the groups not in `seen`."""
    found = evaluate.score(cache, fitted, split="test")
    sources = protocol.complete_real_sources(found.rows, cache.real_sources)
    groups = protocol.groups(found.rows, real_sources=sources)
    groups = {name: rows for name, rows in groups.items() if name not in seen}
    return found.columns, found.labels, groups


def run(workdir: Path, *, seeds: int) -> dict[str, Any]:
    """Computes everything; returns the content of that file."""
    world = miniature.unpack(workdir)
    config = miniature.get_config(world)
    config.train.seeds = seeds
    towers = item_jax.load_towers(config.tower, config.dtype)
    caches = {
        name: open_cache(name, workdir, world, towers, config)
        for name in (*miniature.TEXTS, *PERTURBED)
    }
    out: dict[str, Any] = {
        "unit": "AUC in percent, mean over the families that the head has not seen",
        "seeds": seeds,
        "trained_on": {},
    }
    for texts in miniature.TEXTS:
        for family in TRAINED_ON if texts == "captioned" else TRAINED_ON[:1]:
            fitted = fit(caches[texts], config, family)
            scored = Scored(*score(caches[texts], fitted, (family,)))
            place = out["trained_on"].setdefault(family, {}).setdefault(texts, {})
            place["methods"] = {name: scored.figures(name) for name in fitted}
            place["claims"] = {
                claim: scored.difference(*sides) for claim, sides in CLAIMS.items()
            }
            print(texts, family, json.dumps(place["claims"], indent=1), flush=True)
            if texts == "captioned" and family == TRAINED_ON[0]:
                some = {name: fitted[name] for name in ("item", "image only")}
                out["robustness"] = robustness(caches, some, family)
    out["training_family"] = training_family(caches["captioned"], config)
    return out


def robustness(caches, fitted, family: str) -> dict[str, Any]:
    """What perturbed pixels cost, with captions and boxes of the clean ones."""
    columns, labels, groups = score(caches["captioned"], fitted, (family,))
    everything = {(f"{n}, clean", k): v for (n, k), v in columns.items()}
    for name in PERTURBED:
        other, same, _ = score(caches[name], fitted, (family,))
        assert (same == labels).all()
        everything |= {(f"{n}, {name}", k): v for (n, k), v in other.items()}
    scored = Scored(everything, labels, groups)
    return {
        name: {
            "item": scored.figures(f"item, {name}"),
            "image only": scored.figures(f"image only, {name}"),
            "item keeps its AUC": scored.difference(f"item, {name}", "item, clean"),
            "multi-modal beats image only": scored.difference(
                f"item, {name}", f"image only, {name}"
            ),
        }
        for name in PERTURBED
    }


def training_family(cache, config) -> dict[str, Any]:
    """ITEM trained on each family, on the families that none of them was trained on."""
    fitted = {}
    for family in TRAINED_ON:
        config = config.copy_and_resolve_references()
        config.train.generators = (family,)
        images = item_jax.training_set(cache, config)
        fitted[family] = item_jax.fit_method("item", images, config)
    scored = Scored(*score(cache, fitted, TRAINED_ON))
    return {
        "item": {family: scored.figures(family) for family in TRAINED_ON},
        "differences": {
            f"{a} - {b}": scored.difference(a, b)
            for i, a in enumerate(TRAINED_ON)
            for b in TRAINED_ON[i + 1 :]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("miniature-claims"),
        help="folder of the embeddings (default: %(default)s)",
    )
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULT, help="default: %(default)s")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(
            f"--seeds is {args.seeds}; the spread over seeds needs two or more"
        )
    found = run(args.workdir, seeds=args.seeds)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
