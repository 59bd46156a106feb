"""ForenSynths: the training and test sets of CNNDetection (arXiv 1912.11035).

ProGAN's images of 20 LSUN classes to train on, thirteen generators to test on.
"""

from __future__ import annotations

import itertools

from item_jax.datasets.benchmarks import Benchmark, Place, Subset

# The 20 classes of LSUN that ProGAN was trained on (CNNDetection, README).
LSUN = (
    "airplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()


def _both(top: str, generator: str, split: str, part: str) -> list[Place]:
    """The two label folders of CNNDetection's layout."""
    return [
        Place(f"{top}/0_real", "real", generator, split, part),
        Place(f"{top}/1_fake", "fake", generator, split, part),
    ]


def _table() -> Benchmark:
    # Only these four have class folders: `multiclass` in CNNDetection's eval_config.py.
    # CycleGAN's name the source domain.
    classes = {
        "progan": LSUN,
        "stylegan": ["bedroom", "car", "cat"],
        "stylegan2": ["car", "cat", "church", "horse"],
        "cyclegan": ["apple", "horse", "orange", "summer", "winter", "zebra"],
    }
    # (real, fake) of the published zip: 90,329 images in all, 45,169 + 45,160.
    # The sum of crn, imle, san and seeingdark is known to be 26,326; its parts are
    # those of the paper (arXiv 1912.11035, Table 1), rounded there, that make it so.
    test = {
        "progan": (4000, 4000),
        "stylegan": (5991, 5991),
        "biggan": (2000, 2000),
        "cyclegan": (1321, 1321),
        "stargan": (1999, 1999),
        "gaugan": (5000, 5000),
        "crn": (6382, 6382),
        "imle": (6382, 6382),
        "seeingdark": (180, 180),
        "san": (219, 219),
        "deepfake": (2707, 2698),  # FaceForensics++; the papers' column is the last one
        "stylegan2": (7988, 7988),
        "whichfaceisreal": (1000, 1000),  # "Deepfakes" or "WFIR" in the papers
    }
    places = []
    for generator in test:
        for name in classes.get(generator, [""]):
            top = f"test/{generator}/{name}".rstrip("/")
            places += _both(top, generator, "test", "test")
    for split, name in itertools.product(("train", "val"), LSUN):
        places += _both(f"{split}/progan/{name}", "progan", split, split)
    counts = {
        ("test", generator, label): count
        for generator, pair in test.items()
        for label, count in zip(("real", "fake"), pair)
    }
    counts |= {("val", "progan", label): 4000 for label in ("real", "fake")}
    paper = "progan cyclegan biggan stylegan stylegan2 gaugan stargan whichfaceisreal"
    return Benchmark(
        name="forensynths",
        places=tuple(places),
        counts=counts,
        tops=("", "test", "val", "train"),
        paper=tuple(paper.split()),
        subsets={
            # ITEM IV-A: "4,0000 fake and real images, respectively", read as 40,000 of
            # each label; the paper does not say of which classes.
            "progan-20x2000": Subset("progan", tuple(LSUN), 2000),
            # The four classes of NPR, FatFormer and others.
            "progan-4x10000": Subset("progan", ("car", "cat", "chair", "horse"), 10000),
        },
        default_subset="progan-20x2000",
    )


BENCHMARK = _table()
