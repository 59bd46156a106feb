"""A data set of what somebody holds in hand: records, paths, PIL images, arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from item_jax import images as images_lib
from item_jax.datasets.dataset import Dataset, RecordList
from item_jax.records import Record

Input = Record | str | Path | Image.Image | np.ndarray
KINDS = (Record, str, Path, Image.Image, np.ndarray)


class Pictures:
    """A data set of what somebody holds in hand: paths, PIL images, arrays."""

    facts: dict[str, Any] = {}

    def __init__(self, inputs: Sequence[Input], root: Path, captions: Sequence[str]):
        self._inputs, self._root, self._captions = inputs, root, captions

    def __len__(self) -> int:
        return len(self._inputs)

    def record(self, number: int) -> Record:
        given = self._inputs[number]
        key = str(given) if isinstance(given, str | Path) else f"input {number}"
        return Record(key, caption=self._captions[number])

    def read(self, number: int) -> bytes:
        given = self._inputs[number]
        if isinstance(given, str | Path):
            path = self._root / given
            return images_lib.read_bytes(path.parent, path.name)
        if isinstance(given, np.ndarray):
            return _png(Image.fromarray(given))
        assert isinstance(given, Image.Image)
        try:
            return _png(given)
        except OSError:  # a mode that PNG does not have, such as CMYK
            return _png(given.convert("RGB"))


def _png(picture: Image.Image) -> bytes:
    """Returns a picture as a file, its EXIF orientation included."""
    file = io.BytesIO()
    picture.save(file, "PNG", exif=picture.getexif())
    return file.getvalue()


def as_dataset(
    inputs: Input | Sequence[Input],
    images: str | Path | None,
    captions: Sequence[str] | str | None,
) -> Dataset:
    """Makes a data set of the inputs of `ItemDetector.predict`.

    Raises:
      ValueError: saying what to pass.
    """
    given = [inputs] if isinstance(inputs, KINDS) else list(inputs)
    captions = [captions] if isinstance(captions, str) else captions
    wrong = [x for x in given if not isinstance(x, KINDS)]
    records = [x for x in given if isinstance(x, Record)]
    if wrong or 0 < len(records) < len(given):
        found = type(wrong[0]).__name__ if wrong else "both kinds"
        raise ValueError(
            "pass a list of records, or of paths, PIL images or uint8 arrays [H, W, 3] "
            f"with captions=; found {found}"
        )
    if not records and given:
        if captions is None or len(captions) != len(given):
            raise ValueError(
                f"{len(given)} images need as many captions, found "
                f"{0 if captions is None else len(captions)}: "
                'predict(["x.jpg"], captions=["a dog on a beach"])'
            )
        for x in given:
            if isinstance(x, np.ndarray):
                images_lib.check_image(x)
        return Pictures(given, Path(images or "."), captions)
    if captions:
        raise ValueError("captions= goes with images; a record has its own caption")
    if records and images is None:
        raise ValueError(
            "where are the images of the records? predict(records, images=FOLDER)"
        )
    return RecordList(records, images)
