"""PaliGemma: google/paligemma-3b-mix-224, google/paligemma2-3b-mix-224, ..."""

from __future__ import annotations

from typing import Any

from item_sidecars.captioners import _prompted

MODEL_TYPES = ("paligemma",)


class Captioner(_prompted.Captioner):
    """PaliGemma, asked with its prompt of training. See `item_sidecars.captioners`.

    Raises:
      ValueError: for a model of another type.
    """

    name = "paligemma"
    types = MODEL_TYPES
    prompt = "caption en"
    fast = "bfloat16"  # its model card; Gemma overflows in float16

    def _inputs(self, pictures: list, text: str) -> Any:
        inputs = super()._inputs(pictures, f"<image>{text}")
        inputs.pop("labels", None)  # for training; there would be a loss at each step
        return inputs
