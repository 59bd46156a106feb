"""The files of CLIP ViT checkpoints: known configuration keys, and the key tables.

Two layouts: Hugging Face's `CLIPModel`, and open_clip's (OpenAI's own names). This
file is data; `clip_vit_config.read_config` reads the configurations.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from item_jax.towers.checkpoint import KeyTable, Layout
from item_jax.towers.checks import ANY

# openai/CLIP, notebooks and clip.py: the pixel statistics of its training images.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

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

# What transformers' PreTrainedConfig has written beside them over the years. None of
# it acts on an encoder at inference: bookkeeping, initialisation, training, outputs,
# text generation, and what holds for decoders alone.
_HF_GENERATION = """
bad_words_ids begin_suppress_tokens decoder_start_token_id diversity_penalty do_sample
early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
no_repeat_ngram_size num_beam_groups num_beams num_return_sequences prefix
remove_invalid_values repetition_penalty suppress_tokens temperature top_k top_p
typical_p
"""
_HF_BOOKKEEPING = """
_attn_implementation_autoset _commit_hash _name_or_path architectures
attention_dropout bos_token_id chunk_size_feed_forward dropout dtype finetuning_task
gradient_checkpointing id2label initializer_factor initializer_range label2id
logit_scale_init_value output_attentions output_hidden_states output_scores
pad_token_id problem_type return_dict return_dict_in_generate sep_token_id
task_specific_params tf_legacy_loss tie_encoder_decoder tie_word_embeddings
tokenizer_class torch_dtype torchscript transformers_version use_bfloat16 use_cache
"""
_HF_HARMLESS: dict[str, Any] = dict.fromkeys(
    (_HF_GENERATION + _HF_BOOKKEEPING).split(), ANY
) | {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}
HF_TOP_HARMLESS = _HF_HARMLESS
# Of the parts' own projection_dim CLIPModel takes no notice: it reads the top one.
HF_TEXT_HARMLESS = _HF_HARMLESS | {
    "model_type": ("clip_text_model",),
    "projection_dim": ANY,
}
HF_VISION_HARMLESS = _HF_HARMLESS | {
    "model_type": ("clip_vision_model",),
    "projection_dim": ANY,
    "eos_token_id": ANY,
    "num_channels": (3,),
}

# `preprocessor_config.json`, or `image_processor` in `processor_config.json`. Views are
# resized and cropped by `item_jax.images` as CLIP does it: the short side to the size,
# bicubic, then the centre.
HF_PREPROCESSOR = ("image_mean", "image_std", "size", "crop_size")
HF_PREPROCESSOR_HARMLESS: dict[str, Any] = dict.fromkeys(
    """
    _valid_processor_keys data_format default_to_square device disable_grouping
    do_convert_rgb feature_extractor_type image_processor_type input_data_format
    processor_class return_tensors
    """.split(),
    ANY,
) | {
    "do_center_crop": (True, None),
    "do_normalize": (True, None),
    "do_pad": (False, None),
    "do_rescale": (True, None),
    "do_resize": (True, None),
    "pad_size": (None,),
    "resample": (3, None),  # Pillow's number of bicubic
    "rescale_factor": (1 / 255, None),
    "size_divisor": (None,),
    "use_square_size": (False, None),
}

# ---- Configuration keys: open_clip --------------------------------------------------
# Defaults and neutral values as in its CLIPVisionCfg and CLIPTextCfg (model.py).

OPEN_CLIP_TOP = ("model_cfg", "preprocess_cfg")
OPEN_CLIP_MODEL = ("embed_dim", "quick_gelu", "vision_cfg", "text_cfg")
OPEN_CLIP_MODEL_HARMLESS: dict[str, Any] = {
    "cast_dtype": (None,),
    "custom_text": (False,),
    "init_logit_bias": (None,),
    "init_logit_scale": ANY,
    "nonscalar_logit_scale": ANY,
    "output_dict": ANY,
}
_OPEN_CLIP_HARMLESS: dict[str, Any] = {
    "act_kwargs": (None, {}),
    "ls_init_value": (None,),
    "norm_kwargs": (None, {}),
    "output_tokens": (False,),
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
    "block_type": (None,),
    "final_ln_after_pool": (False,),
    "no_ln_pre": (False,),
    "patch_dropout": ANY,  # in training alone
    "pool_type": ("tok",),
    "pos_embed_type": ("learnable",),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
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
    "tokenizer_kwargs": (None, {}),
}
OPEN_CLIP_PREPROCESS = ("mean", "std", "size")
OPEN_CLIP_PREPROCESS_HARMLESS: dict[str, Any] = {
    "fill_color": ANY,  # of borders, which "shortest" never adds
    "interpolation": ("bicubic",),
    "mode": ("RGB",),
    "resize_mode": ("shortest",),
}

# The tags of open_clip's pretrained.py whose weights need QuickGELU, all of them. Its
# laion400m tags do at one size and not at another.
QUICK_GELU_TAGS = (
    "openai",
    "metaclip_400m",
    "metaclip_fullcc",
    "metaclip_2pt5b",
    "metaclip2_worldwide",
    "dfn2b",
    "dfn2b_s39b",
    "dfn5b",
)

# ---- Where each parameter is in a checkpoint ----------------------------------------


def _as_is(t: np.ndarray) -> np.ndarray:
    return t


def _linear(t: np.ndarray) -> np.ndarray:  # torch.nn.Linear: [out, in]
    return t.T


def _convolution(t: np.ndarray) -> np.ndarray:
    # [out, channel, row, column] -> [row * column * channel, out]
    return t.transpose(2, 3, 1, 0).reshape(-1, t.shape[0])


def _scalar(t: np.ndarray) -> np.ndarray:  # of shape [] or [1]
    return t.reshape(())


def _norm(path: str, key: str) -> dict[str, Any]:
    return {
        f"{path}/norm/scale": (f"{key}.weight", _as_is),
        f"{path}/norm/bias": (f"{key}.bias", _as_is),
    }


def _affine(path: str, *keys: str) -> dict[str, Any]:
    return {
        f"{path}/kernel": (tuple(f"{k}.weight" for k in keys), _linear),
        f"{path}/bias": (tuple(f"{k}.bias" for k in keys), _as_is),
    }


def _hf_blocks(tower: str, prefix: str) -> dict[str, Any]:
    ours, theirs = f"{tower}/block_{{i}}", f"{prefix}.encoder.layers.{{i}}"
    qkv = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
    return (
        _norm(f"{ours}/ln_1", f"{theirs}.layer_norm1")
        | _affine(f"{ours}/qkv", *qkv)
        | _affine(f"{ours}/out", f"{theirs}.self_attn.out_proj")
        | _norm(f"{ours}/ln_2", f"{theirs}.layer_norm2")
        | _affine(f"{ours}/fc_1", f"{theirs}.mlp.fc1")
        | _affine(f"{ours}/fc_2", f"{theirs}.mlp.fc2")
    )


def _open_clip_blocks(tower: str, prefix: str) -> dict[str, Any]:
    ours, theirs = f"{tower}/block_{{i}}", f"{prefix}transformer.resblocks.{{i}}"
    return (
        _norm(f"{ours}/ln_1", f"{theirs}.ln_1")
        | {
            f"{ours}/qkv/kernel": (f"{theirs}.attn.in_proj_weight", _linear),
            f"{ours}/qkv/bias": (f"{theirs}.attn.in_proj_bias", _as_is),
        }
        | _affine(f"{ours}/out", f"{theirs}.attn.out_proj")
        | _norm(f"{ours}/ln_2", f"{theirs}.ln_2")
        | _affine(f"{ours}/fc_1", f"{theirs}.mlp.c_fc")
        | _affine(f"{ours}/fc_2", f"{theirs}.mlp.c_proj")
    )


_HF_VISION_KEYS, _HF_TEXT_KEYS = "vision_model.embeddings", "text_model.embeddings"

_HUGGING_FACE: KeyTable = {
    "logit_scale": ("logit_scale", _scalar),
    "vision/patch_embedding/kernel": (
        f"{_HF_VISION_KEYS}.patch_embedding.weight",
        _convolution,
    ),
    "vision/class_embedding": (f"{_HF_VISION_KEYS}.class_embedding", _as_is),
    "vision/position_embedding": (
        f"{_HF_VISION_KEYS}.position_embedding.weight",
        _as_is,
    ),
    **_norm("vision/ln_pre", "vision_model.pre_layrnorm"),  # the typo is theirs
    **_hf_blocks("vision", "vision_model"),
    **_norm("vision/ln_post", "vision_model.post_layernorm"),
    "vision/projection/kernel": ("visual_projection.weight", _linear),
    "text/token_embedding": (f"{_HF_TEXT_KEYS}.token_embedding.weight", _as_is),
    "text/position_embedding": (
        f"{_HF_TEXT_KEYS}.position_embedding.weight",
        _as_is,
    ),
    **_hf_blocks("text", "text_model"),
    **_norm("text/ln_final", "text_model.final_layer_norm"),
    "text/projection/kernel": ("text_projection.weight", _linear),
}

_OPEN_CLIP: KeyTable = {
    "logit_scale": ("logit_scale", _scalar),
    "vision/patch_embedding/kernel": ("visual.conv1.weight", _convolution),
    "vision/class_embedding": ("visual.class_embedding", _as_is),
    "vision/position_embedding": ("visual.positional_embedding", _as_is),
    **_norm("vision/ln_pre", "visual.ln_pre"),
    **_open_clip_blocks("vision", "visual."),
    **_norm("vision/ln_post", "visual.ln_post"),
    "vision/projection/kernel": ("visual.proj", _as_is),  # used as x @ proj
    "text/token_embedding": ("token_embedding.weight", _as_is),
    "text/position_embedding": ("positional_embedding", _as_is),
    **_open_clip_blocks("text", ""),
    **_norm("text/ln_final", "ln_final"),
    "text/projection/kernel": ("text_projection", _as_is),
}

# Buffers and scalars that old files carry beside the weights.
_IGNORED = r".*\.position_ids|attn_mask|input_resolution|context_length|vocab_size"

LAYOUTS = (
    Layout(
        "open_clip",
        "open_clip_config.json",
        ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
        _OPEN_CLIP,
        _IGNORED,
    ),
    Layout(
        "hugging face",
        "config.json",
        ("model.safetensors",),
        _HUGGING_FACE,
        _IGNORED,
        model_type="clip",
    ),
)
