"""BLIP: Salesforce/blip-image-captioning-base and -large."""

from __future__ import annotations

from typing import Any

import numpy as np

from item_sidecars.captioners import RETRY_PROMPT, effective, generate_options
from item_sidecars.models import Checkpoint, device, pixels_of, precision, require

MODEL_TYPES = ("blip",)


class Captioner:
    """BLIP. See `item_sidecars.captioners`.

    Raises:
      ValueError: for a model of another type.
    """

    retry_prompt = RETRY_PROMPT

    def __init__(
        self, model: str, *, dtype: str, local_rank: int, preset: str, prompt: str
    ):
        self._torch = require("torch", "captions")
        transformers = require("transformers", "captions")
        found = Checkpoint.find(model, MODEL_TYPES)
        self._device = device(local_rank)
        dtype = precision(dtype, self._device)
        self._model = found.model(
            transformers.BlipForConditionalGeneration, dtype, self._device
        )
        self._processor = found.image_processor()
        self._tokenizer = found.tokenizer()
        # Starts with [DEC] (30522 of the released models) and stops at [SEP] (102).
        self._start = found.config.text_config.bos_token_id
        self._options = generate_options(preset)
        self._prompt = prompt
        self._dtype = getattr(self._torch, dtype)
        self.settings = {
            **found.identity,
            "adapter": "blip",
            "dtype": dtype,
            "preset": preset,
            "generate": self._options,
            "decoding": effective(
                self._model.text_decoder,
                {
                    "eos_token_id": found.config.text_config.sep_token_id,
                    "pad_token_id": found.config.text_config.pad_token_id,
                    **self._options,
                },
            ),
            "prompt": prompt,
            "retry_prompt": self.retry_prompt,
            "image_backend": "pil",
        }

    def prepare(self, image: np.ndarray) -> Any:
        """Returns the pixels of one image, float32 [3, S, S]."""
        return pixels_of(self._processor, image)

    def caption(self, prepared: list, prompt: str | None = None) -> list[str]:
        """Returns one text per image; the prompt is not part of it."""
        torch = self._torch
        prompt = self._prompt if prompt is None else prompt
        words = self._tokenizer(prompt, add_special_tokens=False)["input_ids"]
        start = [self._start, *words]
        # generate() drops the last token: transformers expects the tokenizer's [SEP].
        ids = torch.tensor([[*start, self._start]] * len(prepared))
        pixels = torch.stack(prepared).to(self._device, self._dtype)
        with torch.inference_mode():
            out = self._model.generate(
                pixel_values=pixels, input_ids=ids.to(self._device), **self._options
            )
        new_ids = out[:, len(start) :]
        return self._tokenizer.batch_decode(new_ids, skip_special_tokens=True)
