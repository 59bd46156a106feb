"""Which claims hold in the miniature world: the papers', and our own, with p values.

    python scripts/miniature/claims.py

embeds the miniature (captioned, prompt, and the test images perturbed), trains ITEM's
head in each variant on each family that has a training set, scores all test images, and
writes `item_jax/assets/miniature_claims.json`. A figure is the AUC, averaged over the
families that the head has not seen.

Each of the `--draws` heads of a variant is trained with its own seed on its own draw
of the training images, real and fake, with replacement. An interval over these heads
covers the choice of training images, the seed and the test images; one over seeds on
the same training images is too narrow. Such heads see fewer different images than one
trained on all of them, whose AUC is about two points higher. Both sides of a difference
score the same images. Holm's correction is over the claims of one training set; a claim
holds, or fails, if p stays below .05 after it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import item_jax
from families import TRAINED_ON
from item_jax import evaluate, files, protocol, statistics
from item_jax.datasets import miniature
from item_jax.datasets.folder import FolderDataset, label_folders
from item_jax.experiments.robustness import KINDS, SEVERITIES
from item_jax.train import TrainingSet

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
PERTURBED = tuple(f"{name}:{severity}" for name in KINDS for severity in SEVERITIES)
LEVEL = 0.05

# Whose it is: {claim: (better, worse)}
CLAIMS: dict[str, dict[str, tuple[str, str]]] = {
    # Sec. 4.3 and Fig. 4 of TIDY; Sec. IV-C and Fig. 5 of ITEM. Levels are summed.
    "papers": {
        "multi-modal beats image only": ("item", "image only"),
        "multi-modal beats text only": ("item", "text only"),
        "both levels beat global": ("item", "item, global"),
        "both levels beat local": ("item", "item, local"),
    },
    # Neither paper compares these.
    "ours": {
        "multi-modal beats image only, global": ("item, global", "image only, global"),
        "multi-modal beats image only, local": ("item, local", "image only, local"),
        "multi-modal beats image only, side by side": (
            "item, side by side",
            "image only, side by side",
        ),
        "side by side beats global": ("item, side by side", "item, global"),
        "side by side beats local": ("item, side by side", "item, local"),
        "side by side beats the sum": ("item, side by side", "item"),
        "signed beats absolute, unit embeddings": ("item", "absolute"),
        "signed (ITEM) beats TIDY": ("item", "tidy"),
        "the head beats two cosines": ("item", "cosine"),
    },
}


@dataclasses.dataclass(frozen=True)
class Scored:
    """Scores of several methods on one set of test images.

    Attributes:
        columns: P(fake), float `[n]`, by `(name, number of the draw)`.
        labels: int `[n]`, real 0 and fake 1.
        groups: row numbers of each family and the real images.
    """

    columns: dict[tuple[str, int], np.ndarray]
    labels: np.ndarray
    groups: dict[str, np.ndarray]


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


def drawn(data: TrainingSet, seed: int) -> TrainingSet:
    """Draws the training images with replacement, as many real and fake ones again."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([part.labels for part in data.parts])
    own = [np.flatnonzero(labels == label) for label in (0, 1)]
    chosen = np.sort(np.concatenate([rng.choice(i, len(i)) for i in own]))
    parts, start = [], 0
    for part in data.parts:
        inside = chosen[(chosen >= start) & (chosen < start + len(part))] - start
        if len(inside):
            parts.append(part.take(inside))
        start += len(part)
    return dataclasses.replace(data, parts=parts)


def fit(cache, config, family: str, draws: int) -> dict[str, list]:
    """Fits every variant, and the two cosines, on each draw of a family's images."""
    config = config.copy_and_resolve_references()
    config.train.generators = (family,)
    config.train.seeds = 1
    images = item_jax.training_set(cache, config)
    fitted: dict[str, list] = {}
    for k in range(draws):
        own = drawn(images, k)
        for name, change in VARIANTS.items():
            variant = config.copy_and_resolve_references()
            variant.misalignment.update(change)
            variant.seed = k
            fitted.setdefault(name, []).extend(
                item_jax.fit_method("item", own, variant)
            )
        fitted.setdefault("cosine", []).extend(
            item_jax.fit_method("cosine", own, config)
        )
        print(f"{family}: draw {k + 1} of {draws}", flush=True)
    return fitted


