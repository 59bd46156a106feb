"""A data set of what somebody holds in hand: records, paths, PIL images, arrays."""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from item_jax import images as images_lib
from item_jax import sidecar_runs
from item_jax.datasets.dataset import Dataset, RecordList
from item_jax.records import Object, Record
from item_jax.sidecar_runs import Request

Input = Record | str | Path | Image.Image | np.ndarray
KINDS = (Record, str, Path, Image.Image, np.ndarray)


BY_HAND = {"id": "given by hand"}
"""Stands for captioner or grounder where captions or boxes were given."""


class Pictures:
    """A data set of what somebody holds in hand: paths, PIL images, arrays.

    Attributes:
      facts: `captioner` and `grounder`.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        root: Path,
        known: Sequence[Record],
        facts: dict[str, Any],
    ):
        """Joins images and what is known of them; the keys of `known` do not matter."""
        self._inputs, self._root, self._known = inputs, root, known
        self.facts = facts

    def __len__(self) -> int:
        return len(self._inputs)

    def record(self, number: int) -> Record:
        given = self._inputs[number]
        key = str(given) if isinstance(given, str | Path) else f"input {number}"
        return dataclasses.replace(self._known[number], key=key)

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

    def save(self, number: int, name: Path) -> None:
        """Puts the image at a path: a link to its file, or a PNG."""
        given = self._inputs[number]
        if isinstance(given, str | Path):
            sidecar_runs.give_name((self._root / given).absolute(), name)
        else:
            name.write_bytes(self.read(number))


def _png(picture: Image.Image) -> bytes:
    """Returns a picture as a file, its EXIF orientation included."""
    file = io.BytesIO()
    picture.save(file, "PNG", exif=picture.getexif())
    return file.getvalue()


def as_dataset(
    inputs: Input | Sequence[Input],
    images: str | Path | None,
    captions: Sequence[str] | str | None = None,
    objects: Sequence[Sequence[Object]] | None = None,
    request: Request | None = None,
) -> Dataset:
    """Makes a data set of the inputs of `ItemDetector.predict`.

    Args:
      inputs, images, captions, objects: see there.
      request: whom to ask for what is not given: captions where `caption_with` is set,
        objects where `ground_with` is.

    Returns:
      The data set; its `facts` say who made captions and boxes, where that is known.

    Raises:
      ValueError: saying what to pass; and as `sidecar_runs.annotate`.
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
    if request:
        sidecar_runs.check_installed(request)
    if records:
        if captions or objects:
            raise ValueError(
                "captions= and objects= go with images; a record has its own caption "
                "and objects"
            )
        if images is None:
            raise ValueError(
                "where are the images of the records? predict(records, images=FOLDER)"
            )
        return _completed(records, images, request)
    makes = bool(request and request.caption_with)
    if makes and captions is not None:
        raise ValueError("give captions= or caption_with=, not both")
    if objects is not None and (captions is None or (request and request.ground_with)):
        raise ValueError("objects= goes with captions=, and without ground_with=")
    if given and not makes:
        _as_many(given, captions, "captions", 'captions=["a dog on a beach"]')
    if objects is not None:
        _as_many(given, objects, "lists of objects", "captions=[...], objects=[[]]")
    for x in given:
        if isinstance(x, np.ndarray):
            images_lib.check_image(x)
    known = [
        Record(
            str(i),
            caption=captions[i] if captions else None,
            objects=tuple(objects[i]) if objects else (),
        )
        for i in range(len(given))
    ]
    facts = {"captioner": BY_HAND, "grounder": BY_HAND if objects is not None else None}
    data = Pictures(given, Path(images or "."), known, facts)
    if not request or not given:
        return data
    with tempfile.TemporaryDirectory(prefix="item-jax-") as folder:
        names = [f"{i}.png" for i in range(len(given))]
        for i, name in enumerate(names):
            data.save(i, Path(folder) / name)
        made = sidecar_runs.annotate(
            folder, names, request, captions=None if makes else captions
        )
    facts = {role: found or facts[role] for role, found in made.facts.items()}
    known = [_in_own_words(data, i, record) for i, record in enumerate(made.records)]
    return Pictures(given, Path(images or "."), known, facts)


def _in_own_words(data: Pictures, number: int, record: Record) -> Record:
    """Names a file that cannot be read as the caller did, not the link to it."""
    if record.error is None:
        return record
    try:
        data.read(number)
    except images_lib.ImageError as e:
        return dataclasses.replace(record, error=f"the image cannot be read: {e}")
    return record


def _as_many(given: Sequence[Any], others: Any, what: str, example: str) -> None:
    if others is None or len(others) != len(given):
        raise ValueError(
            f"{len(given)} images need as many {what}, found "
            f"{0 if others is None else len(others)}: "
            f'predict(["x.jpg"], {example}), or caption_with=MODEL makes captions'
        )


def _completed(
    records: Sequence[Record], images: str | Path, request: Request | None
) -> Dataset:
    """Records with the captions, or the objects, that they do not have."""
    if not request:
        return RecordList(records, images)
    for what, option, asked, given in (
        (
            "captions",
            "caption_with",
            request.caption_with,
            [r.caption for r in records],
        ),
        ("objects", "ground_with", request.ground_with, [r.objects for r in records]),
    ):
        if asked and any(given):
            raise ValueError(
                f"the records have {what} already: leave out {option}={asked!r}, or "
                f"give records without {what}"
            )
    captions = [record.caption or "" for record in records]
    if not request.caption_with and not all(captions):
        raise ValueError(
            "ground_with= needs captions: give caption_with= too, or records with them"
        )
    made = sidecar_runs.annotate(
        images,
        [record.key for record in records],
        request,
        captions=None if request.caption_with else captions,
    )
    whole = [
        dataclasses.replace(
            record,
            caption=new.caption,
            objects=new.objects if request.ground_with else record.objects,
            error=record.error or new.error,
        )
        for record, new in zip(records, made.records)
    ]
    facts = {
        "captioner": made.facts["captioner"] or BY_HAND,
        "grounder": made.facts["grounder"]
        or (BY_HAND if any(r.objects for r in records) else None),
    }
    return RecordList(whole, images, facts)
