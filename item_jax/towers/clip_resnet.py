"""CLIP with a modified ResNet as image tower (Radford et al., arXiv 2103.00020): RN50,
RN101, RN50x4, RN50x16, RN50x64.

Three changes to a ResNet (openai/CLIP, model.py): a stem of three convolutions and an
average pool; strides are average pools, which do not alias; and the last feature map is
pooled by attention, whose query is its mean. The text tower is that of `clip_vit`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from item_jax.towers import clip_resnet_keys as keys
from item_jax.towers import (
    clip_vit,
    clip_vit_keys,
    open_clip_config,
    preprocessing,
)
from item_jax.towers.attention import precision
from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.checks import (
    MOST_LAYERS,
    MOST_PIXELS,
    MOST_WIDTH,
    check_keys,
    heads,
    size,
)
from item_jax.towers.clip_resnet_keys import LAYOUTS
from item_jax.towers.clip_vit import (
    TOKENIZER_FILES,
    TextTower,
    load_tokenizer,
    pad_tokens,
    text_cleaning,
    tokenize,
)
from item_jax.towers.clip_vit_config import open_clip_cleaning, open_clip_eos
from item_jax.towers.outputs import embedded
from item_jax.towers.patches import normalised
from item_jax.towers.pooling import attend_once
from item_jax.towers.transformer import TransformerConfig, dense

__all__ = [
    "LAYOUTS",
    "TOKENIZER_FILES",
    "Config",
    "digest_text",
    "encoder",
    "load_tokenizer",
    "pad_tokens",
    "param_shapes",
    "read_config",
    "text_cleaning",
    "tokenize",
]

# A bottleneck's output is four times as wide as its 3x3 convolution, and the four
# stages end at 1/32 of the view's side.
EXPANSION = 4
REDUCTION = 32


@dataclasses.dataclass(frozen=True)
class Config:
    """A CLIP ResNet as its checkpoint describes it.

    Attributes:
      embed_dim: D, the width of the joint space.
      image_size: S, the side of a view in pixels.
      blocks: the number of bottlenecks in each of the four stages.
      width: channels after the stem.
      heads: of the attention that pools.
      image_mean, image_std: pixel statistics on [0, 1], one per channel.
      context_length, vocab_size, eos_token_id, text: as in `clip_vit_config.Config`.
      geometry: how the whole image became a view in the checkpoint's training, a name
        of `item_jax.views.GEOMETRIES`. It is no part of the towers.
      cleaning: as in `clip_vit_config.Config`.
    """

    embed_dim: int
    image_size: int
    blocks: tuple[int, int, int, int]
    width: int
    heads: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    context_length: int
    vocab_size: int
    eos_token_id: int
    text: TransformerConfig
    geometry: str = "clip"
    cleaning: str = "lower"


def read_config(files: CheckpointFiles) -> Config | None:
    """Reads the configuration of a checkpoint.

    Args:
      files: of the checkpoint.

    Returns:
      None if it is of another family.

    Raises:
      ValueError: for a CLIP ResNet with a key or value that is not understood, or with
        sizes that make no sense; names the file and the key.
    """
    layout = files.layout(LAYOUTS)
    raw = files.json(layout.config) if layout else None
    if layout is None or raw is None:
        return None
    where = f"{files.source}: {layout.config}"
    parts = open_clip_config.read_parts(raw, where, files.source)
    vision, here = parts.vision, f"{where}, vision_cfg"
    check_keys(
        vision,
        here,
        read=keys.OPEN_CLIP_VISION,
        harmless=keys.OPEN_CLIP_VISION_HARMLESS,
    )
    check_keys(
        parts.text,
        f"{where}, text_cfg",
        read=clip_vit_keys.OPEN_CLIP_TEXT,
        harmless=clip_vit_keys.OPEN_CLIP_TEXT_HARMLESS,
    )
    layers = vision["layers"]
    if len(layers) != len(keys.STAGES):
        raise ValueError(f"{here}: 'layers' is {layers!r:.60}; expected four numbers")
    blocks = [size({"layers": n}, "layers", here, most=MOST_LAYERS) for n in layers]
    width = size(vision, "width", here, most=MOST_WIDTH // REDUCTION)
    if width % 2:
        raise ValueError(f"{here}: 'width' is {width}; the stem halves it")
    side = size(vision, "image_size", here, most=MOST_PIXELS)
    if side % REDUCTION:
        raise ValueError(
            f"{here}: 'image_size' is {side}; the strides of a ResNet divide it by "
            f"{REDUCTION}"
        )
    pooled = width * REDUCTION
    c = {"head_width": 64} | vision
    c["heads"] = pooled // size(c, "head_width", here, most=pooled)
    text = open_clip_config.text_sizes(parts, open_clip_config.activation(parts))
    pre = preprocessing.open_clip(parts.preprocess, f"{where}, preprocess_cfg", side)
    return Config(
        embed_dim=parts.embed_dim,
        image_size=side,
        blocks=(blocks[0], blocks[1], blocks[2], blocks[3]),
        width=width,
        heads=heads(c, "heads", pooled, here),
        image_mean=pre.mean,
        image_std=pre.std,
        context_length=text.context_length,
        vocab_size=text.vocab_size,
        eos_token_id=open_clip_eos(parts, text.vocab_size),
        text=text.transformer,
        geometry=pre.geometry,
        cleaning=open_clip_cleaning(parts),
    )


def digest_text(config: Config) -> str:
    """Returns the configuration as text, for `Towers.checkpoint_sha256`.

    Heads and caches store that checksum: a new field may only add to it where it is not
    at the value that all CLIP ResNets had before.
    """
    fields = dataclasses.asdict(config)
    for name in ("geometry", "cleaning"):  # embeddings are stored with their own
        del fields[name]
    return repr(fields)


def convolution(
    features: int, size: int, dtype: Any, *, name: str, stride: int = 1
) -> nn.Conv:
    """Returns a convolution over `[B, H, W, C]`, the batch norm behind it folded in."""
    return nn.Conv(
        features,
        (size, size),
        strides=stride,
        padding=size // 2,
        dtype=dtype,
        param_dtype=dtype,
        precision=precision(dtype),
        name=name,
    )


def halved(x: jax.Array) -> jax.Array:
    """Averages each 2x2 square: `[B, H, W, C]` -> `[B, H / 2, W / 2, C]`."""
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


class Bottleneck(nn.Module):
    """One residual block: 1x1, 3x3 and 1x1 convolutions."""

    width: int
    halve: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H', W', 4 * width]`."""
        out = EXPANSION * self.width
        h = nn.relu(convolution(self.width, 1, self.dtype, name="conv_1")(x))
        h = nn.relu(convolution(self.width, 3, self.dtype, name="conv_2")(h))
        if self.halve:
            h, x = halved(h), halved(x)
        h = convolution(out, 1, self.dtype, name="conv_3")(h)
        if x.shape[-1] != out:  # the first of a stage; where it halves, it widens too
            x = convolution(out, 1, self.dtype, name="shortcut")(x)
        return nn.relu(x + h)