def score(cache, fitted) -> Scored:
    """Scores the test images."""
    found = evaluate.score(cache, fitted, split="test")
    sources = protocol.complete_real_sources(found.rows, cache.real_sources)
    groups = protocol.groups(found.rows, real_sources=sources)
    return Scored(found.columns, found.labels, groups)


def measure(workdir: Path, draws: int) -> dict[str, Scored]:
    """Embeds, trains and scores, or reads what an earlier run with `draws` has scored.

    Returns:
        The scores by "TEXTS-FAMILY". Those of "captioned-" and the first family have
        also the columns "METHOD, NAME:SEVERITY" of `item` and `image only`.
    """
    world = miniature.unpack(workdir)
    config = miniature.get_config(world)
    towers = item_jax.load_towers(config.tower, config.dtype)
    out = {}
    for texts in miniature.TEXTS:
        for family in TRAINED_ON if texts == "captioned" else TRAINED_ON[:1]:
            place = workdir / f"scores-{texts}-{family}-{draws}.npz"
            if not place.is_file():
                cache = open_cache(texts, workdir, world, towers, config)
                fitted = fit(cache, config, family, draws)
                scored = score(cache, fitted)
                some = {name: fitted[name] for name in ("item", "image only")}
                if texts == "captioned" and family == TRAINED_ON[0]:
                    for name in PERTURBED:
                        cache = open_cache(name, workdir, world, towers, config)
                        other = score(cache, some)
                        assert (other.labels == scored.labels).all()
                        scored.columns.update(
                            {
                                (f"{method}, {name}", k): column
                                for (method, k), column in other.columns.items()
                            }
                        )
                _save(place, scored)
            out[f"{texts}-{family}"] = _load(place)
    return out


def _save(path: Path, scored: Scored) -> None:
    columns = {f"{name}|{k}": x for (name, k), x in scored.columns.items()}
    groups = {f"group|{name}": index for name, index in scored.groups.items()}
    with files.atomic_file(path, binary=True) as f:
        np.savez(f, labels=scored.labels, **columns, **groups)


def _load(path: Path) -> Scored:
    columns, groups = {}, {}
    with np.load(path) as found:
        for key in found:
            name, _, k = key.rpartition("|")
            if name == "group":
                groups[k] = found[key]
            elif name:
                columns[name, int(k)] = found[key]
        return Scored(columns, found["labels"], groups)


COVERS = "test images, training seeds and the choice of training images"


def figures(estimates: statistics.Estimates, name: str, draws: int, families=None):
    """Returns a method's AUC in percent: `macro` with its interval, and each family.

    Args:
        estimates: of the columns `(name, draw)`.
        name: of the method.
        draws: of the training images.
        families: to average over; None is all that there are.
    """
    columns = [(name, k) for k in range(draws)]
    return _summary(
        lambda group: estimates.figure(columns, "auc", group), estimates, families
    )


def differences(
    estimates: statistics.Estimates,
    pairs: Mapping[str, tuple[str, str]],
    draws: int,
    families=None,
) -> dict[str, dict[str, Any]]:
    """Returns `one` - `other` of each pair, decided after Holm's correction over them.

    Args:
        pairs: {claim: (one, other)}.
        estimates, draws, families: see `figures`.

    Returns:
        {claim: {"difference", "interval_95", "covers", "p", "p_holm", "families",
        "verdict"}}; a verdict is "holds", "fails" or "undecided".
    """
    found = {}
    for claim, sides in pairs.items():
        columns = [[(name, k) for k in range(draws)] for name in sides]
        summary = _summary(
            lambda group, columns=columns: estimates.difference(*columns, "auc", group),
            estimates,
            families,
        )
        found[claim] = {"difference": summary.pop("macro"), **summary}
    adjusted = statistics.holm({claim: own["p"] for claim, own in found.items()})
    for claim, own in found.items():
        sign = "holds" if own["difference"] > 0 else "fails"
        own["p_holm"] = float(f"{adjusted[claim]:.3g}")
        own["verdict"] = sign if adjusted[claim] < LEVEL else "undecided"
    return found


