"""The four benchmark families as downloaded: ForenSynths, the UniversalFakeDetect
diffusion sets, DiffusionForensics and GenImage.

Each is a table: which folder holds which images of which generator, how many there
should be, and whose real images a generator without its own is tested against.
`item_jax.datasets.layout` reads a folder by them.
"""

from __future__ import annotations

import dataclasses
import itertools

from item_jax.config import nearest


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder of a benchmark.

    Attributes:
      folder: POSIX path from the top of the benchmark.
      label: "real" or "fake".
      generator: of its images; for real images that several generators share, their
        source.
      split: "train", "val" or "test".
      part: what is downloaded together; a part none of which is there is not missed.
      optional: not missed when the rest of its part is there.
    """

    folder: str
    label: str
    generator: str
    split: str
    part: str
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A family of test sets.

    Attributes:
      places: all its folders.
      counts: images of `(split, generator, label)` where a figure is known.
      pairs: generator -> source of its real images.
      tops: folders of the tree that a user may point at instead of its top; "*" is
        any one folder.
      aliases: other names of folders.
      paper: generators that are columns of ITEM's Tables I to III.
    """

    places: tuple[Place, ...]
    counts: dict[tuple[str, str, str], int]
    pairs: dict[str, str]
    tops: tuple[str, ...]
    aliases: dict[str, str]
    paper: tuple[str, ...]

    @property
    def generators(self) -> list[str]:
        """The generators, without mere sources of real images."""
        names = (p.generator for p in self.places if p.label == "fake")
        return list(dict.fromkeys(names))


def _both(top: str, generator: str, split: str, part: str) -> list[Place]:
    """The two label folders of CNNDetection's layout."""
    return [
        Place(f"{top}/0_real", "real", generator, split, part),
        Place(f"{top}/1_fake", "fake", generator, split, part),
    ]


# The 20 classes of LSUN that ProGAN was trained on (CNNDetection, README).
LSUN = (
    "airplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor"
).split()


def _forensynths() -> Benchmark:
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
    tops = ("", "test", "val", "train")
    return Benchmark(tuple(places), counts, {}, tops, {}, tuple(paper.split()))


def _unifd() -> Benchmark:
    # UniversalFakeDetect, dataset_paths.py and README: 1,000 images a folder, ADM
    # ("guided") against ImageNet and the other seven against LAION. Forks that pair
    # ldm or glide with ImageNet get other numbers.
    pairs = {"guided": "imagenet"} | dict.fromkeys(
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
    places += [Place(f"{top}/{g}/1_fake", "fake", g, split, split) for g in pairs]
    counts = {(split, p.generator, p.label): 1000 for p in places}
    return Benchmark(tuple(places), counts, pairs, ("", top), {}, tuple(pairs))


def _diffusionforensics() -> Benchmark:
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
    places, pairs = [], {}
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
            pairs[generator] = domain
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
        tuple(places),
        counts,
        pairs,
        tuple(tops),
        {"midjouney": "midjourney"},  # a tar of the release is called so
        tuple(f"lsun_bedroom_{name}" for name in paper),
    )


def _genimage() -> Benchmark:
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
        # In the order of the alphabet "ai" would be 0, that is real.
        places.append(Place(f"{top}/nature", "real", generator, split, split))
        places.append(Place(f"{top}/ai", "fake", generator, split, split))
    for generator, label in itertools.product(unpacked, ("real", "fake")):
        more = generator == "stable_diffusion_v_1_5"
        counts["test", generator, label] = 8000 if more else 6000
    tops = ["", "*", *(f"{g}/{inner}" for g, inner in unpacked.items())]
    return Benchmark(
        tuple(places), counts, {}, tuple(tops), {}, ("ADM", "glide", "VQDM")
    )


@dataclasses.dataclass(frozen=True)
class Subset:
    """Which images of a training set are used.

    Attributes:
      benchmark: whose.
      generator: whose images.
      classes: the class folders, or () where there are none.
      each: images of a class and label, the first in the order of the SHA-256 of their
        paths; every machine chooses the same ones.
    """

    benchmark: str
    generator: str
    classes: tuple[str, ...]
    each: int


SUBSETS = {
    # ITEM IV-A: "4,0000 fake and real images, respectively", read as 40,000 of each
    # label; the paper does not say of which classes.
    "progan-20x2000": Subset("forensynths", "progan", tuple(LSUN), 2000),
    # The four classes of NPR, FatFormer and others.
    "progan-4x10000": Subset(
        "forensynths", "progan", ("car", "cat", "chair", "horse"), 10000
    ),
    # ADM on ImageNet from GenImage; that of DiffusionForensics has this size by itself.
    "adm-40000": Subset("genimage", "ADM", (), 40000),
}
"""The training sets of `index`; "all" takes everything."""

_TABLES = {
    "forensynths": _forensynths,
    "unifd": _unifd,
    "diffusionforensics": _diffusionforensics,
    "genimage": _genimage,
}
NAMES = tuple(_TABLES)


def get(name: str) -> Benchmark:
    """Returns the table of a family.

    Raises:
      ValueError: for an unknown name, with the nearest one.
    """
    if name not in _TABLES:
        raise ValueError(f"unknown benchmark {name!r}; {nearest(name, NAMES)}")
    return _TABLES[name]()
