"""What the families share in reading a `config.json` of Hugging Face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from item_jax import choices
from item_jax.towers.checks import (
    MOST_LAYERS,
    MOST_WIDTH,
    check_keys,
    heads,
    number,
    part,
    size,
)
from item_jax.towers.transformer import ACTIVATIONS, TransformerConfig


def tower(
    raw: Mapping[str, Any],
    name: str,
    where: str,
    *,
    defaults: Mapping[str, Any],
    harmless: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns `text_config` or `vision_config`, its keys checked.

    Args:
      raw: the parsed file.
      name: "text" or "vision".
      where: the file, for messages.
      defaults: the keys that are read, with what transformers takes where they are
        absent.
      harmless: see `checks.check_keys`.

    Raises:
      ValueError: naming a key that is not understood.
    """
    here = f"{where}, {name}_config"
    found = part(raw, f"{name}_config", where)
    check_keys(found, here, read=defaults, harmless=harmless)
    if raw.get(f"{name}_config_dict") is not None:
        # Repositories of 2022 have both. transformers lets this one win, with its own
        # defaults for what it leaves out (CLIPConfig.__post_init__).
        found = part(raw, f"{name}_config_dict", where)
        check_keys(found, f"{here}_dict", read=defaults, harmless=harmless)
    return dict(defaults) | found


def transformer(c: Mapping[str, Any], where: str) -> TransformerConfig:
    """Reads the sizes of a tower's blocks.

    Args:
      c: of `tower`.
      where: the file and the place in it, for messages.

    Raises:
      ValueError: naming the key, for a size that makes no sense.
    """
    width = size(c, "hidden_size", where, most=MOST_WIDTH)
    return TransformerConfig(
        width=width,
        layers=size(c, "num_hidden_layers", where, most=MOST_LAYERS),
        heads=heads(c, "num_attention_heads", width, where),
        mlp_width=size(c, "intermediate_size", where, most=MOST_WIDTH),
        activation=choices.check(f"{where}, hidden_act", c["hidden_act"], ACTIVATIONS),
        eps=number(c, "layer_norm_eps", where, most=1),
    )
