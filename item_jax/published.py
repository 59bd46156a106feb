"""Published weights: as a fitted method, or to start a training from.

A method that can score with weights its authors, or their code, saved defines
`from_weights(tensors) -> state`. `PUBLISHED` then has what those files were trained on
that the authors distribute, by SHA-256; `SKIPPED` the beginnings of the names of
tensors that training code saves along and the method does not need, such as those of
CLIP. A method whose authors started from somebody's weights defines `START`, whose, and
its `fit_seeds` takes `start=`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from item_jax import (
    files,
    method_files,
    methods,
    settings,
    state_dicts,
    torch_files,
)
from item_jax.cache import EmbeddingCache
from item_jax.embeddings import Embeddings
from item_jax.fitted import FittedMethod

UNKNOWN = {"real": 0, "fake": 0, "generators": [], "benchmarks": []}
"""What is known of the training of weights that `PUBLISHED` does not have."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a file.

    Attributes:
      file: its name.
      sha256: of the file.
      tensors: by name, without what training wrappers put before the names.
      notes: what was taken from a checkpoint and what was left, a phrase each.
    """

    file: str
    sha256: str
    tensors: Mapping[str, np.ndarray]
    notes: Sequence[str] = ()


def accepts(method: Any) -> bool:
    """Whether a method can be made of weights.

    Args:
      method: a name or module, see `methods.get`.
    """
    return callable(getattr(methods.get(method), "from_weights", None))


def tensors(path: str | Path, *, skip: Sequence[str] = ()) -> Weights:
    """Reads a file of weights, without running code.

    Args:
      path: of safetensors, by its suffix, or what `torch.save` wrote: a state
        dictionary or a checkpoint around one, see `torch_files.read`.
      skip: beginnings of the names of tensors that are not read.

    Raises:
      ValueError: for a file that is missing, damaged, hostile or has no tensors.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no regular file"
        raise ValueError(f"{path} is {what}" if path.exists() else f"no weights {path}")
    with open(path, "rb") as f:
        if f.read(20).startswith(b"version https://git-"):
            raise ValueError(
                f"{path} is a Git LFS pointer, not the file: run `git lfs pull` "
                "or download the file"
            )
    if path.suffix == ".safetensors":
        found, notes = _safetensors(path, skip)
    else:
        saved = torch_files.read(path, skip=skip)
        found, notes = saved.tensors, saved.notes
    return Weights(path.name, files.sha256(path), found, tuple(notes))


def _safetensors(path: Path, skip: Sequence[str]):
    try:
        with safe_open(path, "np") as f:
            named, notes = state_dicts.without_prefixes({k: k for k in f.keys()})
            kept, left = state_dicts.without(named, skip)
            found = {name: f.get_tensor(stored) for name, stored in kept.items()}
    except (SafetensorError, OSError, TypeError, AttributeError) as e:
        raise ValueError(f"{path} is not a whole safetensors file: {e}") from e
    return found, notes + left


def start(method: Any, path: str | Path) -> Weights:
    """Reads weights to start from.

    Args:
      method: a name or module, see `methods.get`.
      path: a file as for `tensors`.

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
    return tensors(path)


def read(
    method: Any, path: str | Path, cache: EmbeddingCache, *, threshold: float
) -> FittedMethod:
    """Makes a fitted method of weights that its authors, or their code, saved.

    Args:
      method: a name or module, see `methods.get`.
      path: a file as for `tensors`.
      cache: of the towers that the weights are for. That they are those is not known
        from the file; the shapes of a row of each input are compared.
      threshold: fake when P(fake) is above.

    Returns:
      The method. Its `training` has what `PUBLISHED` of the method knows of this file,
      by its digest; 0 images of unnamed generators for any other file.

    Raises:
      ValueError: for a method that takes no weights, a file that is damaged or
        hostile, or weights that do not fit the method or the cache (its outputs of the
        image tower among them); naming what.
    """
    module = methods.get(method)
    name = method if isinstance(method, str) else module.__name__
    if not accepts(module):
        known = [other for other in methods.names() if accepts(other)]
        raise ValueError(
            f"method {method!r} cannot be made of weights; those that can: "
            f"{', '.join(known)}"
        )
    settings.check_outputs(name, module.NEEDS, cache.embedding.get("outputs", ()))
    path = Path(path)
    found = tensors(path, skip=getattr(module, "SKIPPED", ()))
    try:
        state = module.from_weights(found.tensors)
        method_files.check_finite(method_files.split(state)[0], "it")
        if hasattr(module, "check"):
            module.check(state)
    except ValueError as e:
        taken = f" ({'; '.join(found.notes)})" if found.notes else ""
        raise ValueError(f"{path}{taken}: {e}") from e
    _compare(module, state, cache, path)
    known_facts = getattr(module, "PUBLISHED", {}).get(found.sha256, {})
    training = {
        **UNKNOWN,
        **known_facts,
        "split": "",
        "only": [],
        "seed": 0,
        "records_sha256": "",
        "settings": {
            "weights": found.file,
            "weights_sha256": found.sha256,
            "weights_notes": list(found.notes),
        },
    }
    config = {
        "method": name,
        "embedding": settings.with_outputs(cache.embedding, module.NEEDS),
        "threshold": threshold,
        "training": training,
    }
    return FittedMethod(config, state, module)


def _compare(module: Any, state: Mapping[str, Any], cache: Any, path: Path) -> None:
    """Scores no image, by which a method refuses embeddings that it cannot take."""
    nothing = empty(cache.embed_dim, cache.embedding.get("outputs", {}))
    try:
        module.score(state, nothing)
    except ValueError as e:
        raise ValueError(
            f"{path} does not fit the embeddings of {cache.folder}, of "
            f"{cache.embedding['tower']['name']}: {e}"
        ) from e


def empty(width: int, outputs: Mapping[str, Sequence[int]]) -> Embeddings:
    """Returns the embeddings of no image.

    Args:
      width: D.
      outputs: of the image tower, name -> shape of a row.
    """
    none = np.zeros((0, width), np.float32)
    further = {name: np.zeros((0, *s), np.float16) for name, s in outputs.items()}
    offsets = np.zeros(1, np.int64)
    return Embeddings([], none, none, none, none, offsets, outputs=further)
