"""The configuration of a general ViT, read from the files of a checkpoint and checked.

A key that could change an embedding and is not understood is refused by name, and so
is a size that makes no sense, before anything is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from item_jax import choices
from item_jax.towers import clip_vit_keys, hugging_face_config, open_clip_config
from item_jax.towers import general_vit_keys as keys
from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.checks import (
    MOST_PIXELS,
    MOST_TOKENS,
    MOST_WIDTH,
    MOST_WORDS,
    TIMM_SIGLIP,
    check_keys,
    number,
    open_clip_kind,
    part,
    size,
    view_and_patch,
)
from item_jax.towers.general_vit_config import Config, TextConfig, VisionConfig
from item_jax.towers.key_tables import HF_HARMLESS, OPEN_CLIP_MODEL_HARMLESS
from item_jax.towers.open_clip_config import Parts
from item_jax.towers.preprocessing import (
    CLIP,
    SIGLIP,
    Preprocessing,
    hugging_face,
    open_clip,
)
from item_jax.towers.text_cleaning import OPEN_CLIP_CLEANINGS
from item_jax.towers.transformer import TransformerConfig


def read_config(files: CheckpointFiles) -> Config | None:
    """Reads the configuration of a checkpoint.

    Args:
      files: of the checkpoint.

    Returns:
      None if it is of another family.

    Raises:
      ValueError: for one of this family with a key or value that is not understood, or
        with sizes that make no sense; names the file and the key.
    """
    layout = files.layout(keys.LAYOUTS)
    raw = files.json(layout.config) if layout else None
    if layout is None or raw is None:
        raw = files.json("config.json")
        if raw is not None and raw.get("model_type") == "siglip2":
            raise ValueError(
                f"{files.source}: config.json is of model_type 'siglip2', SigLIP 2 "
                "NaFlex, whose views have any shape; only its checkpoints of a fixed "
                "size are supported, such as google/siglip2-base-patch16-224"
            )
        return None
    where = f"{files.source}: {layout.config}"
    if layout.name == "SigLIP of Hugging Face":
        return _siglip(raw, where, files)
    if layout.name == "MetaCLIP 2 of Hugging Face":
        return _metaclip_2(raw, where, files)
    if layout.name == "SigLIP of open_clip":
        return _siglip_open_clip(raw, where, files.source)
    return _open_clip(raw, where, files.source)


# ---- Hugging Face -------------------------------------------------------------------


def _siglip(raw: Mapping[str, Any], where: str, files: CheckpointFiles) -> Config:
    check_keys(raw, where, read=keys.SIGLIP_TOP, harmless=HF_HARMLESS)
    vision = hugging_face_config.tower(
        raw,
        "vision",
        where,
        defaults=keys.SIGLIP_VISION,
        harmless=keys.SIGLIP_VISION_HARMLESS,
    )
    text = hugging_face_config.tower(
        raw,
        "text",
        where,
        defaults=keys.SIGLIP_TEXT,
        harmless=keys.SIGLIP_TEXT_HARMLESS,
    )
    here = f"{where}, text_config"
    text_blocks = hugging_face_config.transformer(text, here)
    if text["projection_size"] is None:
        text["projection_size"] = text_blocks.width
    embed_dim = size(text, "projection_size", here, most=MOST_WIDTH)
    # SiglipTokenizer does this itself, but only where sentencepiece is installed. That
    # of SigLIP 2 is Gemma's, and the texts it was trained on were in lower case.
    named = (files.json("tokenizer_config.json") or {}).get("tokenizer_class")
    siglip_1 = named in (None, "SiglipTokenizer")
    return _joined(
        embed_dim,
        VisionConfig(
            hugging_face_config.transformer(vision, f"{where}, vision_config"),
            *view_and_patch(vision, f"{where}, vision_config"),
            pool="attention",
            ln_pre=False,
            ln_after_pool=False,
            patch_bias=True,
            projection=False,
        ),
        TextConfig(
            text_blocks,
            size(text, "max_position_embeddings", here, most=MOST_TOKENS),
            size(text, "vocab_size", here, most=MOST_WORDS),
            causal=False,
            eos_token_id=None,
            projection="affine",
            cleaning="canonicalize" if siglip_1 else "lowercase",
            zero_sep=False,
        ),
        lambda side: hugging_face(files, side, SIGLIP),
        where,
    )


def _metaclip_2(raw: Mapping[str, Any], where: str, files: CheckpointFiles) -> Config:
    check_keys(raw, where, read=clip_vit_keys.HF_TOP, harmless=HF_HARMLESS)
    vision = hugging_face_config.tower(
        raw,
        "vision",
        where,
        defaults=clip_vit_keys.HF_VISION,
        harmless=keys.METACLIP_2_VISION_HARMLESS,
    )
    text = hugging_face_config.tower(
        raw,
        "text",
        where,
        defaults=clip_vit_keys.HF_TEXT,
        harmless=keys.METACLIP_2_TEXT_HARMLESS,
    )
    here = f"{where}, text_config"
    vocab_size = size(text, "vocab_size", here, most=MOST_WORDS)
    return _joined(
        size(
            {"projection_dim": 512} | dict(raw),
            "projection_dim",
            where,
            most=MOST_WIDTH,
        ),
        _clip_vision(
            hugging_face_config.transformer(vision, f"{where}, vision_config"),
            *view_and_patch(vision, f"{where}, vision_config"),
        ),
        TextConfig(
            hugging_face_config.transformer(text, here),
            size(text, "max_position_embeddings", here, most=MOST_TOKENS),
            vocab_size,
            causal=True,
            eos_token_id=size(text, "eos_token_id", here, most=vocab_size - 1),
            projection="linear",
            cleaning="none",
            zero_sep=False,
        ),
        lambda side: hugging_face(files, side, CLIP),
        where,
    )


def _clip_vision(
    transformer: TransformerConfig, image_size: int, patch_size: int
) -> VisionConfig:
    return VisionConfig(
        transformer,
        image_size,
        patch_size,
        pool="class",
        ln_pre=True,
        ln_after_pool=False,
        patch_bias=False,
        projection=True,
    )


def _joined(
    embed_dim: int,
    vision: VisionConfig,
    text: TextConfig,
    read_preprocessing: Callable[[int], Preprocessing],
    where: str,
) -> Config:
    preprocessing = read_preprocessing(vision.image_size)
    for name, there, width in (
        ("image", vision.projection, vision.transformer.width),
        ("text", text.projection != "none", text.transformer.width),
    ):
        if not there and width != embed_dim:
            raise ValueError(
                f"{where}: the {name} tower has no projection and a width of {width}, "
                f"but the joint space has {embed_dim}"
            )
    return Config(
        embed_dim,
        preprocessing.mean,
        preprocessing.std,
        vision,
        text,
        preprocessing.geometry,
    )


# ---- open_clip ----------------------------------------------------------------------


def _siglip_open_clip(raw: Mapping[str, Any], where: str, source: str) -> Config:
    parts = open_clip_config.read_parts(
        raw, where, source, OPEN_CLIP_MODEL_HARMLESS | {"custom_text": (True,)}
    )
    here = f"{where}, vision_cfg"
    check_keys(
        parts.vision, here, read=keys.TIMM_VISION, harmless=keys.TIMM_VISION_HARMLESS
    )
    return _joined(
        parts.embed_dim,
        _timm_vision(parts.vision, here),
        _open_clip_text(parts, "gelu"),
        lambda side: open_clip(parts.preprocess, f"{where}, preprocess_cfg", side),
        where,
    )


def _timm_vision(c: Mapping[str, Any], where: str) -> VisionConfig:
    choices.check(
        f"{where}, timm_model_name", c["timm_model_name"], keys.TIMM_ACTIVATIONS
    )
    found = re.fullmatch(TIMM_SIGLIP, c["timm_model_name"])
    assert found is not None  # `open_clip_kind` has matched it
    side, patch = int(found["side"]), int(found["patch"])
    if size(c, "image_size", where, most=MOST_PIXELS) != side:
        raise ValueError(
            f"{where}: 'image_size' is {c['image_size']}, but {found[0]} has views of "
            f"{side}"
        )
    width, layers, heads, ratio = keys.TIMM_SIZES[found["size"]]
    return VisionConfig(
        TransformerConfig(
            width=width,
            layers=layers,
            heads=heads,
            mlp_width=int(width * ratio),
            activation=keys.TIMM_ACTIVATIONS[found[0]],
            eps=1e-6,  # timm's own
        ),
        side,
        patch,
        pool="attention",
        ln_pre=False,
        ln_after_pool=False,
        patch_bias=True,
        projection=False,
    )


def _open_clip(raw: Mapping[str, Any], where: str, source: str) -> Config:
    parts = open_clip_config.read_parts(raw, where, source)
    here = f"{where}, vision_cfg"
    check_keys(
        parts.vision,
        here,
        read=keys.OPEN_CLIP_VISION,
        harmless=keys.OPEN_CLIP_VISION_HARMLESS,
    )
    # No weights of CLIPA were ever trained with QuickGELU.
    says = "quick_gelu" in parts.model or open_clip_kind(raw) != "CLIPA"
    activation = open_clip_config.activation(parts) if says else "gelu"
    vision = parts.vision
    pool = choices.check(
        f"{here}, pool_type", vision.get("pool_type", "tok"), ("tok", "avg")
    )
    flags = {
        key: choices.check(f"{here}, {key}", vision.get(key, False), (True, False))
        for key in ("no_ln_pre", "final_ln_after_pool")
    }
    return _joined(
        parts.embed_dim,
        VisionConfig(
            open_clip_config.vision_transformer(
                parts, _activation(vision, here, activation), _eps(vision, here)
            ),
            *view_and_patch(vision, here),
            pool={"tok": "class", "avg": "mean"}[pool],
            ln_pre=not flags["no_ln_pre"],
            ln_after_pool=flags["final_ln_after_pool"],
            patch_bias=False,
            projection=True,
        ),
        # Its tensors have CLIP's names, and the projection there is no linear layer.
        _open_clip_text(parts, activation, biases=(False,)),
        lambda side: open_clip(parts.preprocess, f"{where}, preprocess_cfg", side),
        where,
    )


def _open_clip_text(
    parts: Parts, activation: str, *, biases: Sequence[bool] = (True, False)
) -> TextConfig:
    where, text = f"{parts.where}, text_cfg", parts.text
    check_keys(
        text, where, read=keys.OPEN_CLIP_TEXT, harmless=keys.OPEN_CLIP_TEXT_HARMLESS
    )
    sizes = open_clip_config.text_sizes(
        parts, _activation(text, where, activation), _eps(text, where)
    )
    # "argmax" is CLIP's own: its EOS has the highest id, that of others has not.
    pool = choices.check(
        f"{where}, pool_type", text.get("pool_type", "argmax"), ("eos", "last")
    )
    eos = None
    if pool == "eos":
        eos = size({"eos_id": 2} | text, "eos_id", where, most=sizes.vocab_size - 1)
    both = choices.check(
        f"{where}, no_causal_mask", text.get("no_causal_mask", False), (True, False)
    )
    bias = choices.check(f"{where}, proj_bias", text.get("proj_bias", False), biases)
    kind = choices.check(
        f"{where}, proj_type", text.get("proj_type", "linear"), ("linear", "none")
    )
    tokenizer = part(text, "tokenizer_kwargs", where)
    check_keys(
        tokenizer,
        f"{where}, tokenizer_kwargs",
        read=("clean", "strip_sep_token"),
        harmless={},
    )
    return TextConfig(
        sizes.transformer,
        sizes.context_length,
        sizes.vocab_size,
        causal=not both,
        eos_token_id=eos,
        projection="none" if kind == "none" else "affine" if bias else "linear",
        cleaning=choices.check(
            f"{where}, tokenizer_kwargs.clean",
            tokenizer.get("clean", "whitespace"),
            OPEN_CLIP_CLEANINGS,
        ),
        zero_sep=choices.check(
            f"{where}, tokenizer_kwargs.strip_sep_token",
            tokenizer.get("strip_sep_token", False),
            (True, False),
        ),
    )


def _eps(c: Mapping[str, Any], where: str) -> float:
    norm = part(c, "norm_kwargs", where)
    check_keys(norm, f"{where}, norm_kwargs", read=("eps",), harmless={})
    return number({"eps": 1e-5} | norm, "eps", f"{where}, norm_kwargs", most=1)


def _activation(c: Mapping[str, Any], where: str, activation: str) -> str:
    kwargs = part(c, "act_kwargs", where)
    harmless = {"approximate": ("none",)}
    if activation == "gelu" and kwargs.get("approximate") == "tanh":
        harmless, activation = {"approximate": ("tanh",)}, "gelu_pytorch_tanh"
    check_keys(kwargs, f"{where}, act_kwargs", read=(), harmless=harmless)
    return activation
