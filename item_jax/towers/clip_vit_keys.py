"""The files of CLIP ViT checkpoints: known configuration keys, and the key tables.

Two layouts: Hugging Face's `CLIPModel`, and open_clip's (OpenAI's own names). This
file is data; `clip_vit_config.read_config` reads the configurations.
"""

from __future__ import annotations

from item_jax.towers.checkpoint import KeyTable, Layout
from item_jax.towers.checks import ANY
from item_jax.towers.key_tables import (
    HF_HARMLESS,
    IGNORED,
    OPEN_CLIP_BLOCKS_HARMLESS,
    as_is,
    hf_blocks,
    linear,
    norm,
    open_clip_blocks,
    open_clip_text,
    patches,
    scalar,
)

# ---- Configuration keys: Hugging Face -----------------------------------------------

# The keys that are read, with the values that transformers assumes where they are
# absent (CLIPVisionConfig, CLIPTextConfig).
_HF_SHARED = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
HF_VISION = _HF_SHARED | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
HF_TEXT = _HF_SHARED | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}
HF_TOP = (
    "model_type",
    "projection_dim",
    "text_config",
    "vision_config",
    "text_config_dict",
    "vision_config_dict",
)

# Of the parts' own projection_dim CLIPModel takes no notice: it reads the top one.
HF_TEXT_HARMLESS = HF_HARMLESS | {
    "model_type": ("clip_text_model",),
    "projection_dim": ANY,
}
HF_VISION_HARMLESS = HF_HARMLESS | {
    "model_type": ("clip_vision_model",),
    "projection_dim": ANY,
    "eos_token_id": ANY,
    "num_channels": (3,),
}

# ---- Configuration keys: open_clip --------------------------------------------------
# Defaults and neutral values as in its CLIPVisionCfg and CLIPTextCfg (model.py).

_OPEN_CLIP_HARMLESS = OPEN_CLIP_BLOCKS_HARMLESS | {
    "act_kwargs": (None, {}),
    "norm_kwargs": (None, {}),
}
OPEN_CLIP_VISION = (
    "image_size",
    "layers",
    "width",
    "patch_size",
    "head_width",
    "mlp_ratio",
)
OPEN_CLIP_VISION_HARMLESS = _OPEN_CLIP_HARMLESS | {
    "attentional_pool": (False, None),
    "final_ln_after_pool": (False,),
    "no_ln_pre": (False,),
    "patch_dropout": ANY,  # in training alone
    "pool_type": ("tok",),
    "pos_embed_type": ("learnable",),
    "timm_model_name": (None,),
}
OPEN_CLIP_TEXT = (
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    "mlp_ratio",
    "eos_id",
    "pool_type",
    "tokenizer_kwargs",
)
OPEN_CLIP_TEXT_HARMLESS = _OPEN_CLIP_HARMLESS | {
    "bos_id": ANY,
    "embed_cls": (False,),
    "final_ln_after_pool": (False,),
    "hf_model_name": (None,),
    "hf_tokenizer_name": (None, ""),
    "no_causal_mask": (False,),
    "pad_id": ANY,  # padding stands behind the EOS, where no position looks
    "proj_bias": (False,),
    "proj_type": ("linear",),
}

# ---- Where each parameter is in a checkpoint ----------------------------------------


_HF_VISION_KEYS, _HF_TEXT_KEYS = "vision_model.embeddings", "text_model.embeddings"

HUGGING_FACE: KeyTable = {
    "logit_scale": ("logit_scale", scalar),
    "vision/patch_embedding/kernel": (
        f"{_HF_VISION_KEYS}.patch_embedding.weight",
        patches,
    ),
    "vision/class_embedding": (f"{_HF_VISION_KEYS}.class_embedding", as_is),
    "vision/position_embedding": (
        f"{_HF_VISION_KEYS}.position_embedding.weight",
        as_is,
    ),
    **norm("vision/ln_pre", "vision_model.pre_layrnorm"),  # the typo is theirs
    **hf_blocks("vision", "vision_model"),
    **norm("vision/ln_post", "vision_model.post_layernorm"),
    "vision/projection/kernel": ("visual_projection.weight", linear),
    "text/token_embedding": (f"{_HF_TEXT_KEYS}.token_embedding.weight", as_is),
    "text/position_embedding": (
        f"{_HF_TEXT_KEYS}.position_embedding.weight",
        as_is,
    ),
    **hf_blocks("text", "text_model"),
    **norm("text/ln_final", "text_model.final_layer_norm"),
    "text/projection/kernel": ("text_projection.weight", linear),
}

OPEN_CLIP: KeyTable = {
    "logit_scale": ("logit_scale", scalar),
    "vision/patch_embedding/kernel": ("visual.conv1.weight", patches),
    "vision/class_embedding": ("visual.class_embedding", as_is),
    "vision/position_embedding": ("visual.positional_embedding", as_is),
    **norm("vision/ln_pre", "visual.ln_pre"),
    **open_clip_blocks("vision", "visual."),
    **norm("vision/ln_post", "visual.ln_post"),
    "vision/projection/kernel": ("visual.proj", as_is),  # used as x @ proj
    **open_clip_text(),
}

LAYOUTS = (
    Layout(
        "open_clip",
        "open_clip_config.json",
        ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
        OPEN_CLIP,
        IGNORED,
        open_clip_kinds=("CLIP ViT",),
    ),
    Layout(
        "hugging face",
        "config.json",
        ("model.safetensors",),
        HUGGING_FACE,
        IGNORED,
        model_type="clip",
    ),
)
