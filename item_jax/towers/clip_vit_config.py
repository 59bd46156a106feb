"""The configuration of a CLIP ViT checkpoint, read from its files and checked.

A key that could change an embedding and is not understood is refused by name, and so
is a size that makes no sense, before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import PurePath
from typing import Any

from item_jax import choices
from item_jax.towers import clip_vit_keys as keys
from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.checks import (
    channels,
    check_keys,
    number,
    open_clip_kind,
    part,
    size,
)
from item_jax.towers.transformer import ACTIVATIONS, TransformerConfig

# Far above any CLIP: the largest published one, bigG, has 48 layers of width 1664. What
# is larger is damage, and is refused before anything is allocated.
MOST_LAYERS = 200
MOST_WIDTH = 2**17
MOST_PIXELS = 2**13
MOST_TOKENS = 2**16
MOST_WORDS = 2**22


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
        if open_clip_kind(raw) != "CLIP ViT":
            return None
        return _read_open_clip(raw, where, files.source)
    return _read_hugging_face(raw, where, files)


def _read_hugging_face(
    raw: dict[str, Any], where: str, files: CheckpointFiles
) -> Config:
    check_keys(raw, where, read=keys.HF_TOP, harmless=keys.HF_TOP_HARMLESS)

    def tower(name: str, defaults: dict[str, Any], harmless: dict) -> dict[str, Any]:
        here = f"{where}, {name}_config"
        found = part(raw, f"{name}_config", where)
        check_keys(found, here, read=defaults, harmless=harmless)
        if raw.get(f"{name}_config_dict") is not None:
            # Repositories of 2022 have both. transformers lets this one win, with
            # its own defaults for what it leaves out (CLIPConfig.__post_init__).
            found = part(raw, f"{name}_config_dict", where)
            check_keys(found, f"{here}_dict", read=defaults, harmless=harmless)
        return defaults | found

    vision = tower("vision", keys.HF_VISION, keys.HF_VISION_HARMLESS)
    text = tower("text", keys.HF_TEXT, keys.HF_TEXT_HARMLESS)

    def transformer(c: dict[str, Any], name: str) -> TransformerConfig:
        here = f"{where}, {name}_config"
        width = size(c, "hidden_size", here, most=MOST_WIDTH)
        return TransformerConfig(
            width=width,
            layers=size(c, "num_hidden_layers", here, most=MOST_LAYERS),
            heads=_heads(c, "num_attention_heads", width, here),
            mlp_width=size(c, "intermediate_size", here, most=MOST_WIDTH),
            activation=choices.check(
                f"{here}, hidden_act", c["hidden_act"], ACTIVATIONS
            ),
            eps=number(c, "layer_norm_eps", here, most=1),
        )

    text_where = f"{where}, text_config"
    vocab_size = size(text, "vocab_size", text_where, most=MOST_WORDS)
    eos = size(text, "eos_token_id", text_where, most=vocab_size - 1)
    if eos == 2:
        # OpenAI's uploads carry a wrong 2; transformers then pools at the highest
        # token id, which is the last row of the vocabulary (its pull request 24773).
        eos = vocab_size - 1
    side, patch = _view(vision, f"{where}, vision_config")
    mean, std = _hf_statistics(files, side)
    return Config(
        embed_dim=size(
            {"projection_dim": 512} | raw, "projection_dim", where, most=MOST_WIDTH
        ),
        image_size=side,
        patch_size=patch,
        image_mean=mean,
        image_std=std,
        context_length=size(
            text, "max_position_embeddings", text_where, most=MOST_TOKENS
        ),
        vocab_size=vocab_size,
        eos_token_id=eos,
        vision=transformer(vision, "vision"),
        text=transformer(text, "text"),
    )


def _hf_statistics(files: CheckpointFiles, side: int) -> tuple[Any, Any]:
    """Returns mean and std of pixels; refuses another preprocessing than CLIP's."""
    file = "preprocessor_config.json"
    pre = files.json(file)
    if pre is None:  # transformers 5 may save it inside the processor's
        file = "processor_config.json"
        pre = part(files.json(file) or {}, "image_processor", file)
    where = f"{files.source}: {file}"
    check_keys(
        pre, where, read=keys.HF_PREPROCESSOR, harmless=keys.HF_PREPROCESSOR_HARMLESS
    )
    for key, names in (
        ("size", ({"shortest_edge"},)),
        ("crop_size", ({"height", "width"}, {"shortest_edge"})),
    ):
        value = pre.get(key)
        found = [value]
        if isinstance(value, dict) and set(value) in names:
            found = list(value.values())
        if value is not None and any(v != side for v in found):
            raise ValueError(
                f"{where}: {key!r} is {value!r}; only resizing the short side to "
                f"{side}, the image_size of the tower, and cropping the centre is "
                "supported"
            )
    return _statistics(pre, ("image_mean", "image_std"), where)


