"""Folders of images -> records.

The label of an image is the name of a folder above it, and the folders above that
name its generator and split:

    [split/][generator/][class/]{0_real,1_fake}/image.png      ForenSynths and its kin
    [generator/]{nature,ai}/image.png                          GenImage
    {real,fake}/image.jpg                                      your own
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from item_jax.records import Record, normalise_key

# Never alphabetical: "ai" sorts before "nature" and would make fakes real.
LABEL_FOLDERS = {
    "0_real": "real",
    "real": "real",
    "nature": "real",
    "1_fake": "fake",
    "fake": "fake",
    "ai": "fake",
}
SPLITS = ("train", "val", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def records(root: str | Path, *, benchmark: str = "") -> Iterator[Record]:
    """Yields one record per image file below `root`, sorted by key.

    A folder of `SPLITS` gives the split, the first other folder above the label the
    generator. Files with another suffix are passed over; an image that is in no label
    folder has no label.

    Args:
      root: the folder the keys are relative to.
      benchmark: written into every record.

    Raises:
      ValueError: when there is no such folder, or no image in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"no folder {root}")
    keys = sorted(
        normalise_key(path.relative_to(root).as_posix())
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
    )
    if not keys:
        raise ValueError(f"no image below {root}; suffixes looked for: {SUFFIXES}")
    for key in keys:
        label, generator, split = _place(key.split("/")[:-1])
        yield Record(key, label, benchmark, generator, split)


def _place(folders: list[str]) -> tuple[str | None, str, str]:
    marks = [i for i, name in enumerate(folders) if name in LABEL_FOLDERS]
    label = LABEL_FOLDERS[folders[marks[-1]]] if marks else None
    above = folders[: marks[-1]] if marks else folders
    split = next((name for name in above if name in SPLITS), "")
    generator = next((name for name in above if name not in SPLITS), "")
    return label, generator, split
