"""The one place that knows devices: a function of batch rows over the data mesh.

Embedding needs no communication between devices: the parameters are copied to each
of them and the rows of a batch are shared out. `ShardedFunction` does that in two
modes with equal results, `"jit"` (`jit` of `shard_map` over a mesh, the default) and
`"pmap"`. It also solves the ragged last batch once: rows are padded to one of a few
fixed sizes and cut off again, so that few programs are compiled and no caller ever
sees padding.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from item_jax.config import nearest

MODES = ("jit", "pmap")

# Batches on their way at once: one is computed, one transferred, one read back.
IN_FLIGHT = 3


def initialize() -> None:
    """Joins the processes of one run (`jax.distributed`), before any other JAX call.

    Cloud TPU pods, SLURM and Kubernetes are recognised by JAX itself; anywhere else the
    variables `JAX_COORDINATOR_ADDRESS` (host:port of process 0), `JAX_NUM_PROCESSES`
    and `JAX_PROCESS_ID` say who belongs together.

    Raises:
      ValueError: when only some of the variables are set, or nothing says who belongs
        together.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    values = [os.environ.get(name) for name in names]
    missing = [name for name, value in zip(names, values) if not value]
    if 0 < len(missing) < 3:
        raise ValueError(
            f"{', '.join(missing)} must be set too, as {names} go together"
        )
    if not missing:
        address, count, index = values
        jax.distributed.initialize(address, int(count), int(index))
    else:
        jax.distributed.initialize()


def keep_programs() -> None:
    """Keeps compiled programs on disk for the next run, where compiling takes long.

    On a GPU or TPU they go to `~/.cache/item_jax/programs` (below `$XDG_CACHE_HOME` if
    that is set), unless JAX has been told a place (`JAX_COMPILATION_CACHE_DIR`). A CPU
    compiles the towers in seconds, and its programs fit no other kind of CPU, which
    homes shared by many machines would not notice in time: there nothing is kept.
    Call it before the first computation.
    """
    if jax.config.jax_compilation_cache_dir or jax.default_backend() == "cpu":
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.path.join(home, "item_jax", "programs")
    jax.config.update("jax_compilation_cache_dir", folder)


def leads() -> bool:
    """Whether this is the process that prints and writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits until every process of the run has come here; alone, does nothing."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a one-axis mesh `("data",)` over `devices` (default: this process's)."""
    return Mesh(np.array(devices or jax.local_devices()), ("data",))


class ShardedFunction:
    """`fn(params, rows) -> rows'` with the rows spread over devices.

    Attributes:
      sizes: the row counts that are ever compiled, ascending; multiples of the number
        of devices.
    """

    def __init__(
        self,
        fn: Callable[[Any, jax.Array], jax.Array],
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
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}; {nearest(mode, MODES)}")
        mesh = data_mesh(devices)
        count = mesh.size
        full = -(-batch_size // count) * count
        sizes = {full}
        while min(sizes) > count:  # a quarter at each step: few programs, little waste
            sizes.add(-(-min(sizes) // (4 * count)) * count)
        self.sizes = sorted(sizes)
        rows = NamedSharding(mesh, PartitionSpec("data"))
        if mode == "jit":
            self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
            sharded = jax.shard_map(
                fn,
                mesh=mesh,
                in_specs=(PartitionSpec(), PartitionSpec("data")),
                out_specs=PartitionSpec("data"),
                check_vma=False,  # rows never meet; not every kernel knows the check
            )
            self._run = jax.jit(sharded)
            self._put = lambda x: jax.device_put(x, rows)
            self._get = np.asarray
        else:
            self._params = jax.tree.map(
                lambda p: jax.device_put(np.broadcast_to(p, (count, *p.shape)), rows),
                params,
            )
            self._run = jax.pmap(fn, devices=list(mesh.devices))
            self._put = lambda x: x.reshape(count, -1, *x.shape[1:])
            self._get = lambda y: np.asarray(y).reshape(-1, *y.shape[2:])

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
        return self._run(self._params, self._put(batch))

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the result of each batch in order, computing ahead.

        Args:
          batches: arrays of 1 to `batch_size` rows; other axes may differ in length
            (each new shape compiles a program).

        Yields:
          One NumPy array per batch, with as many rows.
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
        return self._get(result)[:count]
