"""Published weights: as a fitted method, or to start a training from.

A method that knows its authors' weights defines `from_weights(tensors) -> state`, and
`PUBLISHED`, what they were trained on. One whose authors started from somebody's
weights defines `START`, whose, and its `fit_seeds` takes `start=`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from item_jax import files, methods, settings, torch_files
from item_jax.cache import EmbeddingCache
from item_jax.fitted import FittedMethod

NEEDS = ("from_weights", "PUBLISHED")


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights that a training starts from.

    Attributes:
      file: its name.
      sha256: of the file.
      tensors: by name.
    """

    file: str
    sha256: str
    tensors: Mapping[str, np.ndarray]


def start(method: Any, path: str | Path) -> Start:
    """Reads weights to start from.

    Args:
      method: a name or module, see `methods.get`.
      path: a file of safetensors, or one that `torch.save` wrote, which is read
        without running code.

    Raises:
      ValueError: for a method that starts from random weights, or a file that is
        damaged or hostile.
    """
    if not getattr(methods.get(method), "START", ""):
        known = [n for n in methods.names() if getattr(methods.get(n), "START", "")]
        raise ValueError(
            f"method {method!r} starts from random weights; {', '.join(known)} can "
            "start from a file"
        )
    path = Path(path)
    if path.suffix != ".safetensors":
        tensors = torch_files.read(path)
    else:
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as e:
            raise ValueError(f"{path} is not a whole safetensors file: {e}") from e
    return Start(path.name, files.sha256(path), tensors)


def read(
    method: Any, path: str | Path, cache: EmbeddingCache, *, threshold: float
) -> FittedMethod:
    """Reads published weights.

    Args:
      method: a name or module, see `methods.get`.
      path: of the file, as `torch.save` wrote it. It is read without running code.
      cache: of the towers that the weights are for. That they are those is not known
        from the file; the width is compared.
      threshold: fake when P(fake) is above.

    Raises:
      ValueError: for a method without published weights, a file that is damaged or
        hostile, or weights that do not fit the method or the cache (its outputs of the
        image tower among them); naming what.
    """
    module = methods.get(method)
    name = method if isinstance(method, str) else module.__name__
    settings.check_outputs(name, module.NEEDS, cache.embedding.get("outputs", ()))
    if not all(hasattr(module, need) for need in NEEDS):
        known = [n for n in methods.names() if hasattr(methods.get(n), NEEDS[0])]
        raise ValueError(
            f"method {method!r} has no published weights that can be read; those of "
            f"{', '.join(known)} can"
        )
    path = Path(path)
    tensors = torch_files.read(path)
    try:
        state = module.from_weights(tensors)
        module.check(state)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    width = state["inputs"].get("image_emb", [cache.embed_dim])[-1]
    if width != cache.embed_dim:
        tower = cache.embedding["tower"]["name"]
        raise ValueError(
            f"{path} is for embeddings of width {width}; those of {cache.folder} are "
            f"of {tower}, {cache.embed_dim} wide"
        )
    training = {
        **module.PUBLISHED,
        "split": "",
        "only": [],
        "seed": 0,
        "records_sha256": "",
        "settings": {
            "weights": path.name,
            "weights_sha256": files.sha256(path),
        },
    }
    config = {
        "method": name,
        "embedding": settings.with_outputs(cache.embedding, module.NEEDS),
        "threshold": threshold,
        "training": training,
    }
    return FittedMethod(config, state, module)
