"""CLIP with vision transformers (Radford et al., arXiv 2103.00020), in Flax Linen.

Both towers are pre-LayerNorm transformers, pooled at one position: the image tower at
its class token, the text tower at the first EOS. What differs between checkpoints
(sizes, activation, epsilon, EOS rule, pixel statistics) is in its configuration
(`clip_vit_config.py`); `clip_vit_keys.py` says where each parameter is in the files.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from item_jax.towers.attention import WRITTEN_OUT, preferred
from item_jax.towers.checkpoint import CheckpointFiles
from item_jax.towers.checks import part
from item_jax.towers.clip_vit_config import Config, digest_text, read_config
from item_jax.towers.clip_vit_keys import LAYOUTS
from item_jax.towers.outputs import EMBEDDING, embedded, joined
from item_jax.towers.patches import normalised, patch_rows
from item_jax.towers.transformer import LayerNorm, arranged, dense, pooled_blocks

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
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")

# Lengths texts are cut to, in tokens; with a causal tower pooled at its EOS the cut is
# exact, and 16 tokens cost a fifth of 77.
TEXT_BUCKETS = (8, 16, 24, 32, 48)


class VisionTower(nn.Module):
    """The image tower: patches, class token, blocks, projection."""

    config: Config
    dtype: Any
    attention: str = WRITTEN_OUT

    @nn.compact
    def __call__(self, views: jax.Array) -> jax.Array:
        """Maps uint8 views `[B, S, S, 3]` to embeddings `[B, D]`, un-normalised."""
        c, width = self.config, self.config.vision.width
        side, batch = c.image_size // c.patch_size, views.shape[0]
        x = normalised(views, c.image_mean, c.image_std, self.dtype)
        x = patch_rows(x, c.patch_size)
        x = dense(width, self.dtype, name="patch_embedding", use_bias=False)(x)
        normal = nn.initializers.normal(0.02)
        cls = self.param("class_embedding", normal, (width,), self.dtype)
        cls = jnp.broadcast_to(cls, (batch, 1, width))
        pos = self.param(
            "position_embedding", normal, (side * side + 1, width), self.dtype
        )
        parts = arranged([cls + pos[None, :1], x + pos[None, 1:]], self.attention)
        ln_pre = LayerNorm(c.vision.eps, self.dtype, name="ln_pre")
        x = pooled_blocks(
            [ln_pre(part) for part in parts],
            0,
            c.vision,
            causal=False,
            dtype=self.dtype,
            attention=self.attention,
        )
        x = LayerNorm(c.vision.eps, self.dtype, name="ln_post")(x)
        return dense(c.embed_dim, self.dtype, name="projection", use_bias=False)(x)


class TextTower(nn.Module):
    """The text tower: causal blocks, pooled at the first EOS."""

    config: Config
    dtype: Any
    attention: str = WRITTEN_OUT

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
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
        x = pooled_blocks(
            arranged([x], self.attention),
            eos,
            c.text,
            causal=True,
            dtype=self.dtype,
            attention=self.attention,
        )
        x = LayerNorm(c.text.eps, self.dtype, name="ln_final")(x)
        return dense(c.embed_dim, self.dtype, name="projection", use_bias=False)(x)


def image_outputs(config: Config) -> dict[str, tuple[int, ...]]:
    """Returns the outputs of the image tower, see `outputs.py`, and their shapes."""
    c = config.vision
    return {
        EMBEDDING: (config.embed_dim,),
        "pooled": (c.width,),
        "class_tokens": (c.layers, c.width),
        "block_tokens": (c.layers, config.embed_dim),
    }


def encoder(
    tower: str,
    *,
    config: Config,
    dtype: Any,
    device: jax.Device,
    outputs: Sequence[str] = (EMBEDDING,),
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the "vision" or "text" tower as `fn(params, rows)`, for a device.

    Texts are short (16 tokens, mostly): no fused kernel is used for them. Several
    `outputs` of the image tower come side by side, see `outputs.joined`.
    """
    text = tower == "text"
    if text:
        sizes, length = config.text, config.context_length
    else:
        sizes = config.vision
        length = (config.image_size // config.patch_size) ** 2 + 1
    shape = (length, sizes.heads, sizes.width // sizes.heads)
    attention = preferred(device, dtype, shape, fused=not text)
    if text:
        return functools.partial(embedded, TextTower(config, dtype, attention))
    module = VisionTower(config, dtype, attention)
    return functools.partial(joined, module, outputs=outputs)


def param_shapes(config: Config, dtype: Any) -> dict[str, Any]:
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


# ---- Text ---------------------------------------------------------------------------


def load_tokenizer(files: CheckpointFiles, config: Config) -> Any:
    """Returns CLIP's tokenizer (`transformers.CLIPTokenizer`).

    Args:
      files: of the checkpoint.
      config: its configuration, which the tokenizer must fit.

    Raises:
      ValueError: if there is none, it is damaged, it is of another kind, its EOS is
        not the configuration's, or it has ids beyond the vocabulary.
    """
    # It advises whoever has no PyTorch to install it; a tokenizer needs none.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import CLIPTokenizer

    source = files.source
    files.check_downloads(TOKENIZER_FILES)
    _check_tokenizer_kind(files)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(files.folder))
        eos, vocab = tokenizer.eos_token_id, tokenizer.get_vocab()
        tokens = tokenizer(["a dog"])["input_ids"][0]
    except Exception as e:  # its reader raises whatever a damaged file leads to
        raise ValueError(
            f"{source}: cannot read the tokenizer from "
            f"{', '.join(n for n in TOKENIZER_FILES if files.has(n))}: "
            f"{type(e).__name__}: {e}"
        ) from e
    if eos != config.eos_token_id or tokens[-1:] != [eos]:
        raise ValueError(
            f"{source}: the tokenizer ends a text with token {tokens[-1:]}, its EOS is "
            f"{eos}, but the configuration pools at {config.eos_token_id}: they are "
            "not of one model"
        )
    highest = max(vocab.values())
    if highest >= config.vocab_size:
        raise ValueError(
            f"{source}: the tokenizer has token {highest}, but the text tower has "
            f"{config.vocab_size} rows: they are not of one model"
        )
    return tokenizer


def _check_tokenizer_kind(files: CheckpointFiles) -> None:
    source = files.source
    if not files.has("tokenizer.json"):
        pair = ("vocab.json", "merges.txt")
        missing = [name for name in pair if not files.has(name)]
        if len(missing) == 2:
            raise ValueError(
                f"{source} has no tokenizer: neither tokenizer.json nor vocab.json "
                "with merges.txt"
            )
        if missing:
            raise ValueError(
                f"{source} has no {missing[0]}: a tokenizer is tokenizer.json, or "
                "vocab.json with merges.txt"
            )
    declared = (files.json("tokenizer_config.json") or {}).get("tokenizer_class")
    if declared not in (None, "CLIPTokenizer", "CLIPTokenizerFast"):
        raise ValueError(
            f"{source}: tokenizer_config.json names {declared!r}; a CLIP ViT has a "
            "CLIPTokenizer, and another one gives other tokens"
        )
    raw = files.json("tokenizer.json")
    if raw is None:
        return
    model = part(raw, "model", f"{source}: tokenizer.json")
    kind, suffix = model.get("type", "BPE"), model.get("end_of_word_suffix")
    if kind != "BPE" or suffix != "</w>":
        raise ValueError(
            f"{source}: tokenizer.json is a {kind} with the word end {suffix!r}; "
            "CLIP's is a BPE with the word end '</w>'"
        )


def text_cleaning(config: Config) -> str:
    """Returns how texts were cleaned in the training, see `text_cleaning.CLEANINGS`."""
    return config.cleaning


def tokenize(
    tokenizer: Any, texts: Sequence[str], config: Config
) -> tuple[list[list[int]], np.ndarray]:
    """Returns the token ids of each text, EOS last, and which had to be cut.

    Args:
      tokenizer: of `load_tokenizer`.
      texts: cleaned; longer than `context_length` tokens is cut, the EOS kept.
      config: the checkpoint's.

    Returns:
      A list of lists of token ids, and bool `[N]`.
    """
    length, eos = config.context_length, config.eos_token_id
    # It would warn of long texts, not knowing that they are cut here.
    ids = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
    cut = np.array([len(row) > length for row in ids], bool)
    ids = [row if len(row) <= length else row[: length - 1] + [eos] for row in ids]
    return ids, cut


def pad_tokens(rows: Sequence[Sequence[int]], config: Config) -> np.ndarray:
    """Returns token ids as int32 `[B, T]`, T the shortest bucket that fits them.

    The mask is causal and the first EOS is pooled, so padding behind it changes
    nothing, nor does leaving padding out.
    """
    longest, limit = max(map(len, rows)), config.context_length
    buckets = (*(b for b in TEXT_BUCKETS if b < limit), limit)
    length = next(b for b in buckets if b >= longest)
    eos = config.eos_token_id
    return np.array([[*row, *[eos] * (length - len(row))] for row in rows], np.int32)
