"""What the families share in reading an `open_clip_config.json`."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from item_jax import choices
from item_jax.towers.checks import (
    MOST_LAYERS,
    MOST_TOKENS,
    MOST_WIDTH,
    MOST_WORDS,
    check_keys,
    heads,
    number,
    part,
    size,
)
from item_jax.towers.key_tables import (
    OPEN_CLIP_MODEL,
    OPEN_CLIP_MODEL_HARMLESS,
    OPEN_CLIP_TOP,
)
from item_jax.towers.transformer import TransformerConfig

# The tags of open_clip's pretrained.py whose weights need QuickGELU, all of them. Its
# laion400m tags do at one size and not at another; yfcc15m and cc12m are ResNets.
QUICK_GELU_TAGS = (
    "openai",
    "yfcc15m",
    "cc12m",
    "metaclip_400m",
    "metaclip_fullcc",
    "metaclip_2pt5b",
    "metaclip2_worldwide",
    "dfn2b",
    "dfn2b_s39b",
    "dfn5b",
)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of the file, the keys of the first two levels checked.

    Attributes:
      model, vision, text, preprocess: `model_cfg`, its two towers, `preprocess_cfg`.
      where: the file, for messages.
      source: the checkpoint.
    """

    model: dict[str, Any]
    vision: dict[str, Any]
    text: dict[str, Any]
    preprocess: dict[str, Any]
    where: str
    source: str

    @property
    def embed_dim(self) -> int:
        """D, the width of the joint space."""
        return size(
            self.model, "embed_dim", f"{self.where}, model_cfg", most=MOST_WIDTH
        )


def read_parts(
    raw: Mapping[str, Any],
    where: str,
    source: str,
    harmless: Mapping[str, Any] = OPEN_CLIP_MODEL_HARMLESS,
) -> Parts:
    """Takes the file apart.

    Args:
      raw: the parsed file.
      where, source: see `Parts`.
      harmless: of `model_cfg`, see `checks.check_keys`.

    Raises:
      ValueError: naming a key that is not understood.
    """
    check_keys(raw, where, read=OPEN_CLIP_TOP, harmless={})
    model = part(raw, "model_cfg", where)
    check_keys(model, f"{where}, model_cfg", read=OPEN_CLIP_MODEL, harmless=harmless)
    return Parts(
        model=model,
        vision=part(model, "vision_cfg", where),
        text=part(model, "text_cfg", where),
        preprocess=part(raw, "preprocess_cfg", where),
        where=where,
        source=source,
    )


def activation(parts: Parts) -> str:
    """Returns "quick_gelu" or "gelu"; warns where the file does not say."""
    quick = parts.model.get("quick_gelu")
    if quick is None:
        quick = _guess_quick_gelu(parts.where, parts.source)
    choices.check(f"{parts.where}, quick_gelu", quick, (True, False))
    return "quick_gelu" if quick else "gelu"


def _guess_quick_gelu(where: str, source: str) -> bool:
    """open_clip has it in a table of tags, which are the end of a repository's name."""
    name = PurePath(source).name.lower()
    quick = name.rpartition(".")[2] in QUICK_GELU_TAGS
    quick = quick or "quickgelu" in name or name.startswith(("dfn2b", "dfn5b"))
    warnings.warn(
        f"{where} does not say quick_gelu; guessed {str(quick).lower()} from the name "
        f'{name!r}. Add "quick_gelu": true or false to its model_cfg to be sure',
        stacklevel=2,
    )
    return quick


@dataclasses.dataclass(frozen=True)
class TextSizes:
    """The sizes of a text tower.

    Attributes:
      transformer: its blocks.
      context_length: the longest text in tokens.
      vocab_size: rows of the token table.
    """

    transformer: TransformerConfig
    context_length: int
    vocab_size: int


def text_sizes(parts: Parts, activation: str, eps: float = 1e-5) -> TextSizes:
    """Reads the sizes in `text_cfg`; its keys are for the caller to check."""
    where = f"{parts.where}, text_cfg"
    # The defaults of CLIPTextCfg, but for the sizes that every file has.
    text = {"context_length": 77, "vocab_size": 49408} | parts.text
    return TextSizes(
        transformer(text, where, activation, eps),
        size(text, "context_length", where, most=MOST_TOKENS),
        size(text, "vocab_size", where, most=MOST_WORDS),
    )


def vision_transformer(
    parts: Parts, activation: str, eps: float = 1e-5
) -> TransformerConfig:
    """Reads the sizes of an image tower of open_clip's own in `vision_cfg`."""
    where = f"{parts.where}, vision_cfg"
    width = size(parts.vision, "width", where, most=MOST_WIDTH)
    c = {"head_width": 64} | parts.vision  # LAION's H/14 has heads of 80
    count = width // size(c, "head_width", where, most=width)
    return transformer(c | {"heads": count}, where, activation, eps)


def transformer(
    c: Mapping[str, Any], where: str, activation: str, eps: float
) -> TransformerConfig:
    """Reads `width`, `layers`, `heads` and `mlp_ratio`."""
    width = size(c, "width", where, most=MOST_WIDTH)
    ratio = number({"mlp_ratio": 4.0} | dict(c), "mlp_ratio", where, most=64)
    return TransformerConfig(
        width=width,
        layers=size(c, "layers", where, most=MOST_LAYERS),
        heads=heads(c, "heads", width, where),
        mlp_width=int(width * ratio),
        activation=activation,
        eps=eps,
    )
