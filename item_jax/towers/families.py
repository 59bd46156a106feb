"""The families of towers: which modules define one, and which reads a checkpoint."""

from __future__ import annotations

from typing import Any

from item_jax import choices, files
from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.checks import open_clip_kind

# What a family defines; README.md says what each is. `digest_text`, `image_outputs` and
# `text_cleaning` are optional.
FAMILY_NEEDS = (
    "LAYOUTS",
    "TOKENIZER_FILES",
    "read_config",
    "param_shapes",
    "encoder",
    "load_tokenizer",
    "tokenize",
    "pad_tokens",
)

# Of the README, for a message.
_READ = (
    "What is read: CLIP ViTs (OpenAI, LAION, DataComp, MetaCLIP, DFN), CLIP ResNets, "
    "SigLIP and SigLIP 2 of a fixed size, CLIPA, MetaCLIP 2"
)


def families() -> dict[str, Any]:
    """Returns the families of this folder by name: the modules that define one."""
    found = {
        name: choices.resolve("module", name, "item_jax.towers")
        for name in choices.modules("item_jax.towers")
    }
    return {
        name: module
        for name, module in found.items()
        if all(hasattr(module, need) for need in FAMILY_NEEDS)
    }


def read_config(checkpoint: CheckpointFiles, family: str = "") -> tuple[str, Any, Any]:
    """Returns the family that reads a checkpoint: its name, module, configuration.

    Args:
      checkpoint: its files.
      family: see `load_towers`.

    Raises:
      ValueError: if no family reads it, with what it is and which families there are.
    """
    known = families()
    asked = known
    if family:
        asked = {
            family: choices.resolve("tower family", family, known, needs=FAMILY_NEEDS)
        }
    for name, module in asked.items():
        config = module.read_config(checkpoint)
        if config is not None:
            return name, module, config
    raise ValueError(
        f"{checkpoint.source}: {_kind(checkpoint)}; no family of towers reads it "
        f"(asked: {', '.join(asked)}). {_READ}. Another family is given as "
        "family=package.module[:name]"
    )


def _kind(checkpoint: CheckpointFiles) -> str:
    """What a checkpoint is, as far as its files say, for a message."""
    raw = checkpoint.json("open_clip_config.json")
    if raw is not None and open_clip_kind(raw) != "CLIP ViT":
        return f"open_clip_config.json describes another model: {open_clip_kind(raw)}"
    raw = checkpoint.json("config.json")
    if raw is not None:
        model_type = files.printable(repr(raw.get("model_type"))[:60])
        return f"config.json is of model_type {model_type}"
    return (
        "it has neither config.json nor open_clip_config.json; found "
        f"{', '.join(sorted(checkpoint.names)[:20]) or 'no files'}"
    )
