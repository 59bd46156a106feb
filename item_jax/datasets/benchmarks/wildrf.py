"""WildRF (arXiv 2406.09398): what people post on three social networks.

Real and fake images found by keywords and hashtags, so that no generator is known: the
networks stand in its place. The authors train on one and test on the others; whose
images `train` and `val` are, their repository does not say.
"""

from __future__ import annotations

import itertools

from item_jax.datasets.benchmarks import Benchmark, Place

NETWORKS = ("reddit", "twitter", "facebook")


def _table() -> Benchmark:
    # The tree in the README of RealTime-DeepfakeDetection-in-the-RealWorld, which
    # prints no counts.
    labels = (("0_real", "real"), ("1_fake", "fake"))
    places = [
        Place(f"test/{network}/{folder}", label, network, "test", "test")
        for network, (folder, label) in itertools.product(NETWORKS, labels)
    ]
    places += [
        Place(f"{split}/{folder}", label, "wildrf", split, split)
        for split, (folder, label) in itertools.product(("train", "val"), labels)
    ]
    return Benchmark(
        name="wildrf",
        places=tuple(places),
        tops=("", "test", "train", "val"),
    )


BENCHMARK = _table()
