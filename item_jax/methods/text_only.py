"""ITEM's head on caption and phrases alone, without pixels (TIDY Fig. 4).

The same levels and combination as ITEM's D. Above chance it is a warning: captions of
real and fake images differ by themselves.
"""

from item_jax.methods.item import NEEDS, SETTINGS, check, fit, fit_seeds, score

__all__ = ["NEEDS", "SETTINGS", "FIXES", "check", "fit", "fit_seeds", "score"]

FIXES = {"misalignment.name": "text_only"}
