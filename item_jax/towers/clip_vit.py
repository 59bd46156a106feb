"""CLIP with vision transformers (Radford et al., arXiv 2103.00020), in Flax Linen.

Both towers are pre-LayerNorm transformers. Only one row of a tower's output is pooled
(class token, EOS), so the last block computes that row alone, which is exact. Everything
that differs between checkpoints (sizes, activation, epsilon, EOS rule, pixel statistics)
is read from the checkpoint's own configuration.

The layers are written out rather than stacked and scanned: measured on a CPU, a scan
copies each layer's weights out of the stack in every call (7% of ViT-B/32's time), and
compiling takes as long.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

NAME = "clip_vit"

# openai/CLIP, notebooks and clip.py: the pixel statistics of its training images.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

ACTIVATIONS = {
    # openai/CLIP model.py: the approximation its weights were trained with.
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    # LAION and DataComp weights; jax.nn.gelu's own default is the tanh form.
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The sizes of one tower's transformer."""

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    eps: float


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


class LayerNorm(nn.Module):
    """LayerNorm with its statistics in float32, as openai/CLIP runs it."""

    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        norm = nn.LayerNorm(
            epsilon=self.eps, dtype=jnp.float32, use_fast_variance=False, name="norm"
        )
        return norm(x).astype(self.dtype)


class Block(nn.Module):
    """One residual block: attention, then MLP, each behind a LayerNorm."""

    config: TransformerConfig
    causal: bool
    dtype: Any

    @nn.compact
    def __call__(self, x, row=None):
        """Maps `[B, T, width]` to itself.

        Args:
          x: `[B, T, width]`.
          row: int32 `[B]`, the one position of each sequence whose output is wanted;
            the result is then `[B, 1, width]`.
        """
        c = self.config
        batch, length, width = x.shape
        head_dim = width // c.heads

        h = LayerNorm(c.eps, self.dtype, name="ln_1")(x)
        qkv = _dense(3 * width, self.dtype, name="qkv")(h)
        qkv = qkv.reshape(batch, length, 3, c.heads, head_dim)
        q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # [B, H, T, d]
        position = jnp.arange(length)[None]
        if row is not None:
            position = row[:, None]
            x = jnp.take_along_axis(x, row[:, None, None], axis=1)
            q = jnp.take_along_axis(q, row[:, None, None, None], axis=2)
        precision = _precision(self.dtype)
        logits = jnp.einsum(
            "bhqd,bhkd->bhqk",
            q * jnp.asarray(head_dim**-0.5, self.dtype),
            k,
            precision=precision,
            preferred_element_type=jnp.float32,
        )
        if self.causal:
            seen = jnp.arange(length)[None, None] <= position[:, :, None]  # [., q, k]
            logits = jnp.where(seen[:, None], logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        h = jnp.einsum("bhqk,bhkd->bhqd", weights, v, precision=precision)
        h = h.transpose(0, 2, 1, 3).reshape(batch, -1, width)
        x = x + _dense(width, self.dtype, name="out")(h)

        h = LayerNorm(c.eps, self.dtype, name="ln_2")(x)
        h = _dense(c.mlp_width, self.dtype, name="fc_1")(h)
        h = ACTIVATIONS[c.activation](h)
        return x + _dense(width, self.dtype, name="fc_2")(h)


def _precision(dtype) -> jax.lax.Precision | None:
    # float32 is the reference mode, so it must not fall to TF32 on a GPU or to
    # bfloat16 passes on a TPU, which is what the default precision does there.
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


def _dense(features, dtype, *, name, use_bias=True):
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=dtype,
        precision=_precision(dtype),
        name=name,
    )


def _pooled(x, row, config: TransformerConfig, *, causal: bool, dtype):
    """All blocks in turn; returns the output of one row each, `[B, width]`."""
    for i in range(config.layers):
        last = i == config.layers - 1
        block = Block(config, causal, dtype, name=f"block_{i}")
        x = block(x, row if last else None)
    return x[:, 0]


