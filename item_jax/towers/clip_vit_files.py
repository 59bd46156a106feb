"""The files of CLIP checkpoints: their configurations, and where each parameter stands.

Two families: Hugging Face's `CLIPModel` and open_clip's (OpenAI's own names).
"""

from __future__ import annotations

from item_jax.towers.clip_vit import ACTIVATIONS, Config, TransformerConfig

# openai/CLIP, notebooks and clip.py: the pixel statistics of its training images.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# ---- Reading a checkpoint's configuration -------------------------------------------

# Values that transformers leaves out of config.json when they are its own defaults
# (CLIPTextConfig, CLIPVisionConfig).
_HF_SHARED = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_HF_VISION = _HF_SHARED | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_HF_TEXT = _HF_SHARED | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}


def config_from_hf(config: dict, preprocessor: dict) -> Config:
    """Reads Hugging Face's `config.json` (and `preprocessor_config.json`, or {})."""
    vision = _HF_VISION | (config.get("vision_config") or {})
    text = _HF_TEXT | (config.get("text_config") or {})
    eos = text["eos_token_id"]
    if eos == 2:
        # OpenAI's uploads carry a wrong 2; transformers then pools at the highest
        # token id, which is the last row of the vocabulary (its pull request 24773).
        eos = text["vocab_size"] - 1

    def transformer(c):
        return TransformerConfig(
            width=c["hidden_size"],
            layers=c["num_hidden_layers"],
            heads=c["num_attention_heads"],
            mlp_width=c["intermediate_size"],
            activation=_activation(c["hidden_act"]),
            eps=c["layer_norm_eps"],
        )

    return Config(
        embed_dim=config.get("projection_dim", 512),
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        image_mean=tuple(preprocessor.get("image_mean", CLIP_MEAN)),
        image_std=tuple(preprocessor.get("image_std", CLIP_STD)),
        context_length=text["max_position_embeddings"],
        vocab_size=text["vocab_size"],
        eos_token_id=eos,
        vision=transformer(vision),
        text=transformer(text),
    )


def config_from_open_clip(config: dict, name: str) -> Config:
    """Reads open_clip's `open_clip_config.json`.

    Args:
      config: the parsed file.
      name: the repository or folder. OpenAI's weights need `quick_gelu`, which some
        of these files leave to the name.

    Raises:
      ValueError: for a tower that is no plain ViT with a CLIP text transformer.
    """
    model, pre = config["model_cfg"], config.get("preprocess_cfg") or {}
    vision, text = model["vision_cfg"], model["text_cfg"]
    odd = [k for k in ("timm_model_name", "attentional_pool") if vision.get(k)]
    odd += [k for k in ("hf_model_name",) if text.get(k)]
    if odd or not isinstance(vision["layers"], int):
        raise ValueError(
            f"{name}: open_clip_config.json describes no plain CLIP ViT "
            f"({', '.join(odd) or 'vision_cfg.layers is a list'})"
        )
    quick = model.get("quick_gelu", name.rstrip("/").endswith((".openai", "quickgelu")))
    activation = "quick_gelu" if quick else "gelu"

    def transformer(c, heads):
        width = c["width"]
        mlp = int(width * c.get("mlp_ratio", 4.0))
        return TransformerConfig(width, c["layers"], heads, mlp, activation, 1e-5)

    return Config(
        embed_dim=model["embed_dim"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        image_mean=tuple(pre.get("mean", CLIP_MEAN)),
        image_std=tuple(pre.get("std", CLIP_STD)),
        context_length=text.get("context_length", 77),
        vocab_size=text.get("vocab_size", 49408),
        eos_token_id=text.get("eos_id", text.get("vocab_size", 49408) - 1),
        vision=transformer(vision, vision["width"] // vision.get("head_width", 64)),
        text=transformer(text, text["heads"]),
    )


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(
            f"the checkpoint's activation {name!r} is not one of {list(ACTIVATIONS)}"
        )
    return name


# ---- Where each parameter stands in a checkpoint ------------------------------------
# path in params -> (key or keys in the file, how it is laid out there). `{i}` runs
# over the layers; several keys are joined along the last axis.


def _as_is(t):
    return t


def _linear(t):  # torch.nn.Linear: [out, in]
    return t.T


def _convolution(t):  # [out, channel, row, column] -> [row * column * channel, out]
    return t.transpose(2, 3, 1, 0).reshape(-1, t.shape[0])


def _norm(path: str, key: str) -> dict:
    return {
        f"{path}/norm/scale": (f"{key}.weight", _as_is),
        f"{path}/norm/bias": (f"{key}.bias", _as_is),
    }


def _affine(path: str, *keys: str) -> dict:
    return {
        f"{path}/kernel": (tuple(f"{k}.weight" for k in keys), _linear),
        f"{path}/bias": (tuple(f"{k}.bias" for k in keys), _as_is),
    }


def _hf_blocks(tower: str, prefix: str) -> dict:
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


def _open_clip_blocks(tower: str, prefix: str) -> dict:
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
TABLES = {
    "hugging face": {
        "logit_scale": ("logit_scale", _as_is),
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
    },
    "open_clip": {
        "logit_scale": ("logit_scale", _as_is),
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
    },
}

# Buffers and scalars that old files carry beside the weights.
IGNORED = r".*\.position_ids|attn_mask|input_resolution|context_length|vocab_size"
