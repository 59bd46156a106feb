"""Image-text models of two ViTs that are not CLIP's: SigLIP and SigLIP 2 (of a fixed
size), CLIPA, MetaCLIP 2.

All are pre-LayerNorm transformers. They differ in how a sequence is pooled, in what
surrounds the blocks, in whether the text tower is causal, and in how texts are cleaned
and tokenised. All of that is in `general_vit_config.Config`, which
`general_vit_files.py` reads; `general_vit_keys.py` says where each parameter is.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax.towers import clip_vit
from item_jax.towers.attention import WRITTEN_OUT, preferred
from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.general_vit_config import (
    Config,
    VisionConfig,
    digest_text,
)
from item_jax.towers.general_vit_files import read_config
from item_jax.towers.general_vit_keys import LAYOUTS
from item_jax.towers.outputs import EMBEDDING, embedded, joined
from item_jax.towers.patches import normalised, patch_rows
from item_jax.towers.pooling import attend_once
from item_jax.towers.transformer import (
    ACTIVATIONS,
    LayerNorm,
    TransformerConfig,
    arranged,
    dense,
    pooled_blocks,
    whole_blocks,
)

__all__ = [
    "LAYOUTS",
    "TOKENIZER_FILES",
    "Config",
    "digest_text",
    "encoder",
    "image_outputs",
    "load_tokenizer",
    "pad_tokens",
    "param_shapes",
    "read_config",
    "text_cleaning",
    "tokenize",
]

# Part of the checkpoint's checksum, in this order.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.txt",
    "tokenizer_config.json",
)

# A tokenizer fills nearly all rows of its model's token table: BERT's has 30,522 tokens
# for the 32,000 rows of CLIPA, those of the other models have as many as rows.
LEAST_FILLED = 0.9


class AttentionPool(nn.Module):
    """SigLIP's: a learnt query looks at the sequence, an MLP follows."""

    config: TransformerConfig
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, T, width]` to `[B, width]`."""
        c, (batch, _, width) = self.config, x.shape
        query = self.param("query", nn.initializers.normal(0.02), (width,), self.dtype)
        q = dense(width, self.dtype, name="q")(query[None])
        kv = dense(2 * width, self.dtype, name="kv")(x)
        x = attend_once(jnp.broadcast_to(q, (batch, width)), kv, heads=c.heads)
        x = dense(width, self.dtype, name="out")(x)
        h = LayerNorm(c.eps, self.dtype, name="ln")(x)
        h = ACTIVATIONS[c.activation](dense(c.mlp_width, self.dtype, name="fc_1")(h))
        return x + dense(width, self.dtype, name="fc_2")(h)


class VisionTower(nn.Module):
    """The image tower: patches, blocks, pooling, and a projection if there is one."""

    config: Config
    dtype: Any
    attention: str = WRITTEN_OUT

    @nn.compact
    def __call__(self, views: jax.Array) -> jax.Array:
        """Maps uint8 views `[B, S, S, 3]` to embeddings `[B, D]`, un-normalised."""
        config, c = self.config, self.config.vision
        width, batch = c.transformer.width, views.shape[0]
        normal = nn.initializers.normal(0.02)
        x = normalised(views, config.image_mean, config.image_std, self.dtype)
        x = patch_rows(x, c.patch_size)
        x = dense(width, self.dtype, name="patch_embedding", use_bias=c.patch_bias)(x)
        shape = (c.tokens, width)
        pos = self.param("position_embedding", normal, shape, self.dtype)[None]
        if c.class_token:
            cls = self.param("class_embedding", normal, (width,), self.dtype)
            cls = jnp.broadcast_to(cls, (batch, 1, width))
            parts = [cls + pos[:, :1], x + pos[:, 1:]]
        else:
            parts = [x + pos]
        parts = arranged(parts, self.attention)
        if c.ln_pre:
            ln_pre = LayerNorm(c.transformer.eps, self.dtype, name="ln_pre")
            parts = [ln_pre(part) for part in parts]
        x = self._pooled(parts, c)
        if c.projection:
            x = dense(config.embed_dim, self.dtype, name="projection", use_bias=False)(
                x
            )
        return x

    def _pooled(self, parts: list[jax.Array], c: VisionConfig) -> jax.Array:
        blocks: dict[str, Any] = {
            "causal": False,
            "dtype": self.dtype,
            "attention": self.attention,
        }
        ln_post = LayerNorm(c.transformer.eps, self.dtype, name="ln_post")
        if c.pool == "class":  # the LayerNorm is of each position by itself
            return ln_post(pooled_blocks(parts, 0, c.transformer, **blocks))
        x = whole_blocks(parts, c.transformer, **blocks)
        if not c.ln_after_pool:
            x = ln_post(x)
        if c.pool == "attention":
            x = AttentionPool(c.transformer, self.dtype, name="pool")(x)
        else:
            x = x[:, 1:].astype(jnp.float32).mean(axis=1).astype(self.dtype)
        return ln_post(x) if c.ln_after_pool else x


class TextTower(nn.Module):
    """The text tower: blocks, causal or not, pooled at the first EOS or at the end."""

    config: Config
    dtype: Any
    attention: str = WRITTEN_OUT

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps int32 tokens `[B, T]` to embeddings `[B, D]`, un-normalised.

        T is `context_length`, unless the tower is causal and pooled at the EOS: then
        it may be anything that keeps each row's first EOS.
        """
        config, c = self.config, self.config.text
        width, blocks = c.transformer.width, c.transformer
        normal = nn.initializers.normal(0.02)
        table = self.param("token_embedding", normal, (c.vocab_size, width), self.dtype)
        pos = self.param(
            "position_embedding", normal, (c.context_length, width), self.dtype
        )
        x = table[tokens] + pos[None, : tokens.shape[1]]
        if c.eos_token_id is None:
            row: Any = tokens.shape[1] - 1
        else:
            row = jnp.argmax(tokens == c.eos_token_id, axis=1).astype(jnp.int32)
        x = pooled_blocks(
            arranged([x], self.attention),
            row,
            blocks,
            causal=c.causal,
            dtype=self.dtype,
            attention=self.attention,
        )
        x = LayerNorm(blocks.eps, self.dtype, name="ln_final")(x)
        if c.projection == "none":
            return x
        return dense(
            config.embed_dim,
            self.dtype,
            name="projection",
            use_bias=c.projection == "affine",
        )(x)


def image_outputs(config: Config) -> dict[str, tuple[int, ...]]:
    """Returns the outputs of the image tower, see `outputs.py`, and their shapes.

    SigLIP has neither a projection nor a class token: its embedding is all there is.
    """
    c = config.vision
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (config.embed_dim,)}
    if c.pool == "class" or c.ln_after_pool:  # the last LayerNorm is of the pooled
        found["pooled"] = (c.transformer.width,)
    if c.class_token:
        found["class_tokens"] = (c.transformer.layers, c.transformer.width)
    if c.class_token and c.projection:
        found["block_tokens"] = (c.transformer.layers, config.embed_dim)
    return found


def encoder(
    tower: str,
    *,
    config: Config,
    dtype: Any,
    device: jax.Device,
    outputs: Sequence[str] = (EMBEDDING,),
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the "vision" or "text" tower as `fn(params, rows)`, for a device.

    Texts are short: no fused kernel is used for them. Several `outputs` of the image
    tower come side by side, see `outputs.joined`.
    """
    text = tower == "text"
    c = config.text.transformer if text else config.vision.transformer
    length = config.text.context_length if text else config.vision.tokens
    shape = (length, c.heads, c.width // c.heads)
    attention = preferred(device, dtype, shape, fused=not text)
    if text:
        return functools.partial(embedded, TextTower(config, dtype, attention))
    module = VisionTower(config, dtype, attention)
    return functools.partial(joined, module, outputs=outputs)


def param_shapes(config: Config, dtype: Any) -> dict[str, Any]:
    """Returns the tree of all parameters as shapes, without memory."""
    size = config.image_size
    views = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
    key = jax.random.key(0)
    return {
        "vision": jax.eval_shape(VisionTower(config, dtype).init, key, views)["params"],
        "text": jax.eval_shape(TextTower(config, dtype).init, key, tokens)["params"],
        "logit_scale": jax.ShapeDtypeStruct((), jnp.float32),
    }


# ---- Text ---------------------------------------------------------------------------


def load_tokenizer(files: CheckpointFiles, config: Config) -> Any:
    """Returns the tokenizer that the files name (`transformers.AutoTokenizer`).

    Args:
      files: of the checkpoint.
      config: its configuration, which the tokenizer must fit.

    Raises:
      ValueError: if there is none, it is damaged, it needs a package that is not
        installed, or it is not that of the text tower.
    """
    # It advises whoever has no PyTorch to install it; a tokenizer needs none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer

    source, there = files.source, [n for n in TOKENIZER_FILES if files.has(n)]
    if not there:
        raise ValueError(
            f"{source} has no tokenizer: none of {', '.join(TOKENIZER_FILES)}"
        )
    files.check_downloads(there)
    for name in there:
        if name.endswith(".json"):
            files.json(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(files.folder), trust_remote_code=False
        )
        eos, size = tokenizer.eos_token_id, len(tokenizer)
        tokens = tokenizer(["a dog"])["input_ids"][0]
    except ImportError as e:
        raise ValueError(
            f"{source}: its tokenizer needs a package: {(str(e).split() or ['?'])[0]}; "
            "pip install sentencepiece protobuf"
        ) from e
    except Exception as e:  # its reader raises whatever a damaged file leads to
        raise ValueError(
            f"{source}: cannot read the tokenizer from {', '.join(there)}: "
            f"{type(e).__name__}: {e}"
        ) from e
    c = config.text
    if c.eos_token_id is not None and not eos == c.eos_token_id == tokens[-1]:
        raise ValueError(
            f"{source}: the tokenizer ends a text with token {tokens[-1:]}, its EOS is "
            f"{eos}, but the configuration pools at {c.eos_token_id}: they are not of "
            "one model"
        )
    if tokens[-1] not in (eos, getattr(tokenizer, "sep_token_id", None)):
        warnings.warn(
            f"{source}: its tokenizer ends a text with token {tokens[-1]}, not with "
            f"its EOS {eos}, which SigLIP was trained with",
            stacklevel=2,
        )
    if size < LEAST_FILLED * c.vocab_size or max(tokens) >= c.vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has {size} tokens, but the text tower has "
            f"{c.vocab_size} rows: they are not of one model"
        )
    if c.eos_token_id is None and tokenizer.pad_token_id is None:
        raise ValueError(
            f"{source}: the tokenizer has no padding token, and the text tower looks "
            "at the padding"
        )
    return tokenizer


def text_cleaning(config: Config) -> str:
    """Returns how texts were cleaned in the training, see `text_cleaning.CLEANINGS`."""
    return config.text.cleaning


def tokenize(
    tokenizer: Any, texts: Sequence[str], config: Config
) -> tuple[list[list[int]], np.ndarray]:
    """Returns the token ids of each text, and which had to be cut.

    Args:
      tokenizer: of `load_tokenizer`.
      texts: cleaned; longer than `context_length` tokens is cut, the last token kept.
      config: the checkpoint's.

    Returns:
      A list of lists of token ids, those of a tower that looks at its padding padded
      to `context_length`; and bool `[N]`.

    Raises:
      ValueError: naming the text, for a token beyond the vocabulary.
    """
    c = config.text
    length = c.context_length
    # It would warn of long texts, not knowing that they are cut here.
    encoded = tokenizer(list(texts), truncation=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    cut = np.array([len(row) > length for row in ids], bool)
    ids = [row if len(row) <= length else row[: length - 1] + row[-1:] for row in ids]
    for text, row in zip(texts, ids):
        if row and max(row) >= c.vocab_size:
            raise ValueError(
                f"the tokenizer makes token {max(row)} of {text[:60]!r}, but the text "
                f"tower has {c.vocab_size} rows"
            )
    if not c.may_be_cut:
        ids = [_padded(tokenizer, row, length) for row in ids]
    if c.zero_sep:
        sep = tokenizer.sep_token_id
        ids = [[0 if i == sep else i for i in row] for row in ids]
    return ids, cut


def _padded(tokenizer: Any, row: list[int], length: int) -> list[int]:
    padding = [tokenizer.pad_token_id] * (length - len(row))
    return padding + row if tokenizer.padding_side == "left" else row + padding


def pad_tokens(rows: Sequence[Sequence[int]], config: Config) -> np.ndarray:
    """Returns token ids as int32 `[B, T]`.

    Rows of a causal tower that is pooled at the EOS are padded to the shortest bucket
    that fits them, which is exact; all others come padded from `tokenize`.
    """
    c = config.text
    length = c.context_length
    if c.may_be_cut:
        longest = max(map(len, rows))
        buckets = (*(b for b in clip_vit.TEXT_BUCKETS if b < length), length)
        length = next(b for b in buckets if b >= longest)
    eos = c.eos_token_id or 0
    return np.array([[*row, *[eos] * (length - len(row))] for row in rows], np.int32)
