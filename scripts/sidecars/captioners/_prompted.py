"""What the captioners share whose own processor takes images with a prompt.

A family is a file with a class on this one: its name, types, prompt, and what of an
answer is the caption.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from item_sidecars.captioners import effective, generate_options
from item_sidecars.models import Checkpoint, device, precision, released_dtype, require


class Captioner:
    """A model of `AutoModelForImageTextToText`. See `item_sidecars.captioners`.

    Attributes:
      name: of the adapter.
      types: the `model_type`s it takes; () for any.
      prompt: what the model is asked by default.
      limits: what overrides the decoding preset.
      max_side: pixels; a longer image is reduced. None leaves it to the processor.
      fast: dtype on a GPU, or "" for `released_dtype`.

    Raises:
      ValueError: when the model cannot be loaded or is of another type.
    """

    name = ""
    types: tuple[str, ...] = ()
    prompt = ""
    limits: dict[str, Any] = {}
    max_side: int | None = None
    fast = ""
    retry_prompt = None  # decoding is greedy: the answer would be the same

    def __init__(
        self, model: str, *, dtype: str, local_rank: int, preset: str, prompt: str
    ):
        self._torch = require("torch", "captions")
        transformers = require("transformers", "captions")
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        )

        found = Checkpoint.find(model, self.types)
        if found.config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            raise ValueError(
                f"model {model!r} is of type {found.config.model_type!r}, which makes "
                "no text of images: it is no captioner; Salesforce/blip2-opt-2.7b is"
            )
        self._device = device(local_rank)
        dtype = precision(
            dtype, self._device, self.fast or released_dtype(found.config)
        )
        # Padded on the left, so that all answers begin at the same position.
        self._processor = found.load(transformers.AutoProcessor, padding_side="left")
        completed = self._check_processor(found)
        self._processor.image_processor = found.image_processor()
        self._model = found.model(
            transformers.AutoModelForImageTextToText, dtype, self._device
        )
        self._options = generate_options(preset, **self.limits)
        self._prompt = prompt or self.prompt
        self._dtype = getattr(self._torch, dtype)
        self.settings = {
            **found.identity,
            "adapter": self.name,
            "dtype": dtype,
            "preset": preset,
            "generate": self._options,
            "decoding": effective(self._model, self._options),
            "prompt": self._prompt,
            "retry_prompt": None,
            "max_side": self.max_side,
            "image_backend": "pil",
            **({"processor": completed} if completed else {}),
        }

    def _check_processor(self, found: Checkpoint) -> dict[str, Any]:
        """Checks the processor before the weights are loaded.

        Returns:
          What its files lack and was set, {} for nothing.

        Raises:
          ValueError: for a processor that cannot be used.
        """
        return {}

    def prepare(self, image: np.ndarray) -> Image.Image:
        """Returns the image, reduced when its long side is above `max_side` pixels."""
        picture = Image.fromarray(image)
        if self.max_side:
            picture.thumbnail((self.max_side,) * 2, Image.Resampling.BICUBIC)
        return picture

    def caption(self, prepared: list, prompt: str | None = None) -> list[str]:
        """Returns one text per image; the prompt is not part of it."""
        text = self._prompt if prompt is None else prompt
        inputs = self._inputs(prepared, text).to(self._device, self._dtype)
        with self._torch.inference_mode():
            out = self._model.generate(**inputs, **self._options)
        if not self._model.config.is_encoder_decoder:
            out = out[:, inputs["input_ids"].shape[1] :]
        answers = self._processor.batch_decode(out, skip_special_tokens=True)
        return [self._caption_of(answer, inputs) for answer in answers]

    def _inputs(self, pictures: list, text: str) -> Any:
        """Returns what `generate` takes, a BatchFeature."""
        return self._processor(
            images=pictures,
            text=[text] * len(pictures),
            padding=True,
            return_tensors="pt",
        )

    def _caption_of(self, answer: str, inputs: Any) -> str:
        return answer
