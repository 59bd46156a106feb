"""De-Fake: an MLP on image and caption side by side (Sha et al., CCS 2023).

[I; T] as they are -> 512 (ReLU, dropout 0.5) -> 256 (ReLU) -> 2, cross-entropy, Adam
3e-4, 50 epochs in batches of 32, of which the last is kept: the authors' `train.py`.

Deviations: the authors embed with ViT-B/32, here it is the tower of the cache. They
train on the prompts that the images were made of and test with captions of BLIP (3
beams, 5 to 60 tokens); here both are the captions of the cache. They squash training
images to 224 x 224, scaled to -1 to 1, and test with CLIP's own scaling; here both see
the views of the cache. They test with a CLIP that was fine-tuned (`finetune_clip.pt`);
here it is frozen, as in their `train.py`. `--weights` takes the state of their network,
`train_linear_model.pth`; `clip_linear.pt` is a whole module, which PyTorch has to
convert.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import optax
from ml_collections import ConfigDict

from item_jax.embeddings import Embeddings
from item_jax.methods import _network, _start

NEEDS = ("image_emb", "text_emb")
SETTINGS = ("train.epochs", "train.batch_size", "train.learning_rate", "train.seeds")
DEFAULTS = {
    "train.epochs": 50,
    "train.batch_size": 32,
    "train.learning_rate": 3e-4,
}
LAYERS = {"first": "fc1", "second": "fc2", "output": "fc3"}
"""Our layers and the authors'."""


class Network(nn.Module):
    """`[B, 2 D]` -> logits `[B]`."""

    @nn.compact
    def __call__(self, batch, train: bool = False):
        x = nn.relu(_network.linear(batch["pair"], 512, "first"))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.relu(_network.linear(x, 256, "second"))
        x = _network.linear(x, 2, "output")
        # Cross-entropy of two logits is that of one, their difference.
        return x[:, 1] - x[:, 0]


def inputs(part: Embeddings) -> dict[str, np.ndarray]:
    """Returns [I; T]."""
    pair = np.concatenate([part.image_emb, part.text_emb], axis=1)
    return {"pair": np.asarray(pair, np.float32)}


def fit_seeds(
    parts: Sequence[Embeddings],
    config: ConfigDict,
    seeds: Sequence[int],
    *,
    checkpoints: str | Path | None = None,
    on_epoch: Any = _network.quiet,
) -> list[_network.State]:
    """Trains a network per seed, side by side."""
    optimizer = optax.adam(config.train.learning_rate)
    recipe = _network.recipe("de_fake", Network(), config, optimizer)
    data = _network.joined(parts, inputs)
    trained = _network.train(recipe, data, config, seeds, checkpoints, on_epoch)
    return [_network.state(data, variables["params"]) for variables in trained]


def from_weights(tensors: Mapping[str, np.ndarray]) -> _network.State:
    """Returns the state that weights of the authors' network are.

    Args:
      tensors: of `fc1`, `fc2` and `fc3`, `weight` and `bias` each.

    Raises:
      ValueError: if they are others, naming what is missing, too many or misshapen.
    """
    inputs = {"pair": [_start.width(tensors, "fc1.weight")]}
    return _start.state(Network(), inputs, LAYERS, tensors)


fit = _network.alone(fit_seeds)
score, check = _network.scorer(Network(), inputs)
