"""Parts that the families of towers share: pre-LayerNorm transformer blocks.

The layers are written out rather than stacked and scanned: measured on a CPU, a scan
copies each layer's weights out of the stack in every call (7% of ViT-B/32's time), and
compiling takes as long.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax.towers.attention import (
    HEADS_FIRST,
    WRITTEN_OUT,
    Row,
    attend,
    attend_heads_first,
    pieces,
    precision,
    product,
    take,
)

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
            epsilon=self.eps,
            dtype=jnp.float32,
            # Mean and mean square in one pass. It loses digits where the mean is far
            # larger than the deviation, which values of 8 bits do not have anyway.
            use_fast_variance=self.dtype == jnp.bfloat16,
            name="norm",
        )
        return norm(x).astype(self.dtype)


class Block(nn.Module):
    """One residual block: attention, then MLP, each behind a LayerNorm."""

    config: TransformerConfig
    causal: bool
    dtype: Any
    attention: str

    @nn.compact
    def __call__(self, x: list[jax.Array], row: Row | None = None) -> list[jax.Array]:
        """Maps sequences to sequences of the same shape.

        Args:
          x: their pieces `[B, T_i, width]`, see `arranged`.
          row: the one position of each sequence whose output is needed; the result is
            then one piece `[B, 1, width]`.
        """
        if self.attention == HEADS_FIRST:
            return self._heads_first(x, row)
        return self._whole(x, row)

    def _whole(self, whole: list[jax.Array], row: Row | None) -> list[jax.Array]:
        c, [x] = self.config, whole
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
            x = take([x], row)
        return self._mlp([x + dense(width, self.dtype, name="out")(h)])

    def _heads_first(self, x: list[jax.Array], row: Row | None) -> list[jax.Array]:
        c = self.config
        norm = LayerNorm(c.eps, self.dtype, name="ln_1")
        qkv = HeadsFirst(c.heads, self.dtype, name="qkv")
        normed = [norm(piece) for piece in x]
        k, v = ([qkv(piece, i) for piece in normed] for i in (1, 2))
        if row is not None:
            x = [take(x, row)]
            normed = [norm(x[0])]
        q = [qkv(piece, 0) for piece in normed]
        h = attend_heads_first(q, k, v, causal=self.causal, row=row)
        out = FromHeads(c.width, self.dtype, name="out")
        return self._mlp([piece + out(y) for piece, y in zip(x, h)])

    def _mlp(self, x: list[jax.Array]) -> list[jax.Array]:
        c = self.config
        norm = LayerNorm(c.eps, self.dtype, name="ln_2")
        fc_1 = dense(c.mlp_width, self.dtype, name="fc_1")
        fc_2 = dense(c.width, self.dtype, name="fc_2")

        def hidden(piece: jax.Array) -> jax.Array:
            h = ACTIVATIONS[c.activation](fc_1(norm(piece)))
            if self.attention != HEADS_FIRST:
                return h
            # A TPU's compiler would make one loop of both products, which costs up to a
            # sixth of a block (v4).
            return jax.lax.optimization_barrier(h)

        return [piece + fc_2(hidden(piece)) for piece in x]


class HeadsFirst(nn.Module):
    """A part of `dense(3 * width)`, straight into the layout of the attention.

    Its parameters are those of the dense layer: `kernel [W, 3 W]`, `bias [3 W]`. The
    values get one more column, of ones (weights 0, bias 1): here it costs a TPU
    nothing, appended to the finished values it costs 9% of a block of ViT-L/14.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, part: int) -> jax.Array:
        """Maps `[B, T, W]` to part 0 or 1 (q, k), `[B, H, T, d]`, or to part 2 (v),
        `[B, H, T, d + 1]`.
        """
        width, init = x.shape[-1], nn.initializers
        kernel = self.param(
            "kernel", init.lecun_normal(), (width, 3 * width), self.dtype
        )
        bias = self.param("bias", init.zeros, (3 * width,), self.dtype)
        # Cut first, shaped then: the other way round the compiler turns all of it.
        own, shape = slice(part * width, (part + 1) * width), (self.heads, -1)
        kernel = kernel[:, own].reshape(width, *shape)
        bias = bias[own].reshape(shape)
        if part == 2:
            kernel = jnp.pad(kernel, [(0, 0), (0, 0), (0, 1)])
            bias = jnp.pad(bias, [(0, 0), (0, 1)], constant_values=1)
        y = jnp.einsum("btw,whd->bhtd", x, kernel, precision=precision(self.dtype))
        return y + bias[None, :, None]


class FromHeads(nn.Module):
    """`dense(width)` of heads that stand first, with its parameters."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Maps `[B, H, T, d]` to `[B, T, width]`."""
        heads, size = h.shape[1], h.shape[3]
        init = nn.initializers
        kernel = self.param(
            "kernel", init.lecun_normal(), (heads * size, self.width), self.dtype
        ).reshape(heads, size, self.width)
        bias = self.param("bias", init.zeros, (self.width,), self.dtype)[None, None]
        y = jnp.einsum("bhtd,hdw->btw", h, kernel, precision=precision(self.dtype))
        return y + bias


def dense(features: int, dtype: Any, *, name: str, use_bias: bool = True) -> nn.Dense:
    """Returns a linear layer with weights and activations of one dtype."""
    return nn.Dense(
        features,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=dtype,
        precision=precision(dtype),
        dot_general=product,
        name=name,
    )


def arranged(parts: Sequence[jax.Array], attention: str) -> list[jax.Array]:
    """Returns consecutive parts of sequences in the pieces that blocks take.

    A class token that is to stand beside the patches never gets among them: a TPU's
    compiler would choose the layout of the whole tower for cutting it off.

    Args:
      parts: `[B, T_i, width]`.
      attention: an implementation, see `attention.attend`.
    """
    lengths = [part.shape[1] for part in parts]
    wanted = [sum(lengths)]
    if attention == HEADS_FIRST:
        wanted = pieces(sum(lengths))
    if lengths == wanted:
        return list(parts)
    whole = jnp.concatenate(parts, axis=1)
    return jnp.split(whole, np.cumsum(wanted)[:-1], axis=1)


def pooled_blocks(
    x: list[jax.Array],
    row: Row,
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
      x: pieces `[B, T_i, width]`, `arranged` for the attention.
      row: the position to return of each sequence.
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
    [pooled] = x
    return pooled[:, 0]


def whole_blocks(
    x: list[jax.Array],
    config: TransformerConfig,
    *,
    causal: bool,
    dtype: Any,
    attention: str = WRITTEN_OUT,
) -> jax.Array:
    """Applies all blocks, inside a compact Linen method; all positions are pooled.

    Args as for `pooled_blocks`, but for `row`.

    Returns:
      `[B, T, width]`.
    """
    for i in range(config.layers):
        x = Block(config, causal, dtype, attention, name=f"block_{i}")(x)
    return x[0] if len(x) == 1 else jnp.concatenate(x, axis=1)
