"""A package of somebody else's: one of each thing that item_jax can be extended by."""
