"""The diffusion test sets of UniversalFakeDetect (arXiv 2302.10174).

Eight sets of fakes, tested against the real images of ImageNet or LAION.
"""

from __future__ import annotations

from item_jax.datasets.benchmarks import Benchmark, Place


def _table() -> Benchmark:
    # UniversalFakeDetect, dataset_paths.py and README: 1,000 images a folder, ADM
    # ("guided") against ImageNet and the other seven against LAION. Forks that pair
    # ldm or glide with ImageNet get other numbers.
    real_sources = {"guided": "imagenet"} | dict.fromkeys(
        (
            "ldm_200 ldm_200_cfg ldm_100 glide_100_27 glide_50_27 glide_100_10 dalle"
        ).split(),
        "laion",
    )
    top, split = "diffusion_datasets", "test"
    places = [
        Place(f"{top}/{source}/0_real", "real", source, split, split)
        for source in ("imagenet", "laion")
    ]
    places += [
        Place(f"{top}/{g}/1_fake", "fake", g, split, split) for g in real_sources
    ]
    counts = {(split, p.generator, p.label): 1000 for p in places}
    return Benchmark(
        name="unifd",
        places=tuple(places),
        counts=counts,
        real_sources=real_sources,
        tops=("", top),
        paper=tuple(real_sources),
    )


BENCHMARK = _table()
