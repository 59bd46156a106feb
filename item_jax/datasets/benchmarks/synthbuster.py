"""Synthbuster (Bammey, OJSP 2023): nine generators, prompted by what RAISE shows.

The archive holds fakes alone. Its images answer to those of RAISE-1k by name; put
RAISE-1k, as PNG, beside them in `RAISE-1k/` to have real images to test against.
"""

from __future__ import annotations

from item_jax.datasets.benchmarks import Benchmark, Place

REAL = "RAISE-1k"


def _table() -> Benchmark:
    # The folders of the archive (zenodo.org/records/10066460), 1,000 images each.
    generators = (
        *("dalle2", "dalle3", "firefly", "glide", "midjourney-v5"),
        *("stable-diffusion-1-3", "stable-diffusion-1-4"),
        *("stable-diffusion-2", "stable-diffusion-xl"),
    )
    places = [Place(name, "fake", name, "test", "fakes") for name in generators]
    places.append(Place(REAL, "real", REAL, "test", "reals"))
    return Benchmark(
        name="synthbuster",
        places=tuple(places),
        counts={("test", p.generator, p.label): 1000 for p in places},
        real_sources=dict.fromkeys(generators, REAL),
        tops=("",),
    )


BENCHMARK = _table()