def _read_open_clip(raw: dict[str, Any], where: str, source: str) -> Config:
    check_keys(raw, where, read=keys.OPEN_CLIP_TOP, harmless={})
    model = part(raw, "model_cfg", where)
    vision, text = part(model, "vision_cfg", where), part(model, "text_cfg", where)
    pre = part(raw, "preprocess_cfg", where)
    for name, row, read, harmless in (
        ("model_cfg", model, keys.OPEN_CLIP_MODEL, keys.OPEN_CLIP_MODEL_HARMLESS),
        ("vision_cfg", vision, keys.OPEN_CLIP_VISION, keys.OPEN_CLIP_VISION_HARMLESS),
        ("text_cfg", text, keys.OPEN_CLIP_TEXT, keys.OPEN_CLIP_TEXT_HARMLESS),
        (
            "preprocess_cfg",
            pre,
            keys.OPEN_CLIP_PREPROCESS,
            keys.OPEN_CLIP_PREPROCESS_HARMLESS,
        ),
    ):
        check_keys(row, f"{where}, {name}", read=read, harmless=harmless)
    quick = model.get("quick_gelu")
    if quick is None:
        quick = _guess_quick_gelu(where, source)
    activation = (
        "quick_gelu"
        if choices.check(f"{where}, quick_gelu", quick, (True, False))
        else "gelu"
    )

    def transformer(c: dict[str, Any], name: str) -> TransformerConfig:
        here = f"{where}, {name}"
        width = size(c, "width", here, most=MOST_WIDTH)
        if name == "vision_cfg":  # LAION's H/14 has heads of 80, not 64
            c = {"head_width": 64} | c
            c["heads"] = width // size(c, "head_width", here, most=width)
        ratio = number({"mlp_ratio": 4.0} | c, "mlp_ratio", here, most=64)
        return TransformerConfig(
            width=width,
            layers=size(c, "layers", here, most=MOST_LAYERS),
            heads=_heads(c, "heads", width, here),
            mlp_width=int(width * ratio),
            activation=activation,
            eps=1e-5,
        )

    text_where = f"{where}, text_cfg"
    text = {"context_length": 77, "vocab_size": 49408, "pool_type": "argmax"} | text
    vocab_size = size(text, "vocab_size", text_where, most=MOST_WORDS)
    # "argmax" pools at the highest token id, whatever `eos_id` says.
    pool = choices.check(
        f"{text_where}, pool_type", text["pool_type"], ("argmax", "eos")
    )
    eos = vocab_size - 1
    if pool == "eos":
        eos = size(text, "eos_id", text_where, most=vocab_size - 1)
    side, patch = _view(vision, f"{where}, vision_cfg")
    if pre.get("size") not in (None, side, [side, side]):
        raise ValueError(
            f"{where}, preprocess_cfg: 'size' is {pre['size']!r}, but image_size is "
            f"{side}"
        )
    mean, std = _statistics(pre, ("mean", "std"), f"{where}, preprocess_cfg")
    return Config(
        embed_dim=size(model, "embed_dim", f"{where}, model_cfg", most=MOST_WIDTH),
        image_size=side,
        patch_size=patch,
        image_mean=mean,
        image_std=std,
        context_length=size(text, "context_length", text_where, most=MOST_TOKENS),
        vocab_size=vocab_size,
        eos_token_id=eos,
        vision=transformer(vision, "vision_cfg"),
        text=transformer(text, "text_cfg"),
    )


def _guess_quick_gelu(where: str, source: str) -> bool:
    """open_clip has it in a table of tags, which are the end of a repository's name."""
    name = PurePath(source).name.lower()
    quick = name.rpartition(".")[2] in keys.QUICK_GELU_TAGS
    quick = quick or "quickgelu" in name or name.startswith(("dfn2b", "dfn5b"))
    warnings.warn(
        f"{where} does not say quick_gelu; guessed {str(quick).lower()} from the name "
        f'{name!r}. Add "quick_gelu": true or false to its model_cfg to be sure',
        stacklevel=2,
    )
    return quick


def _view(vision: dict[str, Any], where: str) -> tuple[int, int]:
    side = size(vision, "image_size", where, most=MOST_PIXELS)
    return side, size(vision, "patch_size", where, most=side)


def _heads(c: dict[str, Any], key: str, width: int, where: str) -> int:
    heads = size(c, key, where, most=width)
    if width % heads:
        raise ValueError(f"{where}: {heads} heads do not divide the width {width}")
    return heads


def _statistics(
    pre: dict[str, Any], names: tuple[str, str], where: str
) -> tuple[Any, Any]:
    mean, std = (pre.get(name) for name in names)
    return (
        channels(
            keys.CLIP_MEAN if mean is None else mean, names[0], where, positive=False
        ),
        channels(keys.CLIP_STD if std is None else std, names[1], where, positive=True),
    )


def digest_text(config: Config) -> str:
    """Returns the configuration as text, for `Towers.checkpoint_sha256`.

    Heads and caches store that checksum. So this text must stay as it is whatever
    fields `Config` may get: a new field may only add to it where it is not at the
    value that all CLIP ViTs had before.
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
