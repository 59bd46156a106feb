"""Multi-head attention of the towers: written out, or whatever a device runs faster."""

from __future__ import annotations

import functools
import itertools
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from item_jax.sharding import ShardedFunction

# The reference, for every device and dtype. Other names of implementations are those
# of `jax.nn.dot_product_attention`.
WRITTEN_OUT = "written_out"

# The same over pieces of sequences, for a CPU: one attention over at most so many
# positions is a single pass of XLA's library there, over more it takes three times as
# long. 8 sequences of 257 positions, 16 heads of 64, on two cores of a Xeon: 65 ms
# whole, 34 a sequence at a time, 22 cut in two.
CUT = "cut"
WHOLE = 256

# For a TPU: queries, keys and values come out of the projections heads first (see
# `transformer.HeadsFirst`), the values with one more column, of ones: the sums of the
# weights then come out of the product with the values.
HEADS_FIRST = "heads_first"

# A TPU pads the last axis of every array to so many, so that 257 positions cost as much
# as 384: one too many stands beside the others.
LANES = 128

# The one position of each sequence that is needed: int32 `[B]`, or the same in all.
Row = jax.Array | int

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
    row: Row | None = None,
) -> jax.Array:
    """Softmax attention, its softmax in float32.

    Args:
      q, k, v: `[B, T, H, d]` of one dtype.
      causal: whether a position sees only itself and those before it.
      implementation: `WRITTEN_OUT`, `CUT`, or one of
        `jax.nn.dot_product_attention`; `HEADS_FIRST` is `attend_heads_first`.
      row: the one position that is needed. That is a small product, which needs no
        kernel: it is always written out.

    Returns:
      `[B, T, H, d]`, or `[B, 1, H, d]` with `row`.
    """
    count = 1
    if row is not None:
        q = take([q], row)
    elif implementation == CUT:
        count = -(-q.shape[1] // WHOLE)
    elif implementation != WRITTEN_OUT:
        return jax.nn.dot_product_attention(
            q, k, v, is_causal=causal, implementation=implementation
        )
    # Heads first: both products are then over contiguous matrices.
    qs, ks, vs = (
        jnp.array_split(x.transpose(0, 2, 1, 3), count, axis=2) for x in (q, k, v)
    )
    h = _attend_pieces(qs, ks, vs, causal, row)
    return jnp.concatenate(h, axis=2).transpose(0, 2, 1, 3)


def attend_heads_first(
    q: Sequence[jax.Array],
    k: Sequence[jax.Array],
    v: Sequence[jax.Array],
    *,
    causal: bool,
    row: Row | None = None,
) -> list[jax.Array]:
    """The same attention in a TPU's layout, over sequences that are cut into pieces.

    Args:
      q, k: pieces `[B, H, T_i, d]` of one dtype, consecutive positions. With `row` the
        queries are of those positions alone, one piece `[B, H, 1, d]`.
      v: pieces `[B, H, T_i, d + 1]`, the last column ones.
      causal, row: as for `attend`.

    Returns:
      The pieces of the queries, `[B, H, T_i, d]`.
    """
    return _attend_pieces(q, k, v, causal, row, with_ones=True)


def _attend_pieces(
    q: Sequence[jax.Array],
    k: Sequence[jax.Array],
    v: Sequence[jax.Array],
    causal: bool,
    row: Row | None,
    with_ones: bool = False,
) -> list[jax.Array]:
    if row is not None:
        positions = [_position(row)]
    else:
        starts = itertools.accumulate((x.shape[2] for x in q), initial=0)
        positions = [jnp.arange(x.shape[2])[None] + i for x, i in zip(q, starts)]
    return [
        _attend_rows(x, k, v, position if causal else None, with_ones)
        for x, position in zip(q, positions)
    ]


def _attend_rows(
    q: jax.Array,
    k: Sequence[jax.Array],
    v: Sequence[jax.Array],
    position: jax.Array | None,
    with_ones: bool,
) -> jax.Array:
    """Returns softmax(q k^T / sqrt(d)) v, divided by the sum of the weights last.

    Args:
      q: `[B, H, Q, d]`.
      k: pieces `[B, H, T_i, d]`.
      v: the same, or `[B, H, T_i, d + 1]`.
      position: int32 `[1 or B, Q]` of each query, which sees itself and what is before
        it; None: each sees all.
      with_ones: whether the values have a last column of ones, which gives the sums.

    Returns:
      `[B, H, Q, d]`.
    """
    exact = precision(q.dtype)
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    logits, start = [], 0
    for piece in k:
        product = jnp.einsum(
            "bhqd,bhkd->bhqk",
            q,
            piece,
            precision=exact,
            preferred_element_type=jnp.float32,
        )
        if position is not None:
            at = start + jnp.arange(piece.shape[2])
            seen = at[None, None] <= position[:, :, None]  # [., Q, T_i]
            product = jnp.where(seen[:, None], product, jnp.finfo(jnp.float32).min)
        logits.append(product)
        start += piece.shape[2]
    largest = functools.reduce(
        jnp.maximum, (x.max(axis=-1, keepdims=True) for x in logits)
    )
    h = total = jnp.float32(0)
    for product, piece in zip(logits, v):
        weights = jnp.exp(product - largest)
        if not with_ones:
            total += weights.sum(axis=-1, keepdims=True)
        h += jnp.einsum(
            "bhqk,bhkd->bhqd",
            weights.astype(piece.dtype),
            piece,
            precision=exact,
            preferred_element_type=jnp.float32,
        )
    if with_ones:
        h, total = h[..., :-1], h[..., -1:]
    return (h / total).astype(q.dtype)


def take(parts: Sequence[jax.Array], row: Row) -> jax.Array:
    """Returns one position of sequences: `[B, T_i, ...]`, in turn, to `[B, 1, ...]`."""
    if not isinstance(row, int):
        whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)
        return jnp.take_along_axis(
            whole, row.reshape(-1, *[1] * (whole.ndim - 1)), axis=1
        )
    start = 0
    for part in parts:
        if row < start + part.shape[1]:
            return part[:, row - start : row - start + 1]
        start += part.shape[1]
    raise ValueError(f"no position {row}: the pieces have {start}")


