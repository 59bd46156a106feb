"""LLaVA-1.5, the paper's other captioner: llava-hf/llava-1.5-7b-hf, its prompt."""

from __future__ import annotations

from item_sidecars.captioners import chat

MODEL_TYPES = ("llava",)


class Captioner(chat.Captioner):
    """LLaVA-1.5 with the paper's prompt, `chat.PROMPT`. See `item_sidecars.captioners`.

    Raises:
      ValueError: for a model of another type or without a chat template.
    """

    name = "llava"
    types = MODEL_TYPES
    max_side = None  # the processor resizes to 336 pixels; resizing once is enough
    fast = "float16"  # its model card
