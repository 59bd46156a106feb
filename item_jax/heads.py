"""Heads: what turns a misalignment D into logits (ITEM Eqs. 9 and 10).

A trained head is a folder, the Hugging Face convention: `head.safetensors` and
`config.json`, which says what the head was trained on and what it needs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from item_jax.config import nearest
from item_jax.records import write_json

CLASSES = 2  # ITEM IV-A, "an output dimension of 2"; column 0 is real, 1 is fake


def _dense(features: int, name: str) -> nn.Dense:
    # A head is float32 wherever it runs: no TF32 on a GPU, no bfloat16 on a TPU.
    return nn.Dense(features, precision=jax.lax.Precision.HIGHEST, name=name)


class MLP(nn.Module):
    """The papers' "simple two-layer MLP": `[B, D']` -> logits `[B, 2]`.

    Attributes:
      hidden_dim: width of the hidden layer (not in the paper).
    """

    hidden_dim: int = 512

    @nn.compact
    def __call__(self, d):
        h = nn.relu(_dense(self.hidden_dim, "hidden")(d))
        return _dense(CLASSES, "output")(h)


class Linear(nn.Module):
    """A linear head: `[B, D']` -> logits `[B, 2]`.

    Attributes:
      hidden_dim: unused; every head takes it, so that one config serves all.
    """

    hidden_dim: int = 0

    @nn.compact
    def __call__(self, d):
        return _dense(CLASSES, "output")(d)


HEADS = {"mlp": MLP, "linear": Linear}


def make(name: str, *, hidden_dim: int) -> nn.Module:
    """Returns the head of that name.

    Raises:
      ValueError: for an unknown name, with the nearest one.
    """
    if name not in HEADS:
        raise ValueError(f"unknown head {name!r}; {nearest(name, HEADS)}")
    return HEADS[name](hidden_dim=hidden_dim)


def bce_loss(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """ITEM Eq. 10, as the mean over a mini-batch.

    Two logits with softmax cross-entropy equal one logit z_1 - z_0 with binary
    cross-entropy. The paper prints a sum; AdamW does not see the scale of a loss.

    Args:
      logits: `[B, 2]`.
      labels: int `[B]`, real 0 and fake 1.
      weights: `[B]`, 1 for rows that count and 0 for padding.
    """
    each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1)


def p_fake(logits: jax.Array) -> jax.Array:
    """Returns P(fake) in [0, 1], `[..., 2]` -> `[...]`."""
    return jax.nn.softmax(logits, axis=-1)[..., 1]


@dataclasses.dataclass(frozen=True)
class Head:
    """A trained head with the story of its training.

    Attributes:
      config: what stands in `config.json`: `head` {name, hidden_dim, input_dim},
        `misalignment` {name, w1, w2, no_objects}, `towers` {name, embed_dim},
        `embedding` (the settings of `item_jax.embed.embedding_settings`), `threshold`
        and `training`.
      params: the tree of `make(...)`.
    """

    config: dict[str, Any]
    params: Any

    def p_fake(self, d) -> np.ndarray:
        """Scores misalignments.

        Args:
          d: `[N, D']`.

        Returns:
          float32 `[N]`, P(fake) in [0, 1].

        Raises:
          ValueError: when D' is not the width the head was trained on.
        """
        width = self.config["head"]["input_dim"]
        if d.shape[-1] != width:
            raise ValueError(
                f"the head takes misalignments of width {width} "
                f"({self.config['misalignment']['name']!r} of "
                f"{self.config['towers']['name']}), found width {d.shape[-1]}"
            )
        name, hidden_dim = (self.config["head"][k] for k in ("name", "hidden_dim"))
        return np.asarray(_p_fake(name, hidden_dim, self.params, d))

    def save(self, folder: str | Path) -> None:
        """Writes `head.safetensors`, `config.json` and a model card."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        flat = flax.traverse_util.flatten_dict(self.params, sep=".")
        arrays = {k: np.ascontiguousarray(v) for k, v in flat.items()}
        save_file(arrays, folder / "head.safetensors")
        (folder / "README.md").write_text(self.card(), encoding="utf-8")
        write_json(folder / "config.json", self.config)

    @classmethod
    def load(cls, folder: str | Path) -> Head:
        """Reads what `save` wrote.

        Raises:
          ValueError: when a file is missing or damaged, or the tensors do not fit the
            configuration.
        """
        folder = Path(folder)
        for name in ("config.json", "head.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"no head in {folder}: {name} is missing")
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            flat = load_file(folder / "head.safetensors")
            c = config["head"]
            module = make(c["name"], hidden_dim=c["hidden_dim"])
            d = jax.ShapeDtypeStruct((1, c["input_dim"]), jnp.float32)
        except (SafetensorError, KeyError, TypeError, ValueError) as e:
            raise ValueError(
                f"the head in {folder} is damaged: {type(e).__name__}: {e}"
            ) from e
        wanted = jax.eval_shape(module.init, jax.random.key(0), d)["params"]
        wanted = flax.traverse_util.flatten_dict(wanted, sep=".")
        found = {k: list(v.shape) for k, v in flat.items()}
        expected = {k: list(v.shape) for k, v in wanted.items()}
        if found != expected:
            raise ValueError(
                f"{folder / 'head.safetensors'} holds {found}, config.json describes "
                f"{expected}"
            )
        return cls(config, flax.traverse_util.unflatten_dict(flat, sep="."))

    def card(self) -> str:
        """Returns the model card."""
        c, t = self.config, self.config["training"]
        return f"""---
library_name: item-jax
tags: [fake-image-detection, clip, jax]
---
# A head for detecting AI-generated images by image-text misalignment

- Misalignment: `{c["misalignment"]["name"]}`, w1 = {c["misalignment"]["w1"]}, \
w2 = {c["misalignment"]["w2"]}
- Towers: `{c["towers"]["name"]}` (D = {c["towers"]["embed_dim"]})
- Trained on {t["real"]} real and {t["fake"]} fake images of \
{", ".join(t["generators"]) or "unnamed generators"}, seed {t["seed"]}

Load it with `item_jax.ItemDetector.from_pretrained(folder)`.

## Limits

A score is a hint and no evidence by itself: it depends on the generators the head was
trained on, on the captions it is given, and on how an image was resized and compressed.
"""


@functools.partial(jax.jit, static_argnums=(0, 1))
def _p_fake(name, hidden_dim, params, d):
    return p_fake(make(name, hidden_dim=hidden_dim).apply({"params": params}, d))
