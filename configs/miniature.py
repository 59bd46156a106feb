"""The miniature world of `item-jax demo`, to experiment with in seconds on a laptop.

    item-jax demo
    item-jax train    --config=miniature --workdir item-jax-demo --method tidy
    item-jax evaluate --config=miniature --workdir item-jax-demo

An argument names another workdir: `--config=miniature:elsewhere --workdir elsewhere`.
"""

from item_jax.datasets import miniature


def get_config(workdir="item-jax-demo"):
    return miniature.get_config(miniature.unpack(workdir))
