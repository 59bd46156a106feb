"""Data sets, one file each; `item_jax.datasets.dataset` is what they have in common."""
