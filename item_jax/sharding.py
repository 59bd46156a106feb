"""The one place that knows devices: a function of batch rows over the data mesh.

Embedding needs no communication between devices: each gets a copy of the parameters
and its share of a batch's rows. `ShardedFunction` does that in two modes with equal
results, `"jit"` (`jit` of `shard_map` over a mesh, the default) and `"pmap"`. It also
pads the last, ragged batch: to one of a few fixed sizes, cut off again afterwards, so
that few programs are compiled and no caller sees padding.
"""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from item_jax import choices

MODES = ("jit", "pmap")

# `fn(params, rows) -> rows'`; row i of the result depends on row i alone.
RowFunction = Callable[[Any, jax.Array], jax.Array]

# Batches on their way at once: one is computed, one transferred, one read back.
IN_FLIGHT = 3


def initialize() -> None:
    """Joins the processes of one run (`jax.distributed`), before any other JAX call.

    JAX recognises Cloud TPU pods, SLURM and Kubernetes by itself. Anywhere else the
    variables `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES`
    and `JAX_PROCESS_ID` describe the run.

    Raises:
      ValueError: if only some of the variables are set, or if nothing describes the
        run.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, index = (os.environ.get(name, "") for name in names)
    missing = [name for name in names if not os.environ.get(name)]
    if 0 < len(missing) < 3:
        raise ValueError(
            f"{', '.join(missing)} must be set too, as {names} go together"
        )
    if not missing:
        for name in names[1:]:
            if not os.environ[name].isdecimal():
                raise ValueError(f"{name} is {os.environ[name]!r}; expected a number")
        jax.distributed.initialize(address, int(count), int(index))
    else:
        jax.distributed.initialize()


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk for the next run, where compiling takes long.

    On a GPU or TPU they go to `~/.cache/item_jax/programs` (below `$XDG_CACHE_HOME` if
    that is set), unless JAX was given a folder (`JAX_COMPILATION_CACHE_DIR`). Nothing
    is kept on a CPU: it compiles the towers in seconds, and a program made for one
    kind of CPU may crash another that shares the home folder. Call this before the
    first computation.
    """
    config: Any = jax.config  # its options are attributes that type checkers miss
    if config.jax_compilation_cache_dir or jax.default_backend() == "cpu":
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "item_jax", "programs")
    config.update("jax_compilation_cache_dir", folder)


def is_main_process() -> bool:
    """Whether this process is the one that prints, and writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process of the run has called it; alone, does nothing.

    Args:
      name: of this point of the program, the same in every process.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a one-axis mesh `("data",)` over `devices` (default: this process's)."""
    return Mesh(np.array(devices or jax.local_devices()), ("data",))


def _row_counts(batch_size: int, devices: int) -> list[int]:
    """Returns the row counts to compile, ascending: a full batch, a quarter of it, a
    quarter of that, and so on down to one row per device.

    Each is a multiple of the devices. Quarters are a compromise: few programs to
    compile, and a small last batch is not padded to a full one.
    """

    def multiple(rows: float) -> int:
        return devices * math.ceil(rows / devices)

    counts = [multiple(batch_size)]
    while counts[0] > devices:
        counts.insert(0, multiple(counts[0] / 4))
    return counts


class _Jit:
    """`jit` of `shard_map`: rows stay one array, sharded over the mesh."""

    def __init__(self, fn: RowFunction, params: Any, mesh: Mesh):
        everywhere, by_rows = PartitionSpec(), PartitionSpec("data")
        self._rows = NamedSharding(mesh, by_rows)
        self._params = jax.device_put(params, NamedSharding(mesh, everywhere))
        sharded = jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=(everywhere, by_rows),
            out_specs=by_rows,
            # Rows never meet, so there is nothing to check, and not every attention
            # kernel supports the check.
            check_vma=False,
        )
        self._compiled = jax.jit(sharded)

    def put(self, batch: np.ndarray | jax.Array) -> jax.Array:
        return jax.device_put(batch, self._rows)

    def run(self, rows: Any) -> jax.Array:
        return self._compiled(self._params, rows)

    def get(self, result: jax.Array) -> np.ndarray:
        return np.asarray(result)