def _summary(of, estimates: statistics.Estimates, families) -> dict[str, Any]:
    names = families or estimates.groups
    macro = of(list(names))
    each = {name: of(name) for name in names}
    return {
        "macro": _percent(macro.value),
        "interval_95": [_percent(end) for end in macro.ends],
        "covers": COVERS,
        **({} if macro.p is None else {"p": float(f"{macro.p:.3g}")}),
        "families": {name: _percent(found.value) for name, found in each.items()},
    }


def _percent(value: float) -> float:
    return round(100 * float(value), 2)


def judge(scores: Mapping[str, Scored], draws: int) -> dict[str, Any]:
    """Computes figures, differences and verdicts; returns the content of that file."""
    out: dict[str, Any] = {
        "unit": "AUC in percent, mean over the families that the head has not seen",
        "draws": draws,
        "holm": "over the claims of one training family and one kind of texts",
        "trained_on": {},
    }
    claims = {claim: pair for own in CLAIMS.values() for claim, pair in own.items()}
    whose = {claim: owner for owner, own in CLAIMS.items() for claim in own}
    for place, scored in scores.items():
        texts, family = place.split("-")
        estimates = _estimates(scored, family)
        names = [*VARIANTS, "cosine"]
        found = differences(estimates, claims, draws)
        out["trained_on"].setdefault(family, {})[texts] = {
            "methods": {name: figures(estimates, name, draws) for name in names},
            "claims": {
                claim: {"whose": whose[claim]} | found[claim] for claim in claims
            },
        }
    out["robustness"] = robustness(scores[f"captioned-{TRAINED_ON[0]}"], draws)
    out["training_family"] = training_family(scores, draws)
    return out


def _estimates(scored: Scored, *seen: str) -> statistics.Estimates:
    groups = {name: rows for name, rows in scored.groups.items() if name not in seen}
    return statistics.estimate(scored.labels, groups, scored.columns)


def robustness(scored: Scored, draws: int) -> dict[str, Any]:
    """What perturbed pixels cost, with captions and boxes of the clean ones.

    Holm's correction is over the perturbations and severities of each comparison.
    """
    estimates = _estimates(scored, TRAINED_ON[0])
    methods = ("item", "image only")
    kept = {
        method: differences(
            estimates,
            {name: (f"{method}, {name}", method) for name in PERTURBED},
            draws,
        )
        for method in methods
    }
    pairs = {name: tuple(f"{m}, {name}" for m in methods) for name in PERTURBED}
    beats = differences(estimates, pairs, draws)
    return {
        name: {
            method: figures(estimates, f"{method}, {name}", draws)
            | {"less clean": kept[method][name]}
            for method in methods
        }
        | {"multi-modal beats image only": beats[name]}
        for name in PERTURBED
    }


def training_family(scores: Mapping[str, Scored], draws: int) -> dict[str, Any]:
    """ITEM trained on each family, on the families that none of them was trained on."""
    first = scores[f"captioned-{TRAINED_ON[0]}"]
    columns = {
        (family, k): scores[f"captioned-{family}"].columns["item", k]
        for family in TRAINED_ON
        for k in range(draws)
    }
    joined = Scored(columns, first.labels, first.groups)
    estimates = _estimates(joined, *TRAINED_ON)
    pairs = {
        f"{a} - {b}": (a, b)
        for i, a in enumerate(TRAINED_ON)
        for b in TRAINED_ON[i + 1 :]
    }
    return {
        "item": {family: figures(estimates, family, draws) for family in TRAINED_ON},
        "differences": differences(estimates, pairs, draws),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir",
        type=Path,
        default=Path("miniature-claims"),
        help="folder of embeddings and scores (default: %(default)s)",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=10,
        help="draws of the training images, each with its own seed "
        "(default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="default: %(default)s")
    args = parser.parse_args()
    if args.draws < 2:
        parser.error(
            f"--draws is {args.draws}; the spread over draws needs two or more"
        )
    found = judge(measure(args.workdir, args.draws), args.draws)
    args.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
