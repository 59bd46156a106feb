"""The papers' tables and figures on the miniature world, in minutes on a laptop.

    item-jax paper all --config=paper_miniature --workdir paper

It shows what every experiment computes and draws. Its figures are those of a toy world
and stand for nothing else.
"""

from item_jax.datasets import miniature


def get_config():
    c = miniature.get_config(miniature.world())
    c.data.images = ""
    c.data.records = "miniature"
    names = ("vae", "gan", "flow")
    c.paper.columns = c.paper.columns_3 = c.paper.training_sets = c.paper.tsne = names
    c.paper.robustness = ("vae",)
    c.paper.towers = ()
    return c