class _Pmap:
    """`pmap`: parameters and rows have a leading axis of devices."""

    def __init__(self, fn: RowFunction, params: Any, mesh: Mesh):
        self._devices = mesh.size
        per_device = NamedSharding(mesh, PartitionSpec("data"))
        self._params = jax.tree.map(
            lambda p: jax.device_put(
                np.broadcast_to(p, (mesh.size, *p.shape)), per_device
            ),
            params,
        )
        self._compiled = jax.pmap(fn, devices=list(mesh.devices))

    def put(self, batch: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
        return batch.reshape(self._devices, -1, *batch.shape[1:])

    def run(self, rows: Any) -> jax.Array:
        return self._compiled(self._params, rows)

    def get(self, result: jax.Array) -> np.ndarray:
        return np.asarray(result).reshape(-1, *result.shape[2:])


_Mode = _Jit | _Pmap


class ShardedFunction:
    """`fn(params, rows) -> rows'` with the rows spread over devices.

    Attributes:
      sizes: the row counts that are ever compiled, ascending; multiples of the number
        of devices.
    """

    def __init__(
        self,
        fn: RowFunction,
        params: Any,
        *,
        batch_size: int,
        mode: str = "jit",
        devices: Sequence[jax.Device] | None = None,
    ):
        """Copies `params` to the devices.

        Args:
          fn: pure; row i of its result depends on row i of its argument alone.
          params: a tree of arrays.
          batch_size: rows of a full batch, rounded up to a multiple of the devices.
          mode: "jit" or "pmap".
          devices: default `jax.local_devices()`.

        Raises:
          ValueError: for an unknown mode.
        """
        choices.check("mode", mode, MODES)
        mesh = data_mesh(devices)
        self.sizes = _row_counts(batch_size, mesh.size)
        self._mode: _Mode = (
            _Jit(fn, params, mesh) if mode == "jit" else _Pmap(fn, params, mesh)
        )

    @property
    def batch_size(self) -> int:
        """Rows of a full batch."""
        return self.sizes[-1]

    def __call__(self, batch: np.ndarray | jax.Array) -> jax.Array:
        """Maps one batch, asynchronously; the result stays on the devices.

        Args:
          batch: one of `sizes` rows.

        Returns:
          As many rows, in mode "pmap" as `[devices, rows per device, ...]`.

        Raises:
          ValueError: for another number of rows.
        """
        if len(batch) not in self.sizes:
            raise ValueError(f"a batch of {len(batch)} rows is none of {self.sizes}")
        return self._mode.run(self._mode.put(batch))

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the result of each batch in order, computing ahead.

        Args:
          batches: arrays of 1 to `batch_size` rows; other axes may differ in length
            (each new shape compiles a program).

        Yields:
          One NumPy array per batch, with as many rows as the batch.
        """
        flying: collections.deque[tuple[jax.Array, int]] = collections.deque()
        for batch in batches:
            flying.append(self._dispatch(batch))
            if len(flying) >= IN_FLIGHT:
                yield self._collect(*flying.popleft())
        while flying:
            yield self._collect(*flying.popleft())

    def _dispatch(self, batch: np.ndarray) -> tuple[jax.Array, int]:
        count = len(batch)
        size = next(s for s in self.sizes if s >= count)
        if size > count:
            # Padding repeats a real row: zeros could become NaN where rows are
            # normalised, and NaNs are what strict runs look for.
            padding = np.broadcast_to(batch[:1], (size - count, *batch.shape[1:]))
            batch = np.concatenate([batch, padding])
        result = self(batch)
        if hasattr(result, "copy_to_host_async"):
            result.copy_to_host_async()
        return result, count

    def _collect(self, result: jax.Array, count: int) -> np.ndarray:
        return self._mode.get(result)[:count]
