"""Programs as ONNX, by `jax2onnx`, and their results by ONNX Runtime.

`pip install 'item-jax[export]'`. Nothing here knows what the programs compute.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from item_jax import files, installed

LARGEST = 2**31
"""Bytes of one ONNX file, the limit of its format (Protocol Buffers)."""


def check_installed(onnx: bool) -> None:
    """Makes sure that programs can be written, before anything is computed.

    Args:
      onnx: whether ONNX is wanted; `jax.export` needs flatbuffers alone.

    Raises:
      ValueError: naming the packages that are missing.
    """
    needed = ("flatbuffers", *(("jax2onnx", "onnx", "onnxruntime") if onnx else ()))
    missing = installed.missing(needed)
    if missing:
        raise ValueError(
            f"{', '.join(missing)} missing: pip install 'item-jax[export]'"
        )


def write(
    path: Path,
    fn: Callable[..., jax.Array],
    params: Mapping[str, np.ndarray],
    inputs: Mapping[str, tuple[tuple[str | int, ...], Any]],
) -> None:
    """Writes a function with its weights inside.

    Args:
      path: of the file.
      fn: `fn(params, *inputs)`.
      params: its weights.
      inputs: name -> (shape, dtype); a letter in a shape stands for any number. The
        names become those of the model's inputs.

    Raises:
      ValueError: for weights of more than 2 GB.
    """
    size = sum(value.nbytes for value in params.values())
    if size >= LARGEST:
        raise ValueError(
            f"{path.name}: weights of {size / 1e9:.1f} GB; an ONNX file holds 2"
        )
    with _quiet():
        from jax2onnx import to_onnx

        constants = {name: jax.numpy.asarray(value) for name, value in params.items()}
        model = to_onnx(
            lambda *arrays: fn(constants, *arrays),
            [
                jax.ShapeDtypeStruct(
                    tuple(n.upper() if isinstance(n, str) else n for n in shape), dtype
                )
                for shape, dtype in inputs.values()
            ],
            model_name=path.stem,
            input_names=list(inputs),
        )
    with files.atomic_file(path, binary=True) as f:
        f.write(model.SerializeToString())


def run(path: Path, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the first output of a file, computed by ONNX Runtime on the CPU.

    Args:
      path: of the file.
      arrays: its inputs in order.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays)))[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the converter's remarks on shapes and dtypes off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
