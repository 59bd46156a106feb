"""LLaVA-1.5, the paper's other captioner: llava-hf/llava-1.5-7b-hf, its prompt."""

from __future__ import annotations

from captioners import chat

MODEL_TYPES = ("llava",)


class Captioner(chat.Captioner):
    """LLaVA-1.5 asked with the words of the paper (`chat.PROMPT`). See `captioners`.

    Raises:
      ValueError: for a model of another type or without a chat template.
    """

    name = "llava"
    types = MODEL_TYPES
    max_side = None  # the processor resizes to 336 pixels; once is enough
