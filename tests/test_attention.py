"""Attention: against the equation, against JAX's own, and the ladder of kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import item_jax
from item_jax.towers import attention, clip_vit

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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "implementation", [attention.WRITTEN_OUT, attention.ONE_BY_ONE, "xla"]
)
def test_attention_is_the_equation(causal, implementation):
    q, k, v = heads()
    found = attention.attend(q, k, v, causal=causal, implementation=implementation)
    np.testing.assert_allclose(found, equation(q, k, v, causal), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("implementation", [attention.WRITTEN_OUT, "cudnn"])
def test_a_row_is_that_of_the_whole(causal, implementation):
    """With `row` no kernel is used, so that it works wherever the kernel does not."""
    q, k, v = heads()
    row = np.array([3, 1], np.int32)
    found = attention.attend(
        q, k, v, causal=causal, implementation=implementation, row=row
    )
    whole = equation(q, k, v, causal)
    np.testing.assert_allclose(found[:, 0], whole[[0, 1], row], atol=1e-6)


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


class Gpu:
    platform, device_kind = "gpu", "a card"


def test_the_ladder(monkeypatch):
    found = []

    def fault(*arguments):
        found.append(arguments)

    monkeypatch.setattr(attention, "fault", fault)
    gpu = Gpu()
    assert attention.preferred(gpu, jnp.bfloat16, SHAPE) == "cudnn"
    assert found == [("cudnn", gpu, jnp.bfloat16, SHAPE)]
    # float32 is the reference, and other devices have no such kernel.
    assert attention.preferred(gpu, jnp.float32, SHAPE) == attention.WRITTEN_OUT
    cpu = jax.devices()[0]
    assert attention.preferred(cpu, jnp.bfloat16, SHAPE) == attention.WRITTEN_OUT
    long = (257, 16, 64)  # ViT-L/14
    assert attention.preferred(cpu, jnp.float32, long) == attention.ONE_BY_ONE


def test_a_step_down_says_why(monkeypatch):
    monkeypatch.setattr(attention, "fault", lambda *_: "no engine")
    with pytest.warns(UserWarning, match="a card.*slower.*no engine"):
        found = attention.preferred(Gpu(), jnp.bfloat16, SHAPE)
    assert found == attention.WRITTEN_OUT


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-5), ("bfloat16", 0.03)])
def test_the_image_tower_is_the_same_with_either(tiny_clip, dtype, atol):
    towers = item_jax.load_towers(tiny_clip[0], dtype)
    c = towers.config
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (3, c.image_size, c.image_size, 3), np.uint8)
    options = {"config": c, "dtype": jnp.dtype(dtype)}
    params = towers.params["vision"]
    ours = clip_vit.encode_image(params, views, **options)
    theirs = clip_vit.encode_image(params, views, **options, attention="xla")
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (ours, theirs)]
    np.testing.assert_allclose(*unit, atol=atol)
