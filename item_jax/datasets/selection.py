"""Some of the images of a data set, such as those of one split."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from item_jax import records as records_lib
from item_jax.datasets.dataset import Dataset, checked, facts, records
from item_jax.records import Record


class Selection:
    """A `Dataset` of some images of another one, in their order.

    Attributes:
      facts: those of the whole.
    """

    def __init__(self, data: Dataset, numbers: Sequence[int]):
        """Chooses images by number.

        Args:
          data: of all images.
          numbers: of those that are wanted.
        """
        self._data, self._numbers = data, list(numbers)
        self.facts = facts(data)
        self.image_root = getattr(data, "image_root", None)

    @functools.cached_property
    def sha256(self) -> str:
        return records_lib.digest(records(self))

    def __len__(self) -> int:
        return len(self._numbers)

    def record(self, number: int) -> Record:
        return self._data.record(self._numbers[checked(number, len(self))])

    def read(self, number: int) -> bytes:
        return self._data.read(self._numbers[checked(number, len(self))])


def of_split(data: Dataset, split: str) -> Selection:
    """Returns the images of one split.

    Raises:
      ValueError: if there are none, with the splits that there are.
    """
    splits = [record.split for record in records(data)]
    numbers = [number for number, own in enumerate(splits) if own == split]
    if not numbers:
        known = ", ".join(repr(name) for name in sorted(set(splits)))
        raise ValueError(f"no image of split {split!r}; there are {known or 'none'}")
    return Selection(data, numbers)
