"""What the files of a checkpoint say of its pixels: their statistics, and how an image
becomes a view.

The towers normalise pixels themselves. How the whole image becomes a view is the
user's choice (`--config.views.geometry`, ITEM's own is a plain centre crop); what the
checkpoint was trained on is kept as `geometry`, so that another one can be pointed out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.checks import channels, check_keys, part
from item_jax.towers.key_tables import (
    CLIP_MEAN,
    CLIP_STD,
    HF_PREPROCESSOR,
    HF_PREPROCESSOR_HARMLESS,
    OPEN_CLIP_PREPROCESS,
    OPEN_CLIP_PREPROCESS_HARMLESS,
)

Channels = tuple[float, float, float]

# (which sides are resized to the view's, Pillow's filter) -> a name of
# `item_jax.views.GEOMETRIES`.
GEOMETRIES = {
    ("shortest", "bicubic"): "clip",
    ("squash", "bicubic"): "squash",
    ("squash", "bilinear"): "squash_bilinear",
}
FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a checkpoint's own preprocessing does.

    Attributes:
      mean, std: pixel statistics on [0, 1], one per channel.
      geometry: how the whole image becomes a view, a name of
        `item_jax.views.GEOMETRIES`.
    """

    mean: Channels
    std: Channels
    geometry: str


# Where the files say nothing: CLIPImageProcessor and SiglipImageProcessor.
CLIP = Preprocessing(CLIP_MEAN, CLIP_STD, "clip")
SIGLIP = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "squash")


def hugging_face(
    files: CheckpointFiles, side: int, default: Preprocessing
) -> Preprocessing:
    """Reads `preprocessor_config.json`.

    Args:
      files: of the checkpoint.
      side: the side of a view in pixels.
      default: of the family, for what the file leaves out.

    Raises:
      ValueError: naming the key, if it is not understood, or describes a
        preprocessing that is none of `GEOMETRIES`.
    """
    file = "preprocessor_config.json"
    pre = files.json(file)
    if pre is None:  # transformers 5 may save it inside the processor's
        file = "processor_config.json"
        pre = part(files.json(file) or {}, "image_processor", file)
    where = f"{files.source}: {file}"
    check_keys(pre, where, read=HF_PREPROCESSOR, harmless=HF_PREPROCESSOR_HARMLESS)
    known = {key: value for key, value in pre.items() if value is not None}

    resized = "squash" if default.geometry.startswith("squash") else "shortest"
    size = known.get("size")
    if isinstance(size, dict):
        resized = "squash" if set(size) == {"height", "width"} else "shortest"
    for key in ("size", "crop_size"):
        value = known.get(key, side)
        sides = set(value.values()) if isinstance(value, dict) else {value}
        names = set(value) if isinstance(value, dict) else {"shortest_edge"}
        if sides != {side} or names not in ({"shortest_edge"}, {"height", "width"}):
            raise ValueError(
                f"{where}: {key!r} is {value!r}; the views of the tower have a side of "
                f"{side}"
            )
    if known.get("do_center_crop") is False and resized == "shortest":
        raise ValueError(
            f"{where}: 'do_center_crop' is False; only resizing both sides does "
            "without a crop"
        )
    resample = known.get("resample", 3)
    return Preprocessing(
        *_statistics(known, ("image_mean", "image_std"), where, default),
        _geometry(resized, FILTERS.get(resample, repr(resample)), where),
    )


def open_clip(pre: Mapping[str, Any], where: str, side: int) -> Preprocessing:
    """Reads the `preprocess_cfg` of an `open_clip_config.json`.

    Args:
      pre: the object.
      where: the file and the place in it, for messages.
      side: the side of a view in pixels.

    Raises:
      ValueError: as `hugging_face`.
    """
    check_keys(
        pre, where, read=OPEN_CLIP_PREPROCESS, harmless=OPEN_CLIP_PREPROCESS_HARMLESS
    )
    if pre.get("size") not in (None, side, [side, side]):
        raise ValueError(
            f"{where}: 'size' is {pre['size']!r}, but image_size is {side}"
        )
    return Preprocessing(
        *_statistics(pre, ("mean", "std"), where, CLIP),
        _geometry(
            pre.get("resize_mode") or "shortest",
            pre.get("interpolation") or "bicubic",
            where,
        ),
    )


def _geometry(resized: Any, interpolation: Any, where: str) -> str:
    for known, geometry in GEOMETRIES.items():
        if (resized, interpolation) == known:
            return geometry
    raise ValueError(
        f"{where}: an image is resized by {resized!r} with the filter "
        f"{interpolation!r}; supported: "
        f"{', '.join(f'{a} with {b}' for a, b in GEOMETRIES)}"
    )


def _statistics(
    pre: Mapping[str, Any], names: tuple[str, str], where: str, default: Preprocessing
) -> tuple[Channels, Channels]:
    mean, std = (pre.get(name) for name in names)
    return (
        channels(
            default.mean if mean is None else mean, names[0], where, positive=False
        ),
        channels(default.std if std is None else std, names[1], where, positive=True),
    )
