"""GenImage (arXiv 2306.08571): eight generators on ImageNet's classes."""

from __future__ import annotations

import itertools

from item_jax.datasets.benchmarks import Benchmark, Place, Subset


def _table() -> Benchmark:
    # GenImage, Readme.md; the folders as they are unpacked.
    unpacked = {
        "Midjourney": "imagenet_midjourney",
        "stable_diffusion_v_1_4": "imagenet_ai_0419_sdv4",
        "stable_diffusion_v_1_5": "imagenet_ai_0424_sdv5",
        "ADM": "imagenet_ai_0508_adm",
        "glide": "imagenet_glide",
        "wukong": "imagenet_ai_0424_wukong",
        "VQDM": "imagenet_ai_0419_vqdm",
        "BigGAN": "imagenet_ai_0419_biggan",
    }
    places, counts = [], {}
    # There is no other test set: papers report on its validation images.
    for (generator, inner), (folder, split) in itertools.product(
        unpacked.items(), (("val", "test"), ("train", "train"))
    ):
        top = f"{generator}/{inner}/{folder}"
        part = f"{generator} ({split})"  # archives are of one generator
        # In the order of the alphabet "ai" would be 0, that is real.
        places.append(Place(f"{top}/nature", "real", generator, split, part))
        places.append(Place(f"{top}/ai", "fake", generator, split, part))
    for generator, label in itertools.product(unpacked, ("real", "fake")):
        more = generator == "stable_diffusion_v_1_5"
        counts["test", generator, label] = 8000 if more else 6000
    return Benchmark(
        name="genimage",
        places=tuple(places),
        counts=counts,
        tops=("", "*", *(f"{g}/{inner}" for g, inner in unpacked.items())),
        paper=("ADM", "glide", "VQDM"),
        # ADM on ImageNet; that of DiffusionForensics has this size by itself.
        subsets={"adm-40000": Subset("ADM", (), 40000)},
    )


BENCHMARK = _table()
