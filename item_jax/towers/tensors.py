"""The tensors of a checkpoint: reading them strictly.

Every tensor of the files is used or on a list of known buffers, every parameter is
filled, every shape fits, every number is finite. Anything else is a `ValueError`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
from safetensors import SafetensorError, safe_open

from item_jax import files as files_lib
from item_jax import signatures
from item_jax.towers.checkpoint import Layout

# safetensors' names of the dtypes that weights may be stored in.
FLOATING = ("F64", "F32", "F16", "BF16")


def read_params(
    source: str, paths: Sequence[Path], shapes: Any, layout: Layout
) -> dict[str, Any]:
    """Fills a parameter tree from safetensors, strictly both ways.

    Args:
      source: the checkpoint, for messages.
      paths: its weight files.
      shapes: the tree of parameters, as shapes and dtypes.
      layout: where each parameter is in the files.

    Returns:
      The tree, of NumPy arrays.

    Raises:
      ValueError: for a damaged file; for tensors that are missing, extra, duplicated,
        misshapen, not floating point or not finite, with the difference.
    """
    wanted = flax.traverse_util.flatten_dict(shapes, sep="/")
    where, problems = _open_weights(paths)
    keys_of = {path: _keys(path, layout) for path in wanted}
    used = {name for names, _ in keys_of.values() for name in names}
    if other := _other_names(where, used):
        raise ValueError(
            f"the tensors of {source} have other names than {layout.name} gives them: "
            f"{other}"
        )
    params: dict[str, np.ndarray] = {}
    for path, target in wanted.items():
        names, arrange = keys_of[path]
        faults = [fault for n in names if (fault := _fault(where.get(n), n))]
        problems += faults
        if faults:
            continue
        parts = [_tensor(where[n], n, source) for n in names]
        try:
            value = arrange(*parts)
        except ValueError:  # of another rank than a weight of this kind has
            value = parts[0]
        found = " + ".join(f"{n} {list(t.shape)}" for n, t in zip(names, parts))
        if value.shape != target.shape:
            problems.append(f"misshapen {found} for our {path} {list(target.shape)}")
            continue
        value = np.ascontiguousarray(value, target.dtype).reshape(value.shape)
        if not np.isfinite(value).all():
            problems.append(f"NaN or infinite values in {found}")
        params[path] = value
    problems += [
        f"extra {name}"
        for name in sorted(set(where) - used)
        if not re.fullmatch(layout.ignored, name)
    ]
    if problems:
        shown = "\n  ".join(map(files_lib.printable, problems[:20]))
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            f"the tensors of {source} do not fit its configuration ({layout.name} "
            f"keys, {len(problems)} differences):\n  {shown}{more}"
        )
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _keys(path: str, layout: Layout) -> tuple[list[str], Callable[..., np.ndarray]]:
    """The names of a parameter's tensors, and what makes one array of them."""
    layer = re.search(r"block_(\d+)", path)
    keys, arrange = layout.keys[re.sub(r"block_\d+", "block_{i}", path)]
    return [
        key.format(i=layer and layer[1])
        for key in ((keys,) if isinstance(keys, str) else keys)
    ], arrange


def _other_names(there: Collection[str], wanted: Collection[str]) -> str:
    """Says what is wrong with all names at once, "" where most are right."""
    if sum(name in there for name in wanted) > len(wanted) / 2:
        return ""
    prefix, count = _prefix(there, wanted)
    if count > len(wanted) / 2:
        return (
            f"extra prefix {files_lib.printable(prefix)!r} on {count} of "
            f"{len(wanted)} names (a model inside another one, or a training program's "
            "own file); save its tensors without it, with "
            "safetensors.torch.save_file({k.removeprefix"
            f"({files_lib.printable(prefix)!r}): v for k, v in state.items()}}, path)"
        )
    prefix, count = _prefix(wanted, there)
    if count > len(there) / 2:
        return (
            f"the prefix {prefix!r} is missing on {count} of {len(there)} names: this "
            "is a part of the model, saved by itself"
        )
    some = ", ".join(map(files_lib.printable, sorted(there)[:3])) or "none"
    expected = ", ".join(sorted(wanted)[:3])
    return (
        f"{sum(name in there for name in wanted)} of {len(wanted)} are there; found "
        f"{len(there)}, such as {some}; expected {expected}, ..."
    )


def _prefix(longer: Collection[str], shorter: Collection[str]) -> tuple[str, int]:
    """The most frequent beginning that makes a name of the ones a name of the others.

    Returns:
      It, and of how many names; ("", 0) if there is none.
    """
    counts = Counter(
        name[:end]
        for name in longer
        for end in (match.end() for match in re.finditer(r"\.", name))
        if name[end:] in shorter
    )
    return counts.most_common(1)[0] if counts else ("", 0)


def _open_weights(paths: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """Returns the open file of each tensor, and which tensors are duplicated."""
    where: dict[str, Any] = {}
    duplicated = []
    for path in paths:
        try:
            handle = safe_open(path, framework="np")
            names = list(handle.keys())
        except (SafetensorError, OSError, ValueError) as e:
            fault = signatures.download_fault(path)
            raise ValueError(
                f"{path} is not a whole safetensors file: {fault or e}"
            ) from e
        duplicated += [f"duplicated {name}" for name in names if name in where]
        where |= dict.fromkeys(names, handle)
    return where, duplicated


def _fault(handle: Any, name: str) -> str | None:
    if handle is None:
        return f"missing {name}"
    dtype = handle.get_slice(name).get_dtype()
    if dtype not in FLOATING:
        return f"{name} is stored as {dtype}, not floating point: quantised weights"
    return None


def _tensor(handle: Any, name: str, source: str) -> np.ndarray:
    try:
        return handle.get_tensor(name)
    except (SafetensorError, TypeError, ValueError) as e:
        raise ValueError(f"{source}: cannot read tensor {name!r}: {e}") from e
