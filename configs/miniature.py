"""The miniature world of `item-jax demo`, for playing with: seconds on a laptop.

    item-jax demo --workdir item-jax-demo
    item-jax train    --config=configs/miniature.py --workdir item-jax-demo \\
        --config.misalignment.name=tidy
    item-jax evaluate --config=configs/miniature.py --workdir item-jax-demo

An argument names another workdir: `--config=configs/miniature.py:elsewhere`.
"""

from item_jax.datasets import miniature


def get_config(workdir="item-jax-demo"):
    return miniature.get_config(miniature.unpack(workdir))
