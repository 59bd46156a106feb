"""Swin Transformer (Liu et al., ICCV 2021): attention in windows that shift.

A patch of `patch` pixels is a token; a stage of pairs of blocks attends within windows
of `window` tokens a side, in every second block shifted by half of one; between stages
four neighbouring tokens become one of twice the width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax.methods import _network, _start

EXPANSION = 4
"""Width of the MLP, times the width of the tokens."""

HIGHEST = jax.lax.Precision.HIGHEST


class Swin(nn.Module):
    """Pictures `[B, S, S, 3]` -> logits `[B]`.

    Attributes:
      depths: blocks of each stage.
      heads: of the attention in each stage.
      width: of the first stage's tokens.
      window: tokens a side; a smaller stage is one window.
      patch: pixels a side.
      drop_path: how often the last block is left out in training; less before it.
    """

    depths: tuple[int, ...]
    heads: tuple[int, ...]
    width: int
    window: int = 7
    patch: int = 4
    drop_path: float = 0.1

    @nn.compact
    def __call__(self, x, train: bool = False, valid: jax.Array | None = None):
        """Returns logits; `valid` changes nothing, as no picture meets another."""
        x = nn.Conv(
            self.width,
            (self.patch, self.patch),
            strides=self.patch,
            padding="VALID",
            precision=HIGHEST,
            name="patch",
        )(x)
        x = norm(x, "patch_norm")
        # A straight line from 0 to `drop_path`, as in the authors' code.
        drops = iter(np.linspace(0, self.drop_path, sum(self.depths)).tolist())
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads)):
            if stage:
                x = merged(x, f"{stage}_merge")
            for number in range(depth):
                shift = self.window // 2 if number % 2 else 0
                block = Block(heads, self.window, shift, name=f"{stage}_{number}")
                x = block(x, next(drops) if train else 0.0)
        return dense(norm(x, "norm").mean((1, 2)), 1, "output")[:, 0]


class Block(nn.Module):
    """Attention within windows and an MLP, each added to what came in."""

    heads: int
    window: int
    shift: int

    @nn.compact
    def __call__(self, x, drop: float):
        side = x.shape[1]
        window = min(self.window, side)
        shift = self.shift if side > window else 0
        width = x.shape[-1]
        out = norm(x, "norm1")
        # Whole windows: zeros are attended to, as in the authors' code for detection.
        short = -side % window
        out = jnp.pad(out, [(0, 0), (0, short), (0, short), (0, 0)])
        out = jnp.roll(out, (-shift, -shift), (1, 2))
        out = self.attention(windows(out, window), _apart(side + short, window, shift))
        out = joined(out, side + short, window)
        out = jnp.roll(out, (shift, shift), (1, 2))[:, :side, :side]
        x = x + self.kept(out, drop)
        out = dense(norm(x, "norm2"), EXPANSION * width, "fc1")
        out = dense(nn.gelu(out, approximate=False), width, "fc2")
        return x + self.kept(out, drop)

    def attention(self, x: jax.Array, apart: np.ndarray | None) -> jax.Array:
        """Attends within windows.

        Args:
          x: `[B, W, L, C]`, W windows of L tokens.
          apart: bool `[W, L, L]`, tokens that must not see each other, or None.
        """
        *outer, length, width = x.shape
        qkv = dense(x, 3 * width, "qkv").reshape(*outer, length, 3, self.heads, -1)
        q, k, v = jnp.moveaxis(qkv, -3, 0)
        scores = jnp.einsum("bwlhd,bwmhd->bwhlm", q, k, precision=HIGHEST)
        scores = (
            scores * q.shape[-1] ** -0.5 + self.bias(round(length**0.5))[None, None]
        )
        if apart is not None:
            scores = scores - 100.0 * apart[None, :, None]
        weights = jax.nn.softmax(scores, -1)
        out = jnp.einsum("bwhlm,bwmhd->bwlhd", weights, v, precision=HIGHEST)
        return dense(out.reshape(x.shape), width, "proj")

    def bias(self, side: int) -> jax.Array:
        """What is added for each pair of tokens by where one is from the other."""
        table = self.param(
            "bias", nn.initializers.truncated_normal(0.02),
            ((2 * side - 1) ** 2, self.heads),
        )  # fmt: skip
        places = np.moveaxis(np.mgrid[:side, :side], 0, -1).reshape(-1, 2)
        away = places[:, None] - places + side - 1  # [L, L, 2]
        number = away[..., 0] * (2 * side - 1) + away[..., 1]
        return jnp.moveaxis(table[number], -1, 0)

    def kept(self, x: jax.Array, drop: float) -> jax.Array:
        """Leaves out a branch for some pictures of the batch (stochastic depth)."""
        if not drop:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - drop, (len(x),))
        return jnp.where(keep[:, None, None, None], x / (1 - drop), 0)


def windows(x: jax.Array, window: int) -> jax.Array:
    """`[B, S, S, C]` -> `[B, W, window * window, C]`."""
    count, side, _, width = x.shape
    n = side // window
    x = x.reshape(count, n, window, n, window, width).swapaxes(2, 3)
    return x.reshape(count, n * n, window * window, width)


def joined(x: jax.Array, side: int, window: int) -> jax.Array:
    """The inverse of `windows`."""
    n = side // window
    x = x.reshape(len(x), n, n, window, window, -1).swapaxes(2, 3)
    return x.reshape(len(x), side, side, -1)


def _apart(side: int, window: int, shift: int) -> np.ndarray | None:
    """Which tokens of a window were not neighbours before the shift."""
    if not shift:
        return None
    place = np.arange(side)
    region = (place >= side - window).astype(int) + (place >= side - shift)
    number = (3 * region[:, None] + region)[None, ..., None]
    flat = np.asarray(windows(number, window))[0, ..., 0]
    return flat[:, :, None] != flat[:, None, :]


def merged(x: jax.Array, name: str) -> jax.Array:
    """Four neighbouring tokens become one of twice the width; odd sides are padded."""
    _, rows, columns, width = x.shape
    x = jnp.pad(x, [(0, 0), (0, rows % 2), (0, columns % 2), (0, 0)])
    four = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    x = norm(jnp.concatenate(four, -1), f"{name}_norm")
    return dense(x, 2 * width, name, use_bias=False)


def norm(x: jax.Array, name: str) -> jax.Array:
    """LayerNorm with PyTorch's epsilon."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)(x)


