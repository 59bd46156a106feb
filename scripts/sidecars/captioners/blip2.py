"""BLIP-2, the captioner of the paper: Salesforce/blip2-opt-2.7b.

Its language model is OPT, a decoder, or T5 (Salesforce/blip2-flan-t5-xl), which has an
encoder: the image and the prompt are read there, and the answer begins anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from item_sidecars.captioners import RETRY_PROMPT, effective, generate_options
from item_sidecars.models import Checkpoint, device, pixels_of, precision, require

MODEL_TYPES = ("blip-2",)


class Captioner:
    """BLIP-2 with OPT or T5. See `item_sidecars.captioners`.

    Raises:
      ValueError: for a model of another type or without an image token.
    """

    retry_prompt = RETRY_PROMPT

    def __init__(
        self, model: str, *, dtype: str, local_rank: int, preset: str, prompt: str
    ):
        self._torch = require("torch", "captions")
        transformers = require("transformers", "captions")
        found = Checkpoint.find(model, MODEL_TYPES)
        if found.config.image_token_index is None:
            raise ValueError(
                f"model {model!r} has no image_token_index, which BLIP-2 needs since "
                "transformers 5: use a revision of after November 2024"
            )
        self._device = device(local_rank)
        text = found.config.text_config
        self._encodes = bool(text.is_encoder_decoder)
        # LAVIS runs T5 in bfloat16 (blip2_t5.py), since float16 overflows.
        dtype = precision(
            dtype, self._device, "bfloat16" if self._encodes else "float16"
        )
        self._model = found.model(
            transformers.Blip2ForConditionalGeneration, dtype, self._device
        )
        self._processor = found.image_processor()
        self._tokenizer = found.tokenizer()
        # The end token is given because the inner language model keeps generation
        # settings of its own; BLIP-2 with OPT ends with a newline, token 50118.
        self._options = generate_options(
            preset, eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id
        )
        self._prefix = [found.config.image_token_index] * found.config.num_query_tokens
        if not self._encodes:
            self._prefix.append(text.bos_token_id)
        self._prompt = prompt
        self._dtype = getattr(self._torch, dtype)
        self.settings = {
            **found.identity,
            "adapter": "blip2",
            "dtype": dtype,
            "preset": preset,
            "generate": self._options,
            "decoding": effective(self._model.language_model, self._options),
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
        # T5 wants its end token behind the prompt, also behind an empty one.
        words = self._tokenizer(prompt, add_special_tokens=self._encodes)["input_ids"]
        ids = torch.tensor([self._prefix + list(words)] * len(prepared))
        pixels = torch.stack(prepared).to(self._device, self._dtype)
        with torch.inference_mode():
            out = self._model.generate(
                pixel_values=pixels, input_ids=ids.to(self._device), **self._options
            )
        # The output of a decoder begins with the image tokens and the prompt.
        new_ids = out if self._encodes else out[:, ids.shape[1] :]
        return self._tokenizer.batch_decode(new_ids, skip_special_tokens=True)
