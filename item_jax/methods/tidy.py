"""TIDY, the precursor: ITEM's head on |I - T| of raw embeddings (TIDY Eqs. 2-6)."""

from item_jax.methods.item import NEEDS, SETTINGS, check, fit, fit_seeds, score

__all__ = ["NEEDS", "SETTINGS", "FIXES", "check", "fit", "fit_seeds", "score"]

FIXES = {"misalignment.name": "tidy"}