class VisionTower(nn.Module):
    """The image tower: patches, class token, blocks, projection."""

    config: Config
    dtype: Any

    @nn.compact
    def __call__(self, views):
        """Maps uint8 views `[B, S, S, 3]` to embeddings `[B, D]`, un-normalised."""
        c, width = self.config, self.config.vision.width
        mean = jnp.asarray(c.image_mean, jnp.float32).reshape(1, 1, 1, 3)
        std = jnp.asarray(c.image_std, jnp.float32).reshape(1, 1, 1, 3)
        x = ((views.astype(jnp.float32) / 255.0 - mean) / std).astype(self.dtype)
        # A convolution whose stride is its size is a matrix product over patches.
        p, side = c.patch_size, c.image_size // c.patch_size
        batch = x.shape[0]
        x = x[:, : side * p, : side * p].reshape(batch, side, p, side, p, 3)
        x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, side * side, p * p * 3)
        x = _dense(width, self.dtype, name="patch_embedding", use_bias=False)(x)
        normal = nn.initializers.normal(0.02)
        cls = self.param("class_embedding", normal, (width,), self.dtype)
        cls = jnp.broadcast_to(cls, (batch, 1, width))
        pos = self.param(
            "position_embedding", normal, (side * side + 1, width), self.dtype
        )
        x = jnp.concatenate([cls, x], axis=1) + pos[None]
        x = LayerNorm(c.vision.eps, self.dtype, name="ln_pre")(x)
        cls_row = jnp.zeros(batch, jnp.int32)
        x = _pooled(x, cls_row, c.vision, causal=False, dtype=self.dtype)
        x = LayerNorm(c.vision.eps, self.dtype, name="ln_post")(x)
        return _dense(c.embed_dim, self.dtype, name="projection", use_bias=False)(x)


class TextTower(nn.Module):
    """The text tower: causal blocks, pooled at the first EOS."""

    config: Config
    dtype: Any

    @nn.compact
    def __call__(self, tokens):
        """Maps int32 tokens `[B, T]` to embeddings `[B, D]`, un-normalised.

        T may be anything up to `context_length` that keeps each row's first EOS: the
        mask is causal, so nothing behind the EOS can reach it.
        """
        c, width = self.config, self.config.text.width
        normal = nn.initializers.normal(0.02)
        table = self.param(
            "token_embedding", normal, (c.vocab_size, width), self.dtype
        )
        pos = self.param(
            "position_embedding", normal, (c.context_length, width), self.dtype
        )
        x = table[tokens] + pos[None, : tokens.shape[1]]
        eos = jnp.argmax(tokens == c.eos_token_id, axis=1).astype(jnp.int32)
        x = _pooled(x, eos, c.text, causal=True, dtype=self.dtype)
        x = LayerNorm(c.text.eps, self.dtype, name="ln_final")(x)
        return _dense(c.embed_dim, self.dtype, name="projection", use_bias=False)(x)


def encode_image(params, views, *, config: Config, dtype) -> jax.Array:
    """The image tower as a pure function.

    Args:
      params: the "vision" tree.
      views: uint8 `[B, S, S, 3]`.
      config: the checkpoint's.
      dtype: float32 (the reference) or bfloat16, of weights and activations; LayerNorm
        statistics and softmax are float32 in both.

    Returns:
      float32 `[B, D]`, un-normalised.
    """
    return VisionTower(config, dtype).apply({"params": params}, views).astype("float32")


def encode_text(params, tokens, *, config: Config, dtype) -> jax.Array:
    """The text tower as a pure function: int32 `[B, T]` -> float32 `[B, D]`.

    Args:
      params: the "text" tree.
      tokens: see `TextTower`.
      config, dtype: as for `encode_image`.
    """
    return TextTower(config, dtype).apply({"params": params}, tokens).astype("float32")


def param_shapes(config: Config, dtype) -> dict[str, Any]:
    """Returns the tree of all parameters as shapes, without memory."""
    size = config.image_size
    views = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.context_length), jnp.int32)
    key = jax.random.key(0)
    return {
        "vision": jax.eval_shape(VisionTower(config, dtype).init, key, views)["params"],
        "text": jax.eval_shape(TextTower(config, dtype).init, key, tokens)["params"],
        # exp() of it scales cosines to CLIP's zero-shot logits.
        "logit_scale": jax.ShapeDtypeStruct((), jnp.float32),
    }


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
