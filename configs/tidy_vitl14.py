"""TIDY, the precursor: |I - T| of raw embeddings; the rest as ITEM.

    item-jax train --config=configs/tidy_vitl14.py --workdir RUN

It reads the same embeddings as ITEM. The paper reports a mean of 89.71 ACC and 97.03
AP over the 16 columns of its Tables 1 and 2; nobody has reproduced that with this code
yet.
"""

from item_jax import config


def get_config():
    c = config.default()
    c.data.score_threshold = 0.5
    c.misalignment.name = "tidy"
    return c
