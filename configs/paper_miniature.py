"""The papers' tables and figures on the miniature world, in minutes on a laptop.

    item-jax paper all --config=paper_miniature --workdir paper

It shows what every experiment computes and draws. Its figures are those of a toy world
and stand for nothing else.
"""

from item_jax.datasets import miniature

FIRST = ("vae", "gan", "flow", "repaint")
SECOND = ("diffusion", "autoregressive", "masked", "latent")


def get_config():
    c = miniature.get_config(miniature.world())
    c.data.images = ""
    c.data.records = "miniature"
    # As published, 1e-4 in batches of 256, it takes 3 steps an epoch on 540 images and
    # stops early without having learnt anything: an AUC of .48 on the training images.
    c.paper.settings = ("unifd:train.learning_rate=0.03", "unifd:train.batch_size=32")
    c.paper.columns, c.paper.columns_3 = FIRST, SECOND
    c.paper.training_sets = ("vae", "gan", "diffusion")
    c.paper.robustness = ("vae",)
    c.paper.captioners = ("item_jax.datasets.miniature:prompts",)
    c.paper.towers = ()
    c.paper.tsne = ("vae", "gan", "diffusion")
    c.paper.windows, c.paper.window = ("vae", "gan", "diffusion", "latent"), 1
    return c
