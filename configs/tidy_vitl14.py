"""TIDY, the precursor: |I - T| of raw embeddings; the rest as ITEM.

    item-jax train    --config=tidy_vitl14 --workdir RUN
    item-jax evaluate --config=tidy_vitl14 --workdir RUN

It reads the same embeddings as ITEM (`item_vitl14`, and the same advice for boxes of
GLIP). In a workdir that has a head of ITEM, fit TIDY beside it instead:
`item-jax train --config=item_vitl14 --workdir RUN --method tidy`.

The paper reports a mean of 89.71 ACC and 97.03 AP over the 16 columns of its Tables 1
and 2. Nobody has reproduced that with this code yet.
"""

from item_jax import config


def get_config():
    c = config.default()
    c.misalignment.name = "tidy"
    return c
