"""Heads: what turns a misalignment D into logits (ITEM Eqs. 9 and 10)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from item_jax import choices

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
    """A linear head: `[B, D']` -> logits `[B, 2]`."""

    @nn.compact
    def __call__(self, d):
        return _dense(CLASSES, "output")(d)


HEADS = {"mlp": MLP, "linear": Linear}


def make(name: str, *, hidden_dim: int) -> nn.Module:
    """Returns a head.

    Args:
      name: a key of `HEADS`; or `package.module:Class`, a Linen module that maps
        `[B, D']` to logits `[B, 2]` (`package.module`: its `Head`).
      hidden_dim: given to a head that has such a field.

    Raises:
      ValueError: for an unknown name, with the nearest one.
    """
    module = choices.resolve("head", name, HEADS, attribute="Head")
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise ValueError(f"head {name!r} is not a Linen module: {module!r}")
    fields = {f.name for f in dataclasses.fields(module)}
    return module(**({"hidden_dim": hidden_dim} if "hidden_dim" in fields else {}))


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
