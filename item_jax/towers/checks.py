"""Checks of a configuration that somebody else wrote, for the families of towers.

What makes no sense, and what could change an embedding and is not understood, is a
`ValueError` that names file and key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from item_jax import files as files_lib
from item_jax.choices import nearest

# Far above any tower: the largest published one, bigG, has 48 layers of width 1664, the
# largest vocabulary 901,629 words. What is larger is damage, and is refused before
# anything is allocated.
MOST_LAYERS = 200
MOST_WIDTH = 2**17
MOST_PIXELS = 2**13
MOST_TOKENS = 2**16
MOST_WORDS = 2**22

# timm's names of SigLIP's image towers, which open_clip's files give.
TIMM_SIGLIP = (
    r"vit_(?P<size>base|large|so400m|giantopt)_patch(?P<patch>\d{1,3})"
    r"_siglip_(?P<side>\d{1,4})"
)

# A value of `check_keys` that allows everything.
ANY = object()


def part(row: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """Returns an object inside a configuration; {} if it is absent or null.

    Raises:
      ValueError: if it is something else.
    """
    value = row.get(key)
    if value is None:
        return {}
    return files_lib.field(row, key, dict, where)


def check_keys(
    row: Mapping[str, Any],
    where: str,
    *,
    read: Collection[str],
    harmless: Mapping[str, Any],
) -> None:
    """Refuses a configuration with a key that is not understood.

    Args:
      row: the configuration.
      where: the file and the place in it, for the message.
      read: the keys that the caller reads and checks.
      harmless: other keys, with the values at which they change no embedding: a tuple,
        or `ANY`.

    Raises:
      ValueError: naming key and value.
    """
    for key, value in row.items():
        if key in read:
            continue
        allowed = harmless.get(key, ())
        if allowed is ANY or any(value == a for a in allowed):
            continue
        found = files_lib.printable(f"{key!r}: {value!r}"[:80])
        if key in harmless:
            raise ValueError(
                f"{where}: {found} is not supported; only "
                f"{' or '.join(repr(a) for a in allowed)} is"
            )
        raise ValueError(
            f"{where}: {found} is not understood, and it could change the "
            f"embeddings; {nearest(key, sorted(read))}"
        )


def size(row: Mapping[str, Any], key: str, where: str, *, most: int) -> int:
    """Returns a size of a configuration.

    Args:
      row: the configuration.
      key: of the size. A list of equal numbers, `[224, 224]`, is one number.
      where: the file and the place in it, for the message.
      most: the largest value that makes sense, so that nothing absurd is allocated.

    Raises:
      ValueError: if it is not a whole number from 1 to `most`.
    """
    value = row.get(key)
    if isinstance(value, list) and value and all(v == value[0] for v in value):
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        found = "missing" if key not in row else f"{row[key]!r}"[:60]
        raise ValueError(
            f"{where}: {key!r} is {found}; expected a whole number from 1 to {most}"
        )
    return value


def number(row: Mapping[str, Any], key: str, where: str, *, most: float) -> float:
    """Returns a positive, finite number of a configuration.

    Raises:
      ValueError: if it is something else, or above `most`.
    """
    value = row.get(key)
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not 0 < value <= most
    ):
        found = "missing" if key not in row else f"{value!r}"[:60]
        raise ValueError(
            f"{where}: {key!r} is {found}; expected a number above 0, at most {most:g}"
        )
    return value


def heads(row: Mapping[str, Any], key: str, width: int, where: str) -> int:
    """Returns the number of heads of an attention.

    Raises:
      ValueError: if they do not divide `width`.
    """
    count = size(row, key, where, most=width)
    if width % count:
        raise ValueError(f"{where}: {count} heads do not divide the width {width}")
    return count


def view_and_patch(row: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Returns `image_size` and `patch_size`, in pixels.

    Raises:
      ValueError: if a patch does not fit into a view.
    """
    side = size(row, "image_size", where, most=MOST_PIXELS)
    return side, size(row, "patch_size", where, most=side)


def channels(
    value: Any, key: str, where: str, *, positive: bool
) -> tuple[float, float, float]:
    """Returns one finite number per colour channel, as the file has them.

    Args:
      value: from the file.
      key: of the value, for the message.
      where: the file, for the message.
      positive: whether every number must be above 0.

    Raises:
      ValueError: if they are not three such numbers.
    """
    ok = isinstance(value, list | tuple) and len(value) == 3
    for v in value if ok else ():
        ok = ok and isinstance(v, int | float) and not isinstance(v, bool)
        ok = ok and math.isfinite(v) and (v > 0 or not positive)
    if not ok:
        kind = "finite numbers above 0" if positive else "finite numbers"
        raise ValueError(f"{where}: {key!r} is {value!r}; expected three {kind}")
    return (value[0], value[1], value[2])


def open_clip_kind(raw: Mapping[str, Any]) -> str:
    """Returns which kind of model an `open_clip_config.json` describes.

    open_clip writes no name of a family, so that it is told by what each one needs.

    Args:
      raw: the parsed file.

    Returns:
      "CLIP ViT", or words for the others, such as "SigLIP".
    """
    model = raw.get("model_cfg")
    if not isinstance(model, dict):
        return "CLIP ViT"  # and damaged, which its reader says
    vision, text = model.get("vision_cfg"), model.get("text_cfg")
    vision = vision if isinstance(vision, dict) else {}
    text = text if isinstance(text, dict) else {}
    trunk = vision.get("timm_model_name")
    if model.get("multimodal_cfg"):
        return "CoCa"
    if text.get("hf_model_name"):
        return f"text tower of Hugging Face ({text['hf_model_name']})"
    if trunk:
        siglip = isinstance(trunk, str) and re.fullmatch(TIMM_SIGLIP, trunk)
        return "SigLIP" if siglip else f"image tower of timm ({trunk})"
    if isinstance(vision.get("layers"), list):
        return "CLIP ResNet"
    if vision.get("no_ln_pre"):
        return "CLIPA"
    if model.get("custom_text"):
        return "CLIP with a text tower of its own (custom_text)"
    if text.get("hf_tokenizer_name"):
        return "CLIP ViT with another tokenizer"
    return "CLIP ViT"
