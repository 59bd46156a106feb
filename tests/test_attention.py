"""Attention: against the equation, against JAX's own, and the ladder of kernels."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import item_jax
from item_jax.towers import attention, clip_vit, transformer
from item_jax.towers.outputs import embedded

SHAPE = (7, 2, 16)  # T, H, d


def heads(seed=0, shape=(2, 5, 3, 8)):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(3)]


def equation(q, k, v, causal):
    """softmax(q k^T / sqrt(d)) v, one head and one query at a time, in float64."""
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        seen = t + 1 if causal else k.shape[1]
        logits = k[b, :seen, h].astype(float) @ q[b, t, h] / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max())
        out[b, t, h] = weights / weights.sum() @ v[b, :seen, h]
    return out


def with_ones(v):
    """Values as a TPU's layout has them."""
    return np.concatenate([v, np.ones_like(v[..., :1])], axis=-1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("implementation", [attention.WRITTEN_OUT, "xla"])
def test_attention_is_the_equation(causal, implementation):
    q, k, v = heads()
    found = attention.attend(q, k, v, causal=causal, implementation=implementation)
    np.testing.assert_allclose(found, equation(q, k, v, causal), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("whole", [1, 2, 4, 5])
def test_a_sequence_in_pieces_is_the_equation(causal, whole, monkeypatch):
    monkeypatch.setattr(attention, "WHOLE", whole)
    q, k, v = heads()
    found = attention.attend(q, k, v, causal=causal, implementation=attention.CUT)
    np.testing.assert_allclose(found, equation(q, k, v, causal), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "implementation", [attention.WRITTEN_OUT, attention.CUT, "cudnn"]
)
def test_a_row_is_that_of_the_whole(causal, implementation):
    """With `row` no kernel is used, so that it works wherever the kernel does not."""
    q, k, v = heads()
    row = np.array([3, 1], np.int32)
    found = attention.attend(
        q, k, v, causal=causal, implementation=implementation, row=row
    )
    whole = equation(q, k, v, causal)
    np.testing.assert_allclose(found[:, 0], whole[[0, 1], row], atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("cut", [[], [1], [2, 3]])
def test_heads_first_in_pieces_is_the_equation(causal, cut):
    q, k, v = (x.transpose(0, 2, 1, 3) for x in heads())
    cut_up = [jnp.split(x, cut, axis=2) for x in (q, k, with_ones(v))]
    found = attention.attend_heads_first(*cut_up, causal=causal)
    assert [x.shape[2] for x in found] == [x.shape[2] for x in cut_up[0]]
    found = jnp.concatenate(found, axis=2).transpose(0, 2, 1, 3)
    whole = equation(*heads(), causal)
    np.testing.assert_allclose(found, whole, atol=1e-6)
    row = np.array([3, 1], np.int32)
    q = np.take_along_axis(q, row[:, None, None, None], axis=2)
    [found] = attention.attend_heads_first([q], *cut_up[1:], causal=causal, row=row)
    np.testing.assert_allclose(found[:, :, 0], whole[[0, 1], row], atol=1e-6)


def test_weights_far_apart_neither_overflow_nor_vanish():
    """Logits of 1e4 and -1e4: without the common maximum, infinity or 0 / 0."""
    q = np.full((1, 1, 2, 4), 100.0, np.float32)
    k = np.array([-100.0, 100.0, 99.99], np.float32)[:, None] * np.ones(4, np.float32)
    k = k[None, None] / 2
    v = np.arange(3, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    v = v[None, None]
    [found] = attention.attend_heads_first(
        [q], *(jnp.split(x, [1], axis=2) for x in (k, with_ones(v))), causal=False
    )
    first = [x.transpose(0, 2, 1, 3) for x in (q, k, v)]
    expected = equation(*first, False).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_first_token_stands_beside_where_that_saves_a_tile():
    lengths = {257: [1, 256], 256: [256], 197: [197], 50: [50], 577: [577], 1: [1]}
    assert {n: attention.pieces(n) for n in lengths} == lengths


def test_parts_that_stand_apart_anyway_are_not_joined():
    cls, patches = jnp.zeros((2, 1, 8)), jnp.ones((2, 256, 8))
    apart = transformer.arranged([cls, patches], attention.HEADS_FIRST)
    assert apart[0] is cls and apart[1] is patches
    [whole] = transformer.arranged([cls, patches], attention.WRITTEN_OUT)
    again = transformer.arranged([whole], attention.HEADS_FIRST)
    assert [x.shape[1] for x in again] == [1, 256]
    np.testing.assert_array_equal(again[1], patches)
    [short] = transformer.arranged([cls, patches[:, :49]], attention.HEADS_FIRST)
    assert short.shape == (2, 50, 8)


def test_one_position_is_taken_out_of_any_piece():
    x = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
    parts = jnp.split(jnp.asarray(x), [1, 4], axis=1)
    for row in range(6):
        expected = x[:, row : row + 1]
        np.testing.assert_array_equal(attention.take(parts, row), expected)
        rows = jnp.full(2, row, jnp.int32)
        np.testing.assert_array_equal(attention.take(parts, rows), expected)
    with pytest.raises(ValueError, match="no position 6: the pieces have 6"):
        attention.take(parts, 6)


class Blocks(nn.Module):
    """Two blocks with the whole of `transformer.pooled_blocks`."""

    causal: bool
    attention: str

    @nn.compact
    def __call__(self, x, row):
        config = transformer.TransformerConfig(32, 2, 2, 64, "gelu", 1e-5)
        return transformer.pooled_blocks(
            transformer.arranged([x], self.attention),
            row,
            config,
            causal=self.causal,
            dtype=jnp.float32,
            attention=self.attention,
        )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [9, 129])
@pytest.mark.parametrize("same", [False, True])
def test_blocks_heads_first_are_the_blocks(causal, length, same):
    """The same parameters, the same numbers; 129 positions are 1 and 128."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, length, 32)).astype(np.float32)
    row = 0 if same else np.array([0, length - 2], np.int32)
    written_out = Blocks(causal, attention.WRITTEN_OUT)
    heads_first = Blocks(causal, attention.HEADS_FIRST)
    shapes, others = (
        jax.eval_shape(functools.partial(blocks.init, row=row), jax.random.key(0), x)
        for blocks in (written_out, heads_first)
    )
    assert shapes == others
    params = jax.tree.map(
        lambda p: 0.2 * rng.normal(size=p.shape).astype(np.float32), shapes
    )
    found, expected = (
        jax.jit(functools.partial(blocks.apply, row=row))(params, x)
        for blocks in (heads_first, written_out)
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_another_implementation_is_tried_and_compared():
    device = jax.devices()[0]
    assert attention.fault("xla", device, jnp.bfloat16, SHAPE) is None
    # The real refusal of the real kernel: this device is no GPU.
    reason = attention.fault("cudnn", device, jnp.bfloat16, SHAPE)
    assert reason and "\n" not in reason


def test_a_kernel_that_answers_wrongly_is_not_used(monkeypatch):
    real = jax.nn.dot_product_attention

    def forgets_the_scale(q, k, v, **options):
        return real(q, k, v, scale=1.0, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", forgets_the_scale)
    reason = attention.fault("xla", jax.devices()[0], jnp.bfloat16, SHAPE)
    assert "differs by" in reason


@pytest.mark.parametrize("unit", [False, True])
def test_products_reach_the_matrix_unit_of_a_cpu(monkeypatch, unit):
    """They come out in float32, and are the product rounded once, in any case."""
    monkeypatch.setattr(attention, "cpu_has_matrix_unit", lambda: unit)
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((6, 64), (64, 8)))
    dims = (((1,), (0,)), ((), ()))
    lowered = jax.jit(lambda x, y: attention.product(x, y, dims)).lower(x, y)
    assert ("-> tensor<6x8xf32>" in lowered.as_text()) == unit
    found = lowered.compile()(x, y)
    assert found.dtype == jnp.bfloat16
    exact = np.asarray(x, float) @ np.asarray(y, float)
    np.testing.assert_allclose(np.asarray(found, float), exact, rtol=2**-8, atol=1e-5)
    # The reference mode is left alone.
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    np.testing.assert_allclose(attention.product(x, y, dims), exact, rtol=1e-5)


class Gpu:
    platform, device_kind = "gpu", "a card"


class Tpu:
    platform, device_kind = "tpu", "a chip"


def test_the_ladder(monkeypatch):
    found = []

    def fault(*arguments):
        found.append(arguments)

    monkeypatch.setattr(attention, "fault", fault)
    gpu = Gpu()
    assert attention.preferred(gpu, jnp.bfloat16, SHAPE) == "cudnn"
    assert found == [("cudnn", gpu, jnp.bfloat16, SHAPE)]
    texts = attention.preferred(gpu, jnp.bfloat16, SHAPE, fused=False)
    assert texts == attention.WRITTEN_OUT
    for dtype in (jnp.bfloat16, jnp.float32):
        assert attention.preferred(Tpu(), dtype, SHAPE) == attention.HEADS_FIRST
    # float32 is the reference, and other devices have no such kernel.
    assert attention.preferred(gpu, jnp.float32, SHAPE) == attention.WRITTEN_OUT
    cpu = jax.devices()[0]
    assert attention.preferred(cpu, jnp.bfloat16, SHAPE) == attention.WRITTEN_OUT
    long = (257, 16, 64)  # ViT-L/14
    assert attention.preferred(cpu, jnp.float32, long) == attention.CUT


def test_a_step_down_says_why(monkeypatch):
    monkeypatch.setattr(attention, "fault", lambda *_: "no engine")
    with pytest.warns(UserWarning, match="a card.*slower.*no engine"):
        found = attention.preferred(Gpu(), jnp.bfloat16, SHAPE)
    assert found == attention.WRITTEN_OUT


@pytest.mark.parametrize(
    "implementation", ["xla", attention.HEADS_FIRST, attention.CUT]
)
@pytest.mark.parametrize("dtype, atol", [("float32", 1e-6), ("bfloat16", 0.03)])
def test_the_image_tower_is_the_same_with_any(
    tiny_clip, implementation, dtype, atol, monkeypatch
):
    monkeypatch.setattr(attention, "WHOLE", 2)  # or its few positions are one piece
    towers = item_jax.load_towers(tiny_clip[0], dtype)
    c = towers.config
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (3, c.image_size, c.image_size, 3), np.uint8)
    both = (
        embedded(
            clip_vit.VisionTower(c, jnp.dtype(dtype), name),
            towers.params["vision"],
            views,
        )
        for name in (attention.WRITTEN_OUT, implementation)
    )
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in both]
    np.testing.assert_allclose(*unit, atol=atol)


def test_the_text_tower_is_the_same_heads_first(tiny_clip):
    towers = item_jax.load_towers(tiny_clip[0])
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 100, (3, 16), np.int32)
    tokens[range(3), [15, 4, 9]] = towers.config.eos_token_id
    both = (
        embedded(
            clip_vit.TextTower(towers.config, jnp.float32, name),
            towers.params["text"],
            tokens,
        )
        for name in (attention.WRITTEN_OUT, attention.HEADS_FIRST)
    )
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in both]
    np.testing.assert_allclose(*unit, atol=1e-6)
