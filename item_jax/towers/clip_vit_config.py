"""The configuration of a CLIP ViT checkpoint, read from its files and checked.

A key that could change an embedding and is not understood is refused by name, and so
is a size that makes no sense, before anything is allocated.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from item_jax import choices
from item_jax.towers import clip_vit_keys as keys
from item_jax.towers import hugging_face_config, open_clip_config, preprocessing
from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.checks import (
    MOST_TOKENS,
    MOST_WIDTH,
    MOST_WORDS,
    check_keys,
    part,
    size,
    view_and_patch,
)
from item_jax.towers.key_tables import HF_HARMLESS
from item_jax.towers.text_cleaning import OPEN_CLIP_CLEANINGS
from item_jax.towers.transformer import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """A CLIP model as its checkpoint describes it.

    Attributes:
      embed_dim: D, the width of the joint space.
      image_size: S, the side of a view in pixels.
      patch_size: the side of a patch in pixels.
      image_mean, image_std: pixel statistics on [0, 1], one per channel.
      context_length: the longest text in tokens, 77.
      vocab_size: rows of the token table.
      eos_token_id: the token whose first occurrence is pooled.
      vision, text: the two transformers.
      geometry: how the whole image became a view in the checkpoint's training, a name
        of `item_jax.views.GEOMETRIES`. It is no part of the towers.
      cleaning: of texts in its training, a name of `text_cleaning.CLEANINGS`: `lower`,
        as in openai/CLIP, unless a file of open_clip says otherwise.
    """

    embed_dim: int
    image_size: int
    patch_size: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    context_length: int
    vocab_size: int
    eos_token_id: int
    vision: TransformerConfig
    text: TransformerConfig
    geometry: str = "clip"
    cleaning: str = "lower"


def read_config(files: CheckpointFiles) -> Config | None:
    """Reads the configuration of a checkpoint.

    Args:
      files: of the checkpoint.

    Returns:
      None if it is of another family.

    Raises:
      ValueError: for a CLIP ViT with a key or value that is not understood, or with
        sizes that make no sense; names the file and the key.
    """
    layout = files.layout(keys.LAYOUTS)
    raw = files.json(layout.config) if layout else None
    if layout is None or raw is None:
        return None
    where = f"{files.source}: {layout.config}"
    if layout.name == "open_clip":
        return _read_open_clip(raw, where, files.source)
    return _read_hugging_face(raw, where, files)


def _read_hugging_face(
    raw: dict[str, Any], where: str, files: CheckpointFiles
) -> Config:
    check_keys(raw, where, read=keys.HF_TOP, harmless=HF_HARMLESS)

    vision = hugging_face_config.tower(
        raw,
        "vision",
        where,
        defaults=keys.HF_VISION,
        harmless=keys.HF_VISION_HARMLESS,
    )
    text = hugging_face_config.tower(
        raw, "text", where, defaults=keys.HF_TEXT, harmless=keys.HF_TEXT_HARMLESS
    )
    text_where = f"{where}, text_config"
    vocab_size = size(text, "vocab_size", text_where, most=MOST_WORDS)
    eos = size(text, "eos_token_id", text_where, most=vocab_size - 1)
    if eos == 2:
        # OpenAI's uploads carry a wrong 2; transformers then pools at the highest
        # token id, which is the last row of the vocabulary (its pull request 24773).
        eos = vocab_size - 1
    side, patch = view_and_patch(vision, f"{where}, vision_config")
    pre = preprocessing.hugging_face(files, side, preprocessing.CLIP)
    return Config(
        embed_dim=size(
            {"projection_dim": 512} | raw, "projection_dim", where, most=MOST_WIDTH
        ),
        image_size=side,
        patch_size=patch,
        image_mean=pre.mean,
        image_std=pre.std,
        context_length=size(
            text, "max_position_embeddings", text_where, most=MOST_TOKENS
        ),
        vocab_size=vocab_size,
        eos_token_id=eos,
        vision=hugging_face_config.transformer(vision, f"{where}, vision_config"),
        text=hugging_face_config.transformer(text, text_where),
        geometry=pre.geometry,
    )


def _read_open_clip(raw: dict[str, Any], where: str, source: str) -> Config:
    parts = open_clip_config.read_parts(raw, where, source)
    for name, row, read, harmless in (
        (
            "vision_cfg",
            parts.vision,
            keys.OPEN_CLIP_VISION,
            keys.OPEN_CLIP_VISION_HARMLESS,
        ),
        ("text_cfg", parts.text, keys.OPEN_CLIP_TEXT, keys.OPEN_CLIP_TEXT_HARMLESS),
    ):
        check_keys(row, f"{where}, {name}", read=read, harmless=harmless)
    activation = open_clip_config.activation(parts)
    text = open_clip_config.text_sizes(parts, activation)
    side, patch = view_and_patch(parts.vision, f"{where}, vision_cfg")
    pre = preprocessing.open_clip(parts.preprocess, f"{where}, preprocess_cfg", side)
    return Config(
        embed_dim=parts.embed_dim,
        image_size=side,
        patch_size=patch,
        image_mean=pre.mean,
        image_std=pre.std,
        context_length=text.context_length,
        vocab_size=text.vocab_size,
        eos_token_id=open_clip_eos(parts, text.vocab_size),
        vision=open_clip_config.vision_transformer(parts, activation),
        text=text.transformer,
        geometry=pre.geometry,
        cleaning=open_clip_cleaning(parts),
    )


def open_clip_cleaning(parts: open_clip_config.Parts) -> str:
    """Returns how open_clip's own tokenizer cleans texts: `lower` by default."""
    where = f"{parts.where}, text_cfg, tokenizer_kwargs"
    row = part(parts.text, "tokenizer_kwargs", f"{parts.where}, text_cfg")
    check_keys(row, where, read=("clean",), harmless={})
    return choices.check(
        f"{where}, clean", row.get("clean", "lower"), OPEN_CLIP_CLEANINGS
    )


def open_clip_eos(parts: open_clip_config.Parts, vocab_size: int) -> int:
    """Returns the token at which a text tower of open_clip is pooled."""
    where = f"{parts.where}, text_cfg"
    pool = parts.text.get("pool_type", "argmax")
    if choices.check(f"{where}, pool_type", pool, ("argmax", "eos")) == "eos":
        return size(parts.text, "eos_id", where, most=vocab_size - 1)
    return vocab_size - 1  # "argmax" pools at the highest token id, whatever `eos_id`


def digest_text(config: Config) -> str:
    """Returns the configuration as text, for `Towers.checkpoint_sha256`.

    Heads and caches store that checksum. So this text must stay as it is whatever
    fields `Config` may get: a new field may only add to it where it is not at the
    value that all CLIP ViTs had before. `geometry` and `cleaning` stay out of it:
    embeddings are stored with their own.
    """

    def transformer(c: TransformerConfig) -> str:
        return (
            f"TransformerConfig(width={c.width!r}, layers={c.layers!r}, "
            f"heads={c.heads!r}, mlp_width={c.mlp_width!r}, "
            f"activation={c.activation!r}, eps={c.eps!r})"
        )

    return (
        f"Config(embed_dim={config.embed_dim!r}, image_size={config.image_size!r}, "
        f"patch_size={config.patch_size!r}, image_mean={config.image_mean!r}, "
        f"image_std={config.image_std!r}, context_length={config.context_length!r}, "
        f"vocab_size={config.vocab_size!r}, eos_token_id={config.eos_token_id!r}, "
        f"vision={transformer(config.vision)}, text={transformer(config.text)})"
    )
