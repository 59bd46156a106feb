"""The files of the general ViT: known configuration keys, and the key tables.

Four kinds of files: SigLIP of Hugging Face and of open_clip (whose image tower has the
names of timm), and MetaCLIP 2 and CLIPA, whose tensors have CLIP's names.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from item_jax.towers import clip_vit_keys
from item_jax.towers.checkpoint import KeyTable, Layout
from item_jax.towers.checks import ANY
from item_jax.towers.key_tables import (
    HF_HARMLESS,
    IGNORED,
    OPEN_CLIP_BLOCKS_HARMLESS,
    affine,
    as_is,
    hf_blocks,
    norm,
    open_clip_text,
    patches,
    scalar,
)

# ---- Configuration keys: Hugging Face -----------------------------------------------

# With what transformers takes where they are absent (SiglipVisionConfig, ...).
_SIGLIP = {
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
SIGLIP_VISION = _SIGLIP | {"image_size": 224, "patch_size": 16}
SIGLIP_TEXT = _SIGLIP | {
    "vocab_size": 32000,
    "max_position_embeddings": 64,
    "projection_size": None,
}
SIGLIP_TOP = ("model_type", "text_config", "vision_config")
SIGLIP_VISION_HARMLESS = HF_HARMLESS | {
    "model_type": ("siglip_vision_model",),
    "eos_token_id": ANY,
    "num_channels": (3,),
    "vision_use_head": (True,),
}
SIGLIP_TEXT_HARMLESS = HF_HARMLESS | {
    "model_type": ("siglip_text_model",),
    "eos_token_id": ANY,  # unused: SigLIP pools the last position
}

METACLIP_2_VISION_HARMLESS = clip_vit_keys.HF_VISION_HARMLESS | {
    "model_type": ("metaclip_2_vision_model",)
}
METACLIP_2_TEXT_HARMLESS = clip_vit_keys.HF_TEXT_HARMLESS | {
    "model_type": ("metaclip_2_text_model",)
}

# ---- Configuration keys: open_clip --------------------------------------------------

OPEN_CLIP_VISION = (
    *clip_vit_keys.OPEN_CLIP_VISION,
    "act_kwargs",
    "final_ln_after_pool",
    "no_ln_pre",
    "norm_kwargs",
    "pool_type",
)
OPEN_CLIP_VISION_HARMLESS = OPEN_CLIP_BLOCKS_HARMLESS | {
    "attentional_pool": (False, None),
    "patch_dropout": ANY,  # in training alone
    "pos_embed_type": ("learnable",),
    "timm_model_name": (None,),
}
OPEN_CLIP_TEXT = (
    *clip_vit_keys.OPEN_CLIP_TEXT,
    "act_kwargs",
    "hf_tokenizer_name",
    "no_causal_mask",
    "norm_kwargs",
    "proj_bias",
    "proj_type",
)
OPEN_CLIP_TEXT_HARMLESS = OPEN_CLIP_BLOCKS_HARMLESS | {
    "bos_id": ANY,
    "embed_cls": (False,),
    "final_ln_after_pool": (False,),
    "hf_model_name": (None,),
    "pad_id": ANY,  # the tokenizer's own is taken
    "tokenizer_mode": (None, ""),
}


TIMM_VISION = ("image_size", "timm_model_name")
TIMM_VISION_HARMLESS: dict[str, Any] = {
    "timm_drop": ANY,  # these two in training alone
    "timm_drop_path": ANY,
    "timm_model_pretrained": ANY,
    "timm_pool": ("map",),
    "timm_proj": ("none",),
    "timm_proj_bias": (False,),
}

# The image towers of SigLIP in timm (vision_transformer.py): width, layers, heads and
# the width of the MLP as a multiple.
TIMM_SIZES = {
    "base": (768, 12, 12, 4.0),
    "large": (1024, 24, 16, 4.0),
    "so400m": (1152, 27, 16, 3.7362),
    "giantopt": (1536, 40, 16, 4.0),
}
# All of them there are, and which form of GELU each has.
TIMM_ACTIVATIONS = dict.fromkeys(
    """
    vit_base_patch16_siglip_224 vit_base_patch16_siglip_256 vit_base_patch16_siglip_384
    vit_base_patch16_siglip_512 vit_large_patch16_siglip_256
    vit_large_patch16_siglip_384 vit_so400m_patch14_siglip_224
    vit_so400m_patch14_siglip_378 vit_so400m_patch14_siglip_384
    """.split(),
    "gelu",
) | dict.fromkeys(
    """
    vit_base_patch32_siglip_256 vit_large_patch16_siglip_512
    vit_so400m_patch16_siglip_256 vit_so400m_patch16_siglip_384
    vit_so400m_patch16_siglip_512 vit_giantopt_patch16_siglip_256
    vit_giantopt_patch16_siglip_384
    """.split(),
    "gelu_pytorch_tanh",
)

# ---- Where each parameter is in a checkpoint ----------------------------------------


def _vector(t: np.ndarray) -> np.ndarray:  # [1, 1, width]
    return t.reshape(-1)


def _rows(t: np.ndarray) -> np.ndarray:  # [1, T, width]
    return t.reshape(t.shape[-2:])


def _query(t: np.ndarray) -> np.ndarray:  # of q, k and v of torch's attention, q
    return t[: len(t) // 3].T


def _keys_and_values(t: np.ndarray) -> np.ndarray:
    return t[len(t) // 3 :].T


_HEAD = "vision_model.head"

SIGLIP_HUGGING_FACE: KeyTable = {
    "logit_scale": ("logit_scale", scalar),
    "vision/patch_embedding/kernel": (
        "vision_model.embeddings.patch_embedding.weight",
        patches,
    ),
    "vision/patch_embedding/bias": (
        "vision_model.embeddings.patch_embedding.bias",
        as_is,
    ),
    "vision/position_embedding": (
        "vision_model.embeddings.position_embedding.weight",
        as_is,
    ),
    **hf_blocks("vision", "vision_model"),
    **norm("vision/ln_post", "vision_model.post_layernorm"),
    "vision/pool/query": (f"{_HEAD}.probe", _vector),
    "vision/pool/q/kernel": (f"{_HEAD}.attention.in_proj_weight", _query),
    "vision/pool/q/bias": (f"{_HEAD}.attention.in_proj_bias", _query),
    "vision/pool/kv/kernel": (f"{_HEAD}.attention.in_proj_weight", _keys_and_values),
    "vision/pool/kv/bias": (f"{_HEAD}.attention.in_proj_bias", _keys_and_values),
    **affine("vision/pool/out", f"{_HEAD}.attention.out_proj"),
    **norm("vision/pool/ln", f"{_HEAD}.layernorm"),
    **affine("vision/pool/fc_1", f"{_HEAD}.mlp.fc1"),
    **affine("vision/pool/fc_2", f"{_HEAD}.mlp.fc2"),
    "text/token_embedding": ("text_model.embeddings.token_embedding.weight", as_is),
    "text/position_embedding": (
        "text_model.embeddings.position_embedding.weight",
        as_is,
    ),
    **hf_blocks("text", "text_model"),
    **norm("text/ln_final", "text_model.final_layer_norm"),
    **affine("text/projection", "text_model.head"),
}

_TRUNK, _BLOCK = "visual.trunk", "visual.trunk.blocks.{i}"
_POOL = f"{_TRUNK}.attn_pool"

SIGLIP_OPEN_CLIP: KeyTable = {
    "logit_scale": ("logit_scale", scalar),
    "vision/patch_embedding/kernel": (f"{_TRUNK}.patch_embed.proj.weight", patches),
    "vision/patch_embedding/bias": (f"{_TRUNK}.patch_embed.proj.bias", as_is),
    "vision/position_embedding": (f"{_TRUNK}.pos_embed", _rows),
    **norm("vision/block_{i}/ln_1", f"{_BLOCK}.norm1"),
    **affine("vision/block_{i}/qkv", f"{_BLOCK}.attn.qkv"),
    **affine("vision/block_{i}/out", f"{_BLOCK}.attn.proj"),
    **norm("vision/block_{i}/ln_2", f"{_BLOCK}.norm2"),
    **affine("vision/block_{i}/fc_1", f"{_BLOCK}.mlp.fc1"),
    **affine("vision/block_{i}/fc_2", f"{_BLOCK}.mlp.fc2"),
    **norm("vision/ln_post", f"{_TRUNK}.norm"),
    "vision/pool/query": (f"{_POOL}.latent", _vector),
    **affine("vision/pool/q", f"{_POOL}.q"),
    **affine("vision/pool/kv", f"{_POOL}.kv"),
    **affine("vision/pool/out", f"{_POOL}.proj"),
    **norm("vision/pool/ln", f"{_POOL}.norm"),
    **affine("vision/pool/fc_1", f"{_POOL}.mlp.fc1"),
    **affine("vision/pool/fc_2", f"{_POOL}.mlp.fc2"),
    **open_clip_text("text."),
    **affine("text/projection", "text.text_projection"),  # with a bias, a linear layer
}

_OPEN_CLIP_FILES = (
    "open_clip_config.json",
    ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
)

LAYOUTS = (
    Layout(
        "SigLIP of open_clip",
        *_OPEN_CLIP_FILES,
        SIGLIP_OPEN_CLIP,
        IGNORED,
        open_clip_kinds=("SigLIP",),
    ),
    Layout(
        "open_clip",
        *_OPEN_CLIP_FILES,
        clip_vit_keys.OPEN_CLIP,
        IGNORED,
        open_clip_kinds=("CLIPA", "CLIP ViT with another tokenizer"),
    ),
    Layout(
        "SigLIP of Hugging Face",
        "config.json",
        ("model.safetensors",),
        SIGLIP_HUGGING_FACE,
        IGNORED,
        model_type="siglip",
    ),
    Layout(
        "MetaCLIP 2 of Hugging Face",
        "config.json",
        ("model.safetensors",),
        clip_vit_keys.HUGGING_FACE,
        IGNORED,
        model_type="metaclip_2",
    ),
)
