"""ResNets of bottleneck blocks, as torchvision's, for rivals on pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax.methods import _network, _start

EXPANSION = 4
"""Channels a block gives, times its width."""

Norm = Callable[[jax.Array, str], jax.Array]


class ResNet(nn.Module):
    """Pictures `[B, H, W, 3]` -> logits `[B]`.

    Attributes:
      stages: blocks of each stage; the width doubles and the side halves between them.
      stem: side of the first convolution's kernel, which halves the side.
      width: of the first convolution and stage.
      output_init: start of the last layer; default: PyTorch's.
    """

    stages: tuple[int, ...]
    stem: int = 7
    width: int = 64
    output_init: Any = None

    @nn.compact
    def __call__(self, x, train: bool = False, valid: jax.Array | None = None):
        """Returns logits.

        Args:
          x: pictures.
          train: whether BatchNorm takes the statistics of the batch.
          valid: bool `[B]`, false for padding, which is not counted there.
        """
        mask = None if valid is None else valid[:, None, None, None]

        def norm(x: jax.Array, name: str) -> jax.Array:
            # PyTorch's momentum of 0.1 is 0.9 here.
            layer = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=name)
            return layer(x, mask=mask)

        x = nn.relu(norm(conv(x, self.width, self.stem, 2, "stem"), "stem_norm"))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=[(1, 1), (1, 1)])
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                width = self.width * 2**stage
                x = bottleneck(x, width, stride, norm, f"{stage}_{block}")
        return _network.linear(
            x.mean((1, 2)), 1, "output", kernel_init=self.output_init
        )[:, 0]


def conv(x: jax.Array, features: int, kernel: int, stride: int, name: str):
    """A convolution without bias, padded as PyTorch pads; He et al.'s start."""
    side = kernel // 2
    layer = nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=[(side, side), (side, side)],
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )
    return layer(x)


def bottleneck(x: jax.Array, width: int, stride: int, norm: Norm, name: str):
    """1 x 1, 3 x 3 (which may halve the side), 1 x 1, and what it adds to."""
    out = nn.relu(norm(conv(x, width, 1, 1, f"{name}_conv1"), f"{name}_norm1"))
    out = nn.relu(norm(conv(out, width, 3, stride, f"{name}_conv2"), f"{name}_norm2"))
    wide = EXPANSION * width
    out = norm(conv(out, wide, 1, 1, f"{name}_conv3"), f"{name}_norm3")
    if x.shape != out.shape:
        x = norm(conv(x, wide, 1, stride, f"{name}_skip"), f"{name}_skip_norm")
    return nn.relu(jnp.add(x, out))


def layers(stages: tuple[int, ...]) -> dict[str, str]:
    """Returns torchvision's name of each layer but the last, by our name."""
    found = {"stem": "conv1", "stem_norm": "bn1"}
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            ours, theirs = f"{stage}_{block}", f"layer{stage + 1}.{block}"
            for i in (1, 2, 3):
                found[f"{ours}_conv{i}"] = f"{theirs}.conv{i}"
                found[f"{ours}_norm{i}"] = f"{theirs}.bn{i}"
            if block == 0:  # every stage begins with other channels
                found[f"{ours}_skip"] = f"{theirs}.downsample.0"
                found[f"{ours}_skip_norm"] = f"{theirs}.downsample.1"
    return found


def started(
    variables: Mapping[str, Any], tensors: _start.Tensors, stages: tuple[int, ...]
) -> dict[str, Any]:
    """Puts torchvision's weights into a network, all but the last layer's.

    Args:
      variables: of a `ResNet` of torchvision's widths.
      tensors: under torchvision's names, which timm's `tv_resnet50` has too.
      stages: of the network.

    Raises:
      ValueError: if they are of another network.
    """
    return _start.filled(variables, layers(stages), tensors, ignored=("fc.",))


def from_weights(
    tensors: _start.Tensors, network: ResNet, output: str
) -> dict[str, Any]:
    """Returns the variables that the weights of a detector are.

    Args:
      tensors: under torchvision's names, with a last layer of one output.
      network: ours.
      output: their name of the last layer.

    Raises:
      ValueError: for tensors that are missing, of another shape, or of no layer.
    """
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    every = {**layers(network.stages), "output": output}
    found = _start.filled(_start.variables(network, x), every, tensors, ignored=())
    return jax.tree.map(np.asarray, found)
