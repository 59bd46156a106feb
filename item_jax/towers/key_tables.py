"""What the key tables of the families share: layouts of tensors, blocks, known keys.

A key table says where each parameter is in the files (`checkpoint.KeyTable`). This file
has the functions that lay tensors out as JAX wants them, the tables of a transformer in
the names of Hugging Face and of open_clip, and the configuration keys that both
libraries write and that change no embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from item_jax.towers.checkpoint import KeyTable
from item_jax.towers.checks import ANY

# openai/CLIP, notebooks and clip.py: the pixel statistics of its training images.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# ---- Layouts of tensors; several are joined along the last axis ---------------------


def as_is(*tensors: np.ndarray) -> np.ndarray:
    """A tensor as it is stored."""
    return np.concatenate(tensors, -1) if len(tensors) > 1 else tensors[0]


def linear(*tensors: np.ndarray) -> np.ndarray:
    """`torch.nn.Linear`, `[out, in]`, as `[in, out]`."""
    return as_is(*(t.T for t in tensors))


def patches(t: np.ndarray) -> np.ndarray:
    """A convolution over patches, `[out, channel, row, column]`, as a product:
    `[row * column * channel, out]`."""
    return t.transpose(2, 3, 1, 0).reshape(-1, t.shape[0])


def scalar(t: np.ndarray) -> np.ndarray:
    """A number that may be stored with shape [] or [1]."""
    return t.reshape(())


# ---- Parts of a table ---------------------------------------------------------------


def norm(path: str, key: str) -> dict[str, Any]:
    """The table of a `transformer.LayerNorm`."""
    return {
        f"{path}/norm/scale": (f"{key}.weight", as_is),
        f"{path}/norm/bias": (f"{key}.bias", as_is),
    }


def affine(path: str, *keys: str) -> dict[str, Any]:
    """The table of a linear layer with a bias, which the files may have in parts."""
    return {
        f"{path}/kernel": (tuple(f"{k}.weight" for k in keys), linear),
        f"{path}/bias": (tuple(f"{k}.bias" for k in keys), as_is),
    }


def hf_blocks(tower: str, prefix: str) -> KeyTable:
    """The blocks of a tower in Hugging Face's names."""
    ours, theirs = f"{tower}/block_{{i}}", f"{prefix}.encoder.layers.{{i}}"
    qkv = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
    return (
        norm(f"{ours}/ln_1", f"{theirs}.layer_norm1")
        | affine(f"{ours}/qkv", *qkv)
        | affine(f"{ours}/out", f"{theirs}.self_attn.out_proj")
        | norm(f"{ours}/ln_2", f"{theirs}.layer_norm2")
        | affine(f"{ours}/fc_1", f"{theirs}.mlp.fc1")
        | affine(f"{ours}/fc_2", f"{theirs}.mlp.fc2")
    )


def open_clip_blocks(tower: str, prefix: str) -> KeyTable:
    """The blocks of a tower in open_clip's names, which are OpenAI's."""
    ours, theirs = f"{tower}/block_{{i}}", f"{prefix}transformer.resblocks.{{i}}"
    return (
        norm(f"{ours}/ln_1", f"{theirs}.ln_1")
        | {
            f"{ours}/qkv/kernel": (f"{theirs}.attn.in_proj_weight", linear),
            f"{ours}/qkv/bias": (f"{theirs}.attn.in_proj_bias", as_is),
        }
        | affine(f"{ours}/out", f"{theirs}.attn.out_proj")
        | norm(f"{ours}/ln_2", f"{theirs}.ln_2")
        | affine(f"{ours}/fc_1", f"{theirs}.mlp.c_fc")
        | affine(f"{ours}/fc_2", f"{theirs}.mlp.c_proj")
    )


def open_clip_text(prefix: str = "") -> KeyTable:
    """The text tower in open_clip's names; `prefix` is "text." with `custom_text`."""
    return {
        "text/token_embedding": (f"{prefix}token_embedding.weight", as_is),
        "text/position_embedding": (f"{prefix}positional_embedding", as_is),
        **open_clip_blocks("text", prefix),
        **norm("text/ln_final", f"{prefix}ln_final"),
        # A parameter that is used as x @ projection, not a linear layer.
        "text/projection/kernel": (f"{prefix}text_projection", as_is),
    }


# What is no parameter of an embedding: buffers and scalars of old files, and the bias
# that sigmoid losses add to the logits.
IGNORED = (
    r".*\.position_ids|attn_mask|input_resolution|context_length|vocab_size|logit_bias"
)

# ---- Configuration keys that change no embedding ------------------------------------

# What transformers' PreTrainedConfig has written over the years. None of it acts on an
# encoder at inference: bookkeeping, initialisation, training, outputs, text
# generation, and what holds for decoders alone.
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
HF_HARMLESS: dict[str, Any] = dict.fromkeys(
    (_HF_GENERATION + _HF_BOOKKEEPING).split(), ANY
) | {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}

# `preprocessor_config.json`, or `image_processor` in `processor_config.json`, which
# `preprocessing.py` reads.
HF_PREPROCESSOR = (
    "image_mean",
    "image_std",
    "size",
    "crop_size",
    "do_center_crop",
    "resample",
)
HF_PREPROCESSOR_HARMLESS: dict[str, Any] = dict.fromkeys(
    """
    _valid_processor_keys data_format default_to_square device disable_grouping
    do_convert_rgb feature_extractor_type image_processor_type input_data_format
    processor_class return_tensors
    """.split(),
    ANY,
) | {
    "do_normalize": (True, None),
    "do_pad": (False, None),
    "do_rescale": (True, None),
    "do_resize": (True, None),
    "pad_size": (None,),
    "rescale_factor": (1 / 255, None),
    "size_divisor": (None,),
    "use_square_size": (False, None),
}

# Of open_clip's configurations, at their neutral values (CLIPVisionCfg, CLIPTextCfg).
OPEN_CLIP_TOP = ("model_cfg", "preprocess_cfg")
OPEN_CLIP_MODEL = ("embed_dim", "quick_gelu", "vision_cfg", "text_cfg")
OPEN_CLIP_MODEL_HARMLESS: dict[str, Any] = {
    "cast_dtype": (None,),
    "custom_text": (False,),
    "init_logit_bias": ANY,
    "init_logit_scale": ANY,
    "nonscalar_logit_scale": ANY,
    "output_dict": ANY,
}
OPEN_CLIP_BLOCKS_HARMLESS: dict[str, Any] = {
    "block_type": (None, "default"),
    "ls_init_value": (None,),
    "output_tokens": (False,),
    "qk_norm": (False,),
    "scale_attn": (False,),
    "scale_attn_inner": (False,),
    "scale_fc": (False,),
    "scale_heads": (False,),
    "scaled_cosine_attn": (False,),
}
OPEN_CLIP_PREPROCESS = ("mean", "std", "size", "interpolation", "resize_mode")
OPEN_CLIP_PREPROCESS_HARMLESS: dict[str, Any] = {
    "fill_color": ANY,  # of borders, which no geometry of ours adds
    "mode": ("RGB",),
}
