"""Image-text misalignment: ITEM Eqs. 3-8 and TIDY Eqs. 2-6 as pure functions.

A named misalignment is a function of paired rows `f(image_emb, text_emb)`; the same
one serves the whole image with its caption (global) and every object with its phrase
(local). What the papers call D is their weighted sum; `levels` puts them side by side
instead. All of it is float32 arithmetic on cached embeddings, so an ablation re-runs no
tower.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from item_jax import choices

Misalignment = Callable[[jax.Array, jax.Array], jax.Array]

NO_OBJECTS = ("global", "zero")
LEVELS = ("sum", "concat")


def unit(x: jax.Array) -> jax.Array:
    """Divides rows `[..., D]` by their L2 norm (the bars of ITEM Eq. 3)."""
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.maximum(norm, jnp.finfo(x.dtype).tiny)


def signed_unit(image_emb, text_emb):
    """ITEM Eqs. 3, 4, 6: I/|I| - T/|T|, in [-2, 2]."""
    return unit(image_emb) - unit(text_emb)


def absolute_raw(image_emb, text_emb):
    """TIDY Eqs. 2-4: |I - T| element by element, without normalisation."""
    return jnp.abs(image_emb - text_emb)


def absolute_unit(image_emb, text_emb):
    """|I/|I| - T/|T||: TIDY's absolute value on ITEM's unit embeddings."""
    return jnp.abs(signed_unit(image_emb, text_emb))


def signed_raw(image_emb, text_emb):
    """I - T: ITEM's sign without its normalisation."""
    return image_emb - text_emb


def image_only(image_emb, text_emb):
    """I/|I|: the visual modality alone (TIDY Fig. 4)."""
    del text_emb
    return unit(image_emb)


def image_raw(image_emb, text_emb):
    """I: the visual modality alone, not normalised, as UniFD's classifier sees it."""
    del text_emb
    return image_emb


def text_only(image_emb, text_emb):
    """T/|T|: the caption alone (TIDY Fig. 4)."""
    del image_emb
    return unit(text_emb)


def concat(image_emb, text_emb):
    """[I/|I|, T/|T|], `[..., 2 D]`: both modalities, their comparison left to learn."""
    return jnp.concatenate([unit(image_emb), unit(text_emb)], axis=-1)


def cosine(image_emb, text_emb):
    """cos(I, T), `[..., 1]`: CLIP's own objective and nothing else."""
    return jnp.sum(unit(image_emb) * unit(text_emb), axis=-1, keepdims=True)


MISALIGNMENTS: dict[str, Misalignment] = {
    "item": signed_unit,
    "tidy": absolute_raw,
    "absolute_unit": absolute_unit,
    "signed_raw": signed_raw,
    "image_only": image_only,
    "image_raw": image_raw,
    "text_only": text_only,
    "concat": concat,
    "cosine": cosine,
}


def get(name: str | Misalignment) -> Misalignment:
    """Returns a misalignment.

    Args:
      name: a key of `MISALIGNMENTS`; `package.module:name`, or `package.module` whose
        function is called `misalignment`; or a function, which is returned.

    Raises:
      ValueError: for an unknown name, with the nearest one.
    """
    found = choices.resolve(
        "misalignment", name, MISALIGNMENTS, attribute="misalignment"
    )
    if not callable(found):
        raise ValueError(f"misalignment {name!r} is not a function: {found!r}")
    return found


def global_misalignment(name: str | Misalignment, image_emb, text_emb) -> jax.Array:
    """D_g (ITEM Eq. 4): `[N, D]` and `[N, D]` to `[N, D']`."""
    return get(name)(_float32(image_emb), _float32(text_emb))


