"""Attention: against the equation, against JAX's own, and the ladder of kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import item_jax
from item_jax.towers import attention, clip_vit


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
@pytest.mark.parametrize("implementation", [attention.WRITTEN_OUT, "xla"])
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


@pytest.mark.parametrize("causal", [False, True])
def test_another_implementation_is_tried_and_compared(causal):
    device = jax.devices()[0]
    shape, dtype = (7, 2, 16), jnp.bfloat16
    assert attention.fault("xla", device, shape, dtype, causal) is None
    # The real refusal of the real kernel, where there is no such GPU.
    reason = attention.fault("cudnn", device, shape, dtype, causal)
    assert "cuDNN" in reason and "\n" not in reason


def test_a_kernel_that_answers_wrongly_is_not_used(monkeypatch):
    real = jax.nn.dot_product_attention

    def forgets_the_mask(q, k, v, *, is_causal, implementation):
        return real(q, k, v, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", forgets_the_mask)
    options = (jax.devices()[0], (7, 2, 16), jnp.bfloat16)
    assert "differs by" in attention.fault("xla", *options, True)
    assert attention.fault("xla", *options, False) is None


class Gpu:
    platform, device_kind = "gpu", "a card"


SIZES = {"heads": 2, "head_dim": 16, "length": 7, "causal": True}


def test_the_ladder(monkeypatch):
    found = []

    def fault(*arguments):
        found.append(arguments)
        return {"cudnn": None}[arguments[0]]

    monkeypatch.setattr(attention, "fault", fault)
    gpu = Gpu()
    assert attention.fastest(gpu, jnp.bfloat16, **SIZES) == "cudnn"
    assert found == [("cudnn", gpu, (7, 2, 16), jnp.bfloat16, True)]
    # float32 is the reference, and other devices have no such kernel.
    assert attention.fastest(gpu, jnp.float32, **SIZES) == attention.WRITTEN_OUT
    cpu = jax.devices()[0]
    assert attention.fastest(cpu, jnp.bfloat16, **SIZES) == attention.WRITTEN_OUT


def test_a_step_down_says_why(monkeypatch):
    monkeypatch.setattr(attention, "fault", lambda *_: "no engine")
    with pytest.warns(UserWarning, match="a card.*slower.*no engine"):
        found = attention.fastest(Gpu(), jnp.bfloat16, **SIZES)
    assert found == attention.WRITTEN_OUT


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-5), ("bfloat16", 0.03)])
def test_towers_are_the_same_with_either(tiny_clip, dtype, atol):
    towers = item_jax.load_towers(tiny_clip[0], dtype)
    c = towers.config
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (3, c.image_size, c.image_size, 3), np.uint8)
    tokens = rng.integers(0, c.eos_token_id, (3, 11)).astype(np.int32)
    tokens[:, 9] = c.eos_token_id
    for encode, tower, x in (
        (clip_vit.encode_image, "vision", views),
        (clip_vit.encode_text, "text", tokens),
    ):
        options = {"config": c, "dtype": jnp.dtype(dtype)}
        params = towers.params[tower]
        ours = encode(params, x, **options)
        theirs = encode(params, x, **options, attention="xla")
        unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (ours, theirs)]
        np.testing.assert_allclose(*unit, atol=atol)
