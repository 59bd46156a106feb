"""ITEM as in the paper: CLIP ViT-L/14, signed unit misalignment, both levels.

    item-jax embed    --config=item_vitl14 --workdir RUN
    item-jax train    --config=item_vitl14 --workdir RUN
    item-jax evaluate --config=item_vitl14 --workdir RUN

It keeps objects with a score of at least 0.3, which suits the default grounder. With
boxes of GLIP, the paper's grounder, embed with `--config.data.score_threshold=0.5`.

The paper reports a mean of 90.90 ACC and 97.05 AP over the 16 columns of its Tables I
and II (trained on 40,000 + 40,000 ProGAN images). Nobody has reproduced that with this
code yet.
"""

from item_jax import config


def get_config():
    return config.default()
