import jax
import jax.numpy as jnp
import numpy as np
import pytest

from item_jax import misalignment


def reference(name, image, text, objects, phrases, offsets, w1, w2, no_objects, levels):
    """ITEM Eqs. 3-8 and TIDY Eqs. 2-6, one image at a time, in float64."""

    def unit(v):
        return v / np.sqrt((v * v).sum())

    def distance(i, t):
        return {
            "item": lambda: unit(i) - unit(t),
            "tidy": lambda: abs(i - t),
            "absolute_unit": lambda: abs(unit(i) - unit(t)),
            "signed_raw": lambda: i - t,
            "image_only": lambda: unit(i),
            "image_raw": lambda: i,
            "text_only": lambda: unit(t),
            "concat": lambda: np.concatenate([unit(i), unit(t)]),
            "cosine": lambda: np.array([unit(i) @ unit(t)]),
        }[name]()

    out = []
    for n in range(len(image)):
        d_g = distance(image[n], text[n])
        own = range(offsets[n], offsets[n + 1])
        if own:
            d_l = sum(distance(objects[m], phrases[m]) for m in own) / len(own)
        else:
            d_l = d_g if no_objects == "global" else 0 * d_g
        both = w1 * d_g, w2 * d_l
        out.append(np.concatenate(both) if levels == "concat" else sum(both))
    return np.array(out)


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    counts = [3, 0, 1, 5, 0]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    draw = lambda n: rng.normal(size=(n, 16)).astype(np.float32) * 7  # noqa: E731
    return draw(5), draw(5), draw(9), draw(9), offsets


@pytest.mark.parametrize("levels", misalignment.LEVELS)
@pytest.mark.parametrize("no_objects", misalignment.NO_OBJECTS)
@pytest.mark.parametrize("w1, w2", [(1, 1), (1, 0), (0, 1), (0.3, 1.7)])
@pytest.mark.parametrize("name", misalignment.MISALIGNMENTS)
def test_equals_the_equations(name, w1, w2, no_objects, levels, embeddings):
    policies = dict(no_objects=no_objects, levels=levels)
    d = misalignment.compute(name, *embeddings, w1, w2, **policies)
    wide = [np.asarray(x, np.float64) for x in embeddings[:4]] + [embeddings[4]]
    expected = reference(name, *wide, w1, w2, **policies)
    assert d.dtype == jnp.float32 and d.shape == expected.shape
    np.testing.assert_allclose(d, expected, rtol=1e-5, atol=1e-5)


def test_by_hand():
    image = np.array([[3.0, 4.0]])  # unit (0.6, 0.8)
    text = np.array([[0.0, 2.0]])  # unit (0, 1)
    objects = np.array([[5.0, 0.0], [0.0, 1.0]])  # unit (1, 0), (0, 1)
    phrases = np.array([[0.0, 3.0], [0.0, 9.0]])  # unit (0, 1), (0, 1)
    arrays = image, text, objects, phrases, np.array([0, 2])
    # D_g = (0.6, -0.2); D_l = ((1, -1) + (0, 0)) / 2 = (0.5, -0.5)
    np.testing.assert_allclose(
        misalignment.compute("item", *arrays), [[1.1, -0.7]], atol=1e-6
    )
    # TIDY: D_g = (3, 2); D_l = ((5, 3) + (0, 8)) / 2 = (2.5, 5.5)
    np.testing.assert_allclose(
        misalignment.compute("tidy", *arrays), [[5.5, 7.5]], atol=1e-6
    )
    np.testing.assert_allclose(
        misalignment.compute("item", *arrays, 0.0, 1.0), [[0.5, -0.5]], atol=1e-6
    )
    np.testing.assert_allclose(
        misalignment.compute("item", *arrays, levels="concat"),
        [[0.6, -0.2, 0.5, -0.5]],
        atol=1e-6,
    )


def test_no_images_and_no_objects(embeddings):
    image, text, *_ = embeddings
    none = np.zeros((0, 16), np.float32)
    d = misalignment.compute("item", image, text, none, none, np.zeros(6, int))
    np.testing.assert_allclose(
        d, 2 * misalignment.global_misalignment("item", image, text), rtol=1e-6
    )
    empty = misalignment.compute("item", none, none, none, none, np.zeros(1, int))
    assert empty.shape == (0, 16)


def test_own_function(embeddings):
    d = misalignment.compute(lambda i, t: i * t, *embeddings, 1.0, 0.0)
    np.testing.assert_allclose(d, embeddings[0] * embeddings[1], rtol=1e-6)


def test_under_jit_and_from_half_precision(embeddings):
    jitted = jax.jit(misalignment.compute, static_argnums=0)
    expected = misalignment.compute("item", *embeddings)
    np.testing.assert_allclose(jitted("item", *embeddings), expected, atol=1e-6)
    half = [x.astype(np.float16) for x in embeddings[:4]]
    d = misalignment.compute("item", *half, embeddings[4])
    assert d.dtype == jnp.float32
    np.testing.assert_allclose(d, expected, atol=2e-3)


def test_many_rows_under_jit():
    # jaxlib 0.10.2 was reported to return wrong numbers on CPUs for a product followed
    # by a sum of squares above 32,768 rows (jax issue 39103): project, then normalise.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 64)).astype(np.float32)
    w = rng.normal(size=(64, 32)).astype(np.float32)
    found = np.asarray(jax.jit(lambda x, w: misalignment.unit(x @ w))(x, w))
    y = x.astype(np.float64) @ w
    np.testing.assert_allclose(
        found, y / np.linalg.norm(y, axis=1, keepdims=True), atol=2e-6
    )


def test_a_zero_embedding_stays_finite():
    zero, one = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    d = misalignment.compute("item", zero, one, zero, one, np.array([0, 1]))
    assert np.isfinite(d).all()


def test_designed_errors(embeddings):
    with pytest.raises(ValueError, match="'itme'.*Did you mean 'item'"):
        misalignment.compute("itme", *embeddings)
    with pytest.raises(ValueError, match="misalignment.levels 'cat'.*mean 'concat'"):
        misalignment.compute("item", *embeddings, levels="cat")
    with pytest.raises(ValueError, match="'globl'.*Did you mean 'global'"):
        misalignment.compute("item", *embeddings, no_objects="globl")
    image, text, objects, phrases, offsets = embeddings
    with pytest.raises(ValueError, match=r"object_offsets \[5\]"):
        misalignment.compute("item", image, text, objects, phrases, offsets[:-1])
    with pytest.raises(ValueError, match=r"phrase_emb \[8, 16\]"):
        misalignment.compute("item", image, text, objects, phrases[:8], offsets)
