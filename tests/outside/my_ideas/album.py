"""A benchmark: which folder of its download holds what."""

from item_jax.datasets.benchmarks import Benchmark, Place

BENCHMARK = Benchmark(
    name="album",
    places=tuple(
        Place(f"album/{split}/{label}", label, "camera", split, split)
        for split in ("train", "test")
        for label in ("real", "fake")
    ),
    counts={
        (split, "camera", label): 6
        for split in ("train", "test")
        for label in ("real", "fake")
    },
)
