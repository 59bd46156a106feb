"""The fair twin of ITEM: the same head on image and object crops alone, without text.

The same crops, levels and combination as ITEM's D. Without it no figure says what the
text adds (TIDY Fig. 4).
"""

from item_jax.methods.item import NEEDS, SETTINGS, check, fit, fit_seeds, score

__all__ = ["NEEDS", "SETTINGS", "FIXES", "check", "fit", "fit_seeds", "score"]

FIXES = {"misalignment.name": "image_only"}
