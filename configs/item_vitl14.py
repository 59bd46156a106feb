"""ITEM as in the paper: CLIP ViT-L/14, signed unit misalignment, both levels.

    item-jax embed    --config=configs/item_vitl14.py --workdir RUN
    item-jax train    --config=configs/item_vitl14.py --workdir RUN
    item-jax evaluate --config=configs/item_vitl14.py --workdir RUN

Boxes are expected from GLIP, hence its threshold. The paper reports a mean of 90.90 ACC
and 97.05 AP over the 16 columns of its Tables I and II (trained on 40,000 + 40,000
ProGAN images); nobody has reproduced that with this code yet.
"""

from item_jax import config


def get_config():
    c = config.default()
    c.data.score_threshold = 0.5
    return c
