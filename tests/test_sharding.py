import jax
import jax.numpy as jnp
import numpy as np
import pytest

from item_jax import sharding
from item_jax.sharding import ShardedFunction


def work(params, x):
    return jnp.tanh(x @ params["w"] + params["b"].reshape(1, -1))


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {
        "w": rng.normal(size=(12, 6)).astype(np.float32),
        "b": rng.normal(size=6).astype(np.float32),
    }


@pytest.mark.parametrize("count", [1, 7, 8, 9, 64, 65, 131])
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_eight_devices_equal_one(mode, count, params):
    assert len(jax.devices()) == 8
    rows = np.random.default_rng(count).normal(size=(count, 12)).astype(np.float32)
    batches = [rows[i : i + 64] for i in range(0, count, 64)]
    eight = ShardedFunction(work, params, batch_size=64, mode=mode)
    one = ShardedFunction(work, params, batch_size=64, devices=jax.devices()[:1])
    found = list(eight.stream(batches))
    assert [len(f) for f in found] == [len(b) for b in batches]
    np.testing.assert_allclose(
        np.concatenate(found), np.concatenate(list(one.stream(batches))), atol=1e-6
    )
    np.testing.assert_allclose(
        np.concatenate(found),
        np.tanh(rows @ params["w"] + params["b"][None]),
        atol=1e-5,
    )


@pytest.mark.parametrize("batch_size", [1, 8, 20, 256])
def test_few_sizes_all_fitting_the_devices(batch_size, params):
    function = ShardedFunction(work, params, batch_size=batch_size)
    assert all(size % 8 == 0 for size in function.sizes)
    assert function.batch_size >= batch_size
    assert (
        function.sizes
        == {
            1: [8],
            8: [8],
            20: [8, 24],
            256: [8, 16, 64, 256],
        }[batch_size]
    )


def test_rows_are_really_spread(params):
    function = ShardedFunction(work, params, batch_size=16)
    result, count = function._dispatch(np.ones((16, 12), np.float32))
    assert count == 16
    assert {s.device for s in result.addressable_shards} == set(jax.devices())
    assert all(s.data.shape == (2, 6) for s in result.addressable_shards)


def test_an_unknown_mode_is_named(params):
    with pytest.raises(ValueError, match="'pamp'.*Did you mean 'pmap'"):
        ShardedFunction(work, params, batch_size=8, mode="pamp")


@pytest.mark.parametrize(
    "backend, configured, expected",
    [
        ("gpu", None, "{home}/item_jax/programs"),
        ("tpu", "/elsewhere", "/elsewhere"),
        ("cpu", None, None),
    ],
)
def test_the_compilation_cache_is_for_accelerators(
    monkeypatch, tmp_path, backend, configured, expected
):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        jax.config.update("jax_compilation_cache_dir", configured)
        sharding.enable_compilation_cache()
        found = jax.config.jax_compilation_cache_dir
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found == (expected and expected.format(home=tmp_path))


def test_a_batch_has_one_of_the_sizes(params):
    run = ShardedFunction(work, params, batch_size=8, devices=jax.devices()[:2])
    assert run(np.ones((8, 12), np.float32)).shape == (8, 6)
    with pytest.raises(ValueError, match=r"batch of 5 rows is none of \[2, 8\]"):
        run(np.ones((5, 12), np.float32))
