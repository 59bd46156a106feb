"""Parts that the families of towers share: pre-LayerNorm transformer blocks.

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

from item_jax.towers.attention import WRITTEN_OUT, attend, precision

ACTIVATIONS = {
    # openai/CLIP model.py: the approximation its weights were trained with.
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    # LAION and DataComp weights; jax.nn.gelu's own default is the tanh form.
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The sizes of one tower's transformer.

    Attributes:
      width: of the residual stream.
      layers: the number of blocks.
      heads: of the attention; they divide `width`.
      mlp_width: the hidden width of each block's MLP.
      activation: a name of `ACTIVATIONS`.
      eps: epsilon of the LayerNorms.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    eps: float


class LayerNorm(nn.Module):
    """LayerNorm with its statistics in float32, as openai/CLIP runs it."""

    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
    def __call__(self, x: jax.Array, row: jax.Array | None = None) -> jax.Array:
        """Maps `[B, T, width]` to itself.

        Args:
          x: `[B, T, width]`.
          row: int32 `[B]`, the one position of each sequence whose output is needed;
            the result is then `[B, 1, width]`.
        """
        c = self.config
        batch, length, width = x.shape

        h = LayerNorm(c.eps, self.dtype, name="ln_1")(x)
        qkv = dense(3 * width, self.dtype, name="qkv")(h)
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
        x = x + dense(width, self.dtype, name="out")(h)

        h = LayerNorm(c.eps, self.dtype, name="ln_2")(x)
        h = dense(c.mlp_width, self.dtype, name="fc_1")(h)
        h = ACTIVATIONS[c.activation](h)
        return x + dense(width, self.dtype, name="fc_2")(h)


def dense(features: int, dtype: Any, *, name: str, use_bias: bool = True) -> nn.Dense:
    """Returns a linear layer with weights and activations of one dtype."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=dtype,
        precision=precision(dtype),
        name=name,
    )


def pooled_blocks(
    x: jax.Array,
    row: jax.Array,
    config: TransformerConfig,
    *,
    causal: bool,
    dtype: Any,
    attention: str = WRITTEN_OUT,
) -> jax.Array:
    """Applies all blocks, inside a compact Linen method.

    Only `row` of the output is pooled, so the last block computes that row alone, which
    is exact.

    Args:
      x: `[B, T, width]`.
      row: int32 `[B]`, the position to return of each sequence.
      config: the transformer's sizes.
      causal: whether a position sees only itself and those before it.
      dtype: of weights and activations.
      attention: an implementation, see `attention.attend`.

    Returns:
      `[B, width]`.
    """
    for i in range(config.layers):
        last = i == config.layers - 1
        block = Block(config, causal, dtype, attention, name=f"block_{i}")
        x = block(x, row if last else None)
    return x[:, 0]
