"""Benchmark families as downloaded, one file each.

A family is a table: which folder holds which images of which generator, how many there
should be, and whose real images a generator without its own is tested against. A file
here, or a module of your own, defines it as `BENCHMARK`;
`item_jax.datasets.layout` reads a folder by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from item_jax import choices


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder of a benchmark.

    Attributes:
      folder: POSIX path from the top of the benchmark.
      label: "real" or "fake".
      generator: of its images; for real images that several generators share, their
        source.
      split: "train", "val" or "test".
      part: what is downloaded together; a part of which nothing is there is not missed.
      optional: not missed when the rest of its part is there.
    """

    folder: str
    label: str
    generator: str
    split: str
    part: str
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Subset:
    """Which images of a training set are used.

    Attributes:
      generator: whose images.
      classes: the class folders, or () where there are none.
      each: images of a class and label, the first in the order of the SHA-256 of their
        paths; every machine chooses the same ones.
    """

    generator: str
    classes: tuple[str, ...]
    each: int


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A family of test sets.

    Attributes:
      name: written into every record.
      places: all its folders.
      counts: images of `(split, generator, label)` where a figure is known.
      real_sources: {generator: generator whose real images it is tested against}, where
        it has none of its own.
      tops: folders of the tree that a user may point at instead of its top; "*" is
        any one folder.
      aliases: {another name of a folder: its name here}, in lower case.
      paper: generators that are columns of ITEM's Tables I to III.
      subsets: training sets by name; "all" always takes everything.
      default_subset: the one taken unless told otherwise.

    Raises:
      ValueError: for a `default_subset` that does not exist.
    """

    name: str
    places: tuple[Place, ...]
    counts: Mapping[tuple[str, str, str], int] = dataclasses.field(default_factory=dict)
    real_sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tops: tuple[str, ...] = ("",)
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    paper: tuple[str, ...] = ()
    subsets: Mapping[str, Subset] = dataclasses.field(default_factory=dict)
    default_subset: str = "all"

    def __post_init__(self) -> None:
        self.subset(self.default_subset)

    @property
    def generators(self) -> list[str]:
        """The generators, without mere sources of real images."""
        names = (p.generator for p in self.places if p.label == "fake")
        return list(dict.fromkeys(names))

    @property
    def splits(self) -> list[str]:
        """The splits, in the order of the places."""
        return list(dict.fromkeys(p.split for p in self.places))

    def subset(self, name: str) -> Subset | None:
        """Returns a training set by name; None is all images.

        Raises:
          ValueError: for an unknown name, with the nearest.
        """
        choices.check(f"training subset of {self.name}", name, ["all", *self.subsets])
        return self.subsets.get(name)


def names() -> list[str]:
    """Returns the names of the families of this package."""
    return choices.modules(__name__)


def get(name: Any) -> Benchmark:
    """Returns the table of a family.

    Args:
      name: one of `names()` in any case; `package.module` with a `BENCHMARK`, or
        `package.module:name`; or such a module, or a `Benchmark`.

    Raises:
      ValueError: for an unknown name, with the nearest; or for something else than a
        `Benchmark`.
    """
    known = name
    if isinstance(name, str) and name.casefold() in names():
        known = name.casefold()
    elif not isinstance(name, str) and hasattr(name, "BENCHMARK"):
        known = name.BENCHMARK
    found = choices.resolve("benchmark", known, __name__, attribute="BENCHMARK")
    if isinstance(found, ModuleType):
        found = found.BENCHMARK
    if not isinstance(found, Benchmark):
        raise ValueError(
            f"benchmark {name!r} is a {type(found).__name__}; expected an "
            "item_jax.datasets.benchmarks.Benchmark"
        )
    return found