def _position(row: Row) -> jax.Array:
    """Returns int32 `[B or 1, 1]`."""
    return jnp.full((1, 1), row) if isinstance(row, int) else row[:, None]


def pieces(length: int) -> list[int]:
    """Returns the lengths of the pieces to cut a sequence into for `HEADS_FIRST`."""
    return [1, length - 1] if length > LANES and length % LANES == 1 else [length]


def precision(dtype: Any) -> jax.lax.Precision | None:
    """Returns the precision of matrix products in a dtype.

    float32 is the reference mode, so it must not fall to TF32 on a GPU or to bfloat16
    passes on a TPU, which is what the default precision does there.
    """
    return jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None


@functools.cache
def cpu_has_matrix_unit() -> bool:
    """Whether this machine's CPU multiplies bfloat16 by itself (Intel's AMX)."""
    try:
        return "amx_bf16" in pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def product(x: jax.Array, y: jax.Array, dimension_numbers: Any, precision=None):
    """`jax.lax.dot_general` of one dtype, as the device does it best.

    XLA reaches the matrix unit of a CPU with AMX in products that come out in float32
    alone: on a Xeon 1.0 to 1.45 TFLOP/s with the cast back to bfloat16, against 0.27
    where they come out in bfloat16. On a CPU without it that gains nothing.
    """

    def plain(x, y):
        return jax.lax.dot_general(x, y, dimension_numbers, precision=precision)

    def wide(x, y):
        out = jax.lax.dot_general(
            x, y, dimension_numbers, preferred_element_type=jnp.float32
        )
        return out.astype(x.dtype)

    if x.dtype != jnp.bfloat16 or not cpu_has_matrix_unit():
        return plain(x, y)
    return jax.lax.platform_dependent(x, y, cpu=wide, default=plain)


@functools.cache
def preferred(
    device: jax.Device,
    dtype: Any,
    shape: tuple[int, int, int],
    *,
    fused: bool = True,
) -> str:
    """Returns the implementation of attention to use on a device.

    On a TPU that is `HEADS_FIRST`; on a CPU long sequences are cut.

    On a GPU in bfloat16 that is cuDNN's fused kernel, which never writes the `[T, T]`
    weights to memory (T = 256, d = 64 on an RTX 4080: 0.62 against 3.99 ms, says
    github.com/AshishKumar4/dew, docs/performance.md). Whether it runs depends on card,
    driver, cuDNN and sizes, so it is tried on two sequences and its result compared;
    if it fails, a warning says why.

    Args:
      device: where the tower runs.
      dtype: of its activations.
      shape: `(T, H, d)` of queries, keys and values.
      fused: whether a fused kernel may be used; it does not pay for short texts.
    """
    if device.platform == "tpu":
        return HEADS_FIRST
    if device.platform == "cpu" and shape[0] > WHOLE:
        return CUT
    if device.platform != "gpu" or dtype != jnp.bfloat16 or not fused:
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
