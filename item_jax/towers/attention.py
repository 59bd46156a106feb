"""Multi-head attention of the towers: written out, or whatever a device runs faster."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from item_jax.sharding import ShardedFunction

# The reference, for every device and dtype. Other names of implementations are those
# of `jax.nn.dot_product_attention`.
WRITTEN_OUT = "written_out"

# The same, a sequence at a time, so that its weights stay in the cache of a CPU.
ONE_BY_ONE = "one_by_one"

# Bytes of one sequence's weights in float32, [H, T, T], from which that pays. On two
# cores with 1 MiB of L2 each, image tower and batch of `scripts/benchmark.py`: 13%
# faster at ViT-L/14 (4.0 MiB), equal at B/16 (1.8), 2% slower at B/32 (0.1).
LONG = 2**20

# Largest difference between the two on values of size 1, in bfloat16 (8 bits, and
# sums in another order). A wrong scale or layout is off by 1 or so.
TOLERANCE = 0.05


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool,
    implementation: Any = WRITTEN_OUT,
    row: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention, its softmax in float32.

    Args:
      q, k, v: `[B, T, H, d]` of one dtype.
      causal: whether a position sees only itself and those before it.
      implementation: `WRITTEN_OUT`, `ONE_BY_ONE`, or one of
        `jax.nn.dot_product_attention`.
      row: int32 `[B]`, the one position of each sequence that is needed. That is a
        small product, which needs no kernel: it is always written out.

    Returns:
      `[B, T, H, d]`, or `[B, 1, H, d]` with `row`.
    """
    if implementation == ONE_BY_ONE and row is None:

        def alone(sequence):
            return attend(*(x[None] for x in sequence), causal=causal)[0]

        return jax.lax.map(alone, (q, k, v))
    if implementation != WRITTEN_OUT and row is None:
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation=implementation
        )
    position = jnp.arange(k.shape[1])[None]
    if row is not None:
        position = row[:, None]
        q = jnp.take_along_axis(q, row[:, None, None, None], axis=1)
    # Heads first: both products are then over contiguous matrices.
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
    logits = jnp.einsum(
        "bhqd,bhkd->bhqk",
        q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype),
        k,
        precision=precision(q.dtype),
        preferred_element_type=jnp.float32,
    )
    if causal:
        seen = jnp.arange(k.shape[2])[None, None] <= position[:, :, None]  # [., q, k]
        logits = jnp.where(seen[:, None], logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
    h = jnp.einsum("bhqk,bhkd->bhqd", weights, v, precision=precision(q.dtype))
    return h.transpose(0, 2, 1, 3)


def precision(dtype: Any) -> jax.lax.Precision | None:
    """Returns the precision of matrix products in a dtype.

    float32 is the reference mode, so it must not fall to TF32 on a GPU or to bfloat16
    passes on a TPU, which is what the default precision does there.
    """
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


@functools.cache
def preferred(device: jax.Device, dtype: Any, shape: tuple[int, int, int]) -> str:
    """Returns the implementation of full attention to use on a device.

    On a CPU long sequences are taken one by one.

    On a GPU in bfloat16 that is cuDNN's fused kernel, which never writes the `[T, T]`
    weights to memory (T = 256, d = 64 on an RTX 4080: 0.62 against 3.99 ms, says
    github.com/AshishKumar4/dew, docs/performance.md). Whether it runs depends on card,
    driver, cuDNN and sizes, so it is tried on two sequences and its result compared;
    if it fails, a warning says why.

    Args:
      device: where the tower runs.
      dtype: of its activations.
      shape: `(T, H, d)` of queries, keys and values.
    """
    length, heads, _ = shape
    if device.platform == "cpu" and 4 * heads * length**2 >= LONG:
        return ONE_BY_ONE
    if device.platform != "gpu" or dtype != jnp.bfloat16:
        return WRITTEN_OUT
    reason = fault("cudnn", device, dtype, shape)
    if reason is None:
        return "cudnn"
    warnings.warn(
        f"fused attention is not used on {device.device_kind}, the image tower is "
        f"slower without it: {reason}",
        stacklevel=2,
    )
    return WRITTEN_OUT


def fault(
    implementation: str, device: jax.Device, dtype: Any, shape: tuple[int, int, int]
) -> str | None:
    """Tries an implementation against the written-out attention.

    Args:
      implementation: of `jax.nn.dot_product_attention`.
      device: where to run it, under `shard_map` as the towers are.
      dtype, shape: as for `preferred`.

    Returns:
      None when it works, else what is wrong.
    """
    qkv = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)

    def run(name):
        def fn(_, rows):
            q, k, v = (rows[..., i].astype(dtype) for i in range(3))
            out = attend(q, k, v, causal=False, implementation=name)
            return out.astype(jnp.float32)

        one = ShardedFunction(fn, {}, batch_size=len(qkv), devices=[device])
        return next(one.stream([qkv]))

    try:
        found = run(implementation)
    except Exception as e:  # whatever a card, a driver or a version has against it
        return f"{type(e).__name__}: {(str(e).splitlines() or [''])[0]}"
    worst = np.abs(found - run(WRITTEN_OUT)).max()
    if not worst <= TOLERANCE:  # also when it is NaN
        return f"{implementation} differs by {worst:.2g} from the reference"
    return None