def dense(x: jax.Array, features: int, name: str, *, use_bias: bool = True):
    """A linear layer with Swin's start, a normal one of 0.02 cut at two."""
    layer = nn.Dense(
        features,
        use_bias=use_bias,
        kernel_init=nn.initializers.truncated_normal(0.02),
        precision=HIGHEST,
        name=name,
    )
    return layer(x)


def started(
    variables: Mapping[str, Any],
    tensors: _start.Tensors,
    depths: tuple[int, ...],
) -> dict[str, Any]:
    """Puts timm's weights into a network, all but the last layer's.

    Args:
      variables: of a `Swin`.
      tensors: under timm's names, of `swin_tiny_patch4_window7_224` for instance.
      depths: of the network.

    Raises:
      ValueError: if they are of another network.
    """
    layers = {"patch": "patch_embed.proj", "patch_norm": "patch_embed.norm"}
    layers["norm"] = "norm"
    nested: dict[str, dict[str, str]] = {}
    for stage, depth in enumerate(depths):
        if stage:
            layers[f"{stage}_merge"] = f"layers.{stage}.downsample.reduction"
            layers[f"{stage}_merge_norm"] = f"layers.{stage}.downsample.norm"
        for block in range(depth):
            theirs = f"layers.{stage}.blocks.{block}"
            nested[f"{stage}_{block}"] = {
                "norm1": f"{theirs}.norm1",
                "norm2": f"{theirs}.norm2",
                "qkv": f"{theirs}.attn.qkv",
                "proj": f"{theirs}.attn.proj",
                "fc1": f"{theirs}.mlp.fc1",
                "fc2": f"{theirs}.mlp.fc2",
            }
    flat = dict(variables["params"])
    # `filled` sees one storey: the layers of blocks by dotted names.
    for place, own in nested.items():
        inner = dict(flat.pop(place))
        bias = tensors.get(
            f"layers.{place.replace('_', '.blocks.')}.attn.relative_position_bias_table"
        )
        if bias is None or _network.shapes({"": bias}) != _network.shapes(
            {"": inner["bias"]}
        ):
            raise ValueError(f"the relative position bias of block {place} differs")
        flat[f"{place}.bias"] = jnp.asarray(bias, jnp.float32)
        flat |= {f"{place}.{name}": inner[name] for name in own}
        layers |= {f"{place}.{name}": theirs for name, theirs in own.items()}
    ignored = ("head.",)
    rest = {n: t for n, t in tensors.items() if "relative_position_bias" not in n}
    found = _start.filled({"params": flat}, layers, rest, ignored=ignored)["params"]
    params: dict[str, Any] = {}
    for name, value in found.items():
        place, dot, inner_name = name.partition(".")
        if dot:
            params.setdefault(place, {})[inner_name] = value
        else:
            params[place] = value
    return {"params": params}
