"""DiffusionForensics: the data of DIRE (arXiv 2303.09295).

Real images of three domains, and the fakes that several generators made of each.
"""

from __future__ import annotations

import itertools

from item_jax.datasets.benchmarks import Benchmark, Place


def _table() -> Benchmark:
    # DIRE, README; the generators of the LSUN test set as listed in NPR's issue 14.
    lsun = (
        "adm dalle2 ddpm diff-projectedgan diff-stylegan iddpm if ldm midjourney pndm "
        "projectedgan sdv1 sdv1_new sdv1_new2 sdv2 stylegan_official vqdiffusion"
    ).split()
    domains = {
        "lsun_bedroom": lsun,
        "imagenet": ["adm", "sdv1"],
        "celebahq": ["sdv2", "if", "dalle2", "midjourney"],
    }
    # `sdv1_new` is the one that NPR and FatFormer use. Training sets exist for some
    # generators only.
    spare = {"sdv1", "sdv1_new2"}
    places, real_sources = [], {}
    for split, (domain, generators) in itertools.product(
        ("test", "val", "train"), domains.items()
    ):
        top, part = f"images/{split}/{domain}", f"{split}/{domain}"
        places.append(Place(f"{top}/real", "real", domain, split, part))
        for name in generators:
            generator = f"{domain}_{name}"
            optional = split != "test" or (domain == "lsun_bedroom" and name in spare)
            place = Place(f"{top}/{name}", "fake", generator, split, part, optional)
            places.append(place)
            real_sources[generator] = domain
    counts = {
        ("test", f"lsun_bedroom_{name}", "fake"): {
            "dalle2": 500,
            "midjourney": 100,
        }.get(name, 1000)
        for name in lsun
        if name not in spare
    }
    counts["test", "lsun_bedroom", "real"] = 1000
    # The training set of ITEM's Fig. 6, "ADM trained on ImageNet".
    counts["train", "imagenet", "real"] = counts["train", "imagenet_adm", "fake"] = (
        40000
    )
    paper = (
        "sdv1_new sdv2 ldm dalle2 midjourney projectedgan stylegan_official "
        "diff-projectedgan diff-stylegan"
    ).split()
    tops = ["", "images"] + [f"images/{s}" for s in ("test", "val", "train")]
    tops += [f"images/{s}/{d}" for s in ("test", "val", "train") for d in domains]
    return Benchmark(
        name="diffusionforensics",
        places=tuple(places),
        counts=counts,
        real_sources=real_sources,
        tops=tuple(tops),
        aliases={"midjouney": "midjourney"},  # a tar of the release has this name
        paper=tuple(f"lsun_bedroom_{name}" for name in paper),
    )


BENCHMARK = _table()