class AttentionPool(nn.Module):
    """The mean of a feature map looks at the map, and is projected."""

    heads: int
    embed_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, width]` to `[B, embed_dim]`."""
        _, length, width = x.shape
        position = self.param(
            "position_embedding",
            nn.initializers.normal(0.02),
            (length + 1, width),
            self.dtype,
        )
        mean = x.astype(jnp.float32).mean(axis=1, keepdims=True).astype(self.dtype)
        x = jnp.concatenate([mean, x], axis=1) + position[None]
        q = dense(width, self.dtype, name="q")(x[:, 0])
        kv = dense(2 * width, self.dtype, name="kv")(x)
        x = attend_once(q, kv, heads=self.heads)
        return dense(self.embed_dim, self.dtype, name="out")(x)


class VisionTower(nn.Module):
    """The image tower: stem, four stages of bottlenecks, attention pooling."""

    config: Config
    dtype: Any

    @nn.compact
    def __call__(self, views: jax.Array) -> jax.Array:
        """Maps uint8 views `[B, S, S, 3]` to embeddings `[B, D]`, un-normalised."""
        c = self.config
        x = normalised(views, c.image_mean, c.image_std, self.dtype)
        for n, (width, stride) in enumerate(
            ((c.width // 2, 2), (c.width // 2, 1), (c.width, 1)), start=1
        ):
            name = f"stem_{n}"
            x = nn.relu(convolution(width, 3, self.dtype, stride=stride, name=name)(x))
        x = halved(x)
        for stage, count in zip(keys.STAGES, c.blocks):
            for i in range(count):
                x = Bottleneck(
                    width=c.width * 2 ** (stage - 1),
                    halve=stage > 1 and i == 0,
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{i}",
                )(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        return AttentionPool(c.heads, c.embed_dim, self.dtype, name="pool")(x)


def encoder(
    tower: str, *, config: Config, dtype: Any, device: jax.Device
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the "vision" or "text" tower as `fn(params, rows)`, for a device."""
    if tower == "text":  # it reads of a configuration what is in this one too
        same: Any = config
        return clip_vit.encoder(tower, config=same, dtype=dtype, device=device)
    return functools.partial(embedded, VisionTower(config, dtype))


def param_shapes(config: Config, dtype: Any) -> dict[str, Any]:
    """Returns the tree of all parameters as shapes, without memory."""
    size = config.image_size
    views = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.context_length), jnp.int32)
    key = jax.random.key(0)
    # The text tower reads of a configuration what is in this one too.
    text: Any = TextTower(config, dtype)  # type: ignore[arg-type]
    return {
        "vision": jax.eval_shape(VisionTower(config, dtype).init, key, views)["params"],
        "text": jax.eval_shape(text.init, key, tokens)["params"],
        "logit_scale": jax.ShapeDtypeStruct((), jnp.float32),
    }
