"""A misalignment: the squared difference of the unit embeddings."""

from item_jax.misalignment import unit


def misalignment(image_emb, text_emb):
    return (unit(image_emb) - unit(text_emb)) ** 2