def local_misalignment(
    name: str | Misalignment,
    object_emb,
    phrase_emb,
    object_offsets,
    *,
    without_objects,
) -> jax.Array:
    """D_l (ITEM Eqs. 6 and 7): the mean over each image's own objects.

    Args:
      name: a misalignment.
      object_emb, phrase_emb: `[M, D]`, the objects of all images one after another.
      object_offsets: int `[N + 1]`, ascending; image n owns rows
        `object_offsets[n]:object_offsets[n + 1]`.
      without_objects: `[N, D']`, the rows of images that own none.

    Returns:
      `[N, D']`.
    """
    each = get(name)(_float32(object_emb), _float32(phrase_emb))
    offsets = jnp.asarray(object_offsets)
    images = offsets.shape[0] - 1
    owner = jnp.searchsorted(offsets, jnp.arange(each.shape[0]), side="right") - 1
    total = jax.ops.segment_sum(each, owner, num_segments=images)
    count = jnp.diff(offsets)[:, None]
    mean = total / jnp.maximum(count, 1)
    return jnp.where(count > 0, mean, without_objects)


def compute(
    name: str | Misalignment,
    image_emb,
    text_emb,
    object_emb,
    phrase_emb,
    object_offsets,
    w1: float = 1.0,
    w2: float = 1.0,
    *,
    no_objects: str = "global",
    levels: str = "sum",
) -> jax.Array:
    """D = w1 D_g + w2 D_l (ITEM Eq. 8, TIDY Eq. 6), or [w1 D_g, w2 D_l].

    Args:
      name: what `get` takes: a key of `MISALIGNMENTS`, a module's function, or a
        function of two `[..., D]` arrays.
      image_emb, text_emb: I_0 and T_0, `[N, D]`, un-normalised.
      object_emb, phrase_emb: I_i and T_i, `[M, D]`, un-normalised.
      object_offsets: int `[N + 1]`; image n owns object rows
        `object_offsets[n]:object_offsets[n + 1]`.
      w1: weight of the global term; 0 is the papers' "only local".
      w2: weight of the local term; 0 is "only global".
      no_objects: D_l of an image without objects, which the papers leave undefined:
        "global" takes D_g (the whole image is its only object), "zero" takes 0.
      levels: "sum" is the papers' D; "concat" puts the two levels side by side, which
        leaves their combination to the head.

    Returns:
      float32 `[N, D']`; D' is D, 2 D for "concat", 1 for "cosine"; twice that with
      the levels side by side.

    Raises:
      ValueError: for an unknown name, policy or way of joining the levels, or shapes
        that do not belong together.
    """
    choices.check("misalignment.no_objects", no_objects, NO_OBJECTS)
    choices.check("misalignment.levels", levels, LEVELS)
    shapes = {
        "image_emb": jnp.shape(image_emb),
        "text_emb": jnp.shape(text_emb),
        "object_emb": jnp.shape(object_emb),
        "phrase_emb": jnp.shape(phrase_emb),
        "object_offsets": jnp.shape(object_offsets),
    }
    n, m = shapes["image_emb"][0], shapes["object_emb"][0]
    fits = (
        shapes["image_emb"] == shapes["text_emb"]
        and shapes["object_emb"] == shapes["phrase_emb"]
        and shapes["object_emb"] == (m, *shapes["image_emb"][1:])
        and shapes["object_offsets"] == (n + 1,)
    )
    if not fits:
        raise ValueError(
            "embeddings are [N, D], [N, D], [M, D], [M, D] with offsets [N + 1], found "
            + ", ".join(f"{k} {list(v)}" for k, v in shapes.items())
        )
    d_g = global_misalignment(name, image_emb, text_emb)
    fallback = d_g if no_objects == "global" else jnp.zeros_like(d_g)
    d_l = local_misalignment(
        name, object_emb, phrase_emb, object_offsets, without_objects=fallback
    )
    if levels == "concat":
        return jnp.concatenate([w1 * d_g, w2 * d_l], axis=-1)
    return w1 * d_g + w2 * d_l


def _float32(x) -> jax.Array:
    return jnp.asarray(x).astype(jnp.float32)
