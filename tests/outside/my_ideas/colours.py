"""A tower family: an image is its mean colour, a text the sum of its letters."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from item_jax.towers import checkpoint


@dataclasses.dataclass(frozen=True)
class Config:
    embed_dim: int
    image_size: int


LAYOUTS = [
    checkpoint.Layout(
        "ours",
        "config.json",
        ("model.safetensors",),
        {
            "vision/colour": ("colour.weight", lambda t: t.T),
            "text/letters": ("letters.weight", lambda t: t),
        },
    )
]
TOKENIZER_FILES = ()


def read_config(files):
    raw = files.json("config.json") or {}
    if raw.get("model_type") != "colours":
        return None
    return Config(raw["embed_dim"], raw["image_size"])


def param_shapes(config, dtype):
    import jax

    d = config.embed_dim
    return {
        "vision": {"colour": jax.ShapeDtypeStruct((3, d), dtype)},
        "text": {"letters": jax.ShapeDtypeStruct((128, d), dtype)},
    }


def encoder(tower, *, config, dtype, device):
    if tower == "vision":
        return lambda params, views: (
            views.mean((1, 2), dtype=jnp.float32) / 255 @ params["colour"]
        )
    return lambda params, tokens: params["letters"][tokens].sum(1)


def load_tokenizer(files, config):
    return None


def tokenize(tokenizer, texts, config):
    rows = [[ord(c) % 128 for c in text] for text in texts]
    return [row[:64] for row in rows], np.array([len(row) > 64 for row in rows], bool)


def pad_tokens(rows, config):
    return np.array([row + [0] * (64 - len(row)) for row in rows], np.int32)
