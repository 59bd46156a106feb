"""Xception (Chollet, CVPR 2017) in pieces, for the rivals that take it apart.

As in the ports to PyTorch that those use: a 3 x 3 convolution a channel and a 1 x 1
over channels, each block's shortcut a strided 1 x 1 convolution. Layers have the name
of their stream, then `conv1`, `block3_point2`, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax.methods import _start

Norm = Callable[[jax.Array, str], jax.Array]

CHANNELS = (32, 64, 128, 256, 728, 1024, 1536, 2048)
"""Of two convolutions, blocks 1, 2, 3 to 11, 12, and two separable convolutions."""

PYTORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's start of a convolution: U(-b, b), b = 1 / sqrt(inputs)."""


def norms(train: bool, valid: jax.Array | None, scale_init: Any = None) -> Norm:
    """Returns BatchNorm with PyTorch's settings: (x, name) -> x.

    Args:
      train: whether it takes the statistics of the batch.
      valid: bool `[B]`, false for padding, or None.
      scale_init: start of its scale; default: ones.
    """
    mask = None if valid is None else valid[:, None, None, None]

    def norm(x: jax.Array, name: str) -> jax.Array:
        layer = nn.BatchNorm(
            not train,
            momentum=0.9,
            epsilon=1e-5,
            scale_init=scale_init or nn.initializers.ones,
            name=name,
        )
        return layer(x, mask=mask)

    return norm


def conv(
    x: jax.Array,
    features: int,
    name: str,
    *,
    side: int = 1,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    init: Any = PYTORCH,
    use_bias: bool = False,
) -> jax.Array:
    """A convolution, padded with zeros."""
    layer = nn.Conv(
        features,
        (side, side),
        strides=stride,
        padding=[(padding, padding)] * 2,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=init,
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )
    return layer(x)


def separable(x: jax.Array, features: int, name: str, number: int, init: Any):
    """A 3 x 3 convolution of each channel, then 1 x 1 over channels."""
    width = x.shape[-1]
    depth = f"{name}_depth{number}"
    x = conv(x, width, depth, side=3, padding=1, groups=width, init=init)
    return conv(x, features, f"{name}_point{number}", init=init)


def block(
    x: jax.Array,
    widths: tuple[int, ...],
    norm: Norm,
    name: str,
    *,
    stride: int = 1,
    relu_first: bool = True,
    init: Any = PYTORCH,
) -> jax.Array:
    """Separable convolutions after ReLU, a max-pool where it strides, and a shortcut.

    Args:
      x: `[B, H, W, C]`.
      widths: of each separable convolution.
      norm: see `norms`.
      name: beginning of the names of its layers.
      stride: 1 or 2.
      relu_first: whether the first has a ReLU before it.
      init: start of the convolutions.
    """
    out = x
    for number, width in enumerate(widths, 1):
        if number > 1 or relu_first:
            out = nn.relu(out)
        out = separable(out, width, name, number, init)
        out = norm(out, f"{name}_norm{number}")
    if stride > 1:
        out = nn.max_pool(out, (3, 3), strides=(stride,) * 2, padding=[(1, 1)] * 2)
    if x.shape != out.shape:
        x = conv(x, widths[-1], f"{name}_skip", stride=stride, init=init)
        x = norm(x, f"{name}_skip_norm")
    return jnp.add(x, out)


def stem(
    x: jax.Array,
    norm: Norm,
    name: str = "",
    *,
    channels: tuple[int, ...] = CHANNELS,
    stride: int = 2,
    init: Any = PYTORCH,
) -> jax.Array:
    """The two convolutions at the beginning, `[B, H, W, C]` -> about half the sides."""
    for number, step in ((1, stride), (2, 1)):
        width = channels[number - 1]
        x = conv(x, width, f"{name}conv{number}", side=3, stride=step, init=init)
        x = nn.relu(norm(x, f"{name}norm{number}"))
    return x


def blocks(
    x: jax.Array,
    norm: Norm,
    numbers: range,
    name: str = "",
    *,
    channels: tuple[int, ...] = CHANNELS,
    init: Any = PYTORCH,
) -> jax.Array:
    """Blocks of some numbers, of 1 to 12; 1 to 3 and 12 halve the sides."""
    for number in numbers:
        widths = (channels[min(number, 3) + 1],) * (2 if number < 4 else 3)
        if number == 12:
            widths = (channels[4], channels[5])
        strides = {1, 2, 3, 12}
        x = block(
            x,
            widths,
            norm,
            f"{name}block{number}",
            stride=2 if number in strides else 1,
            relu_first=number > 1,
            init=init,
        )
    return x


def ending(
    x: jax.Array, norm: Norm, name: str = "", *, channels: tuple[int, ...] = CHANNELS
) -> jax.Array:
    """The last two convolutions and the mean over places, `[B, 2048]`."""
    for number in (3, 4):
        x = separable(x, channels[number + 3], f"{name}conv{number}", 1, PYTORCH)
        x = nn.relu(norm(x, f"{name}norm{number}"))
    return x.mean((1, 2))


def started(
    variables: Mapping[str, Any], tensors: _start.Tensors, names: tuple[str, ...]
) -> dict[str, Any]:
    """Puts ImageNet's weights into streams of Xception; the first layers' are spread.

    Args:
      variables: of a network with whole streams.
      tensors: under the names of the ports, timm's `legacy_xception` among them.
      names: of the streams.

    Raises:
      ValueError: if they are of another network.
    """
    tensors = {
        name: t[..., None, None] if "pointwise" in name and t.ndim == 2 else t
        for name, t in tensors.items()
    }
    found: dict[str, Any] = {c: dict(v) for c, v in variables.items()}
    for name in names:
        kernel = variables["params"][f"{name}conv1"]["kernel"]
        times = kernel.shape[2] // 3
        first = {}
        if "conv1.weight" in tensors:  # their sum over channels stays what it was
            spread = np.tile(tensors["conv1.weight"], (1, times, 1, 1)) / times
            first = {"conv1.weight": spread}
        found = _start.filled(
            found, layers(name), {**tensors, **first}, ignored=("fc.",)
        )
    return found


def layers(name: str = "") -> dict[str, str]:
    """Returns the ports' name of each layer, by our name in the stream `name`."""
    found = {f"{name}conv{i}": f"conv{i}" for i in (1, 2)}
    found |= {f"{name}norm{i}": f"bn{i}" for i in (1, 2, 3, 4)}
    for i in (3, 4):
        found[f"{name}conv{i}_depth1"] = f"conv{i}.conv1"
        found[f"{name}conv{i}_point1"] = f"conv{i}.pointwise"
    for number in range(1, 13):
        ours, theirs = f"{name}block{number}", f"block{number}"
        for i in range(1, 3 if number in (1, 2, 3, 12) else 4):
            # In their lists each one follows a ReLU, but the very first.
            place = 3 * (i - 1) + (number > 1)
            found[f"{ours}_depth{i}"] = f"{theirs}.rep.{place}.conv1"
            found[f"{ours}_point{i}"] = f"{theirs}.rep.{place}.pointwise"
            found[f"{ours}_norm{i}"] = f"{theirs}.rep.{place + 1}"
        if number in (1, 2, 3, 12):
            found[f"{ours}_skip"] = f"{theirs}.skip"
            found[f"{ours}_skip_norm"] = f"{theirs}.skipbn"
    return found
