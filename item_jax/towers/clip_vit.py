"""CLIP with vision transformers (Radford et al., arXiv 2103.00020), in Flax Linen.

Both towers are pre-LayerNorm transformers. Only one row of a tower's output is pooled
(class token, EOS), so the last block computes that row alone, which is exact. What
differs between checkpoints (sizes, activation, epsilon, EOS rule, pixel statistics) is
read from the checkpoint's own configuration.

The layers are written out rather than stacked and scanned: measured on a CPU, a scan
copies each layer's weights out of the stack in every call (7% of ViT-B/32's time), and
compiling takes as long.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from item_jax.towers.attention import WRITTEN_OUT, attend, precision, preferred

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
    attention: str

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

        h = LayerNorm(c.eps, self.dtype, name="ln_1")(x)
        qkv = _dense(3 * width, self.dtype, name="qkv")(h)
        qkv = qkv.reshape(batch, length, 3, c.heads, width // c.heads)
        h = attend(
            *(qkv[:, :, i] for i in range(3)),
            causal=self.causal,
            implementation=self.attention,
            row=row,
        )
        h = h.reshape(batch, -1, width)
        if row is not None:
            x = jnp.take_along_axis(x, row[:, None, None], axis=1)
        x = x + _dense(width, self.dtype, name="out")(h)

        h = LayerNorm(c.eps, self.dtype, name="ln_2")(x)
        h = _dense(c.mlp_width, self.dtype, name="fc_1")(h)
        h = ACTIVATIONS[c.activation](h)
        return x + _dense(width, self.dtype, name="fc_2")(h)


def _dense(features, dtype, *, name, use_bias=True):
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=dtype,
        precision=precision(dtype),
        name=name,
    )


def _pooled(x, row, config, *, causal, dtype, attention=WRITTEN_OUT):
    """All blocks in turn; returns the output of one row each, `[B, width]`."""
    for i in range(config.layers):
        last = i == config.layers - 1
        block = Block(config, causal, dtype, attention, name=f"block_{i}")
        x = block(x, row if last else None)
    return x[:, 0]


class VisionTower(nn.Module):
    """The image tower: patches, class token, blocks, projection."""

    config: Config
    dtype: Any
    attention: str = WRITTEN_OUT

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
        x = _pooled(
            x,
            cls_row,
            c.vision,
            causal=False,
            dtype=self.dtype,
            attention=self.attention,
        )
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
        table = self.param("token_embedding", normal, (c.vocab_size, width), self.dtype)
        pos = self.param(
            "position_embedding", normal, (c.context_length, width), self.dtype
        )
        x = table[tokens] + pos[None, : tokens.shape[1]]
        eos = jnp.argmax(tokens == c.eos_token_id, axis=1).astype(jnp.int32)
        x = _pooled(x, eos, c.text, causal=True, dtype=self.dtype)
        x = LayerNorm(c.text.eps, self.dtype, name="ln_final")(x)
        return _dense(c.embed_dim, self.dtype, name="projection", use_bias=False)(x)


def encode_image(
    params, views, *, config: Config, dtype, attention: str = WRITTEN_OUT
) -> jax.Array:
    """The image tower as a pure function.

    Args:
      params: the "vision" tree.
      views: uint8 `[B, S, S, 3]`.
      config: the checkpoint's.
      dtype: float32 (the reference) or bfloat16, of weights and activations; LayerNorm
        statistics and softmax are float32 in both.
      attention: an implementation, see `attention.attend`.

    Returns:
      float32 `[B, D]`, un-normalised.
    """
    tower = VisionTower(config, dtype, attention)
    return tower.apply({"params": params}, views).astype("float32")


def encode_text(params, tokens, *, config: Config, dtype) -> jax.Array:
    """The text tower as a pure function: int32 `[B, T]` -> float32 `[B, D]`.

    Args:
      params: the "text" tree.
      tokens: see `TextTower`.
      config, dtype: as for `encode_image`.
    """
    return TextTower(config, dtype).apply({"params": params}, tokens).astype("float32")


def encoder(tower: str, *, config: Config, dtype, device: jax.Device):
    """Returns the "vision" or "text" tower as `fn(params, rows)`, for a device.

    Texts are short (16 tokens, mostly), and their attention is always written out;
    that of the views is the one preferred on the device.
    """
    if tower == "text":
        return functools.partial(encode_text, config=config, dtype=dtype)
    c, side = config.vision, config.image_size // config.patch_size
    attention = preferred(
        device,
        dtype,
        (side * side + 1, c.heads, c.width // c.heads),
    )
    return functools.partial(
        encode_image, config=config, dtype=dtype, attention=attention
    )


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
