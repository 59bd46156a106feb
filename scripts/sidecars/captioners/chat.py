"""Any vision-language chat model: Qwen-VL, SmolVLM, InternVL, LLaVA-OneVision, ...

It must load as `AutoModelForImageTextToText` of transformers, and its processor must
have a chat template. Some processors (Qwen-VL, SmolVLM) need torchvision.
"""

from __future__ import annotations

import inspect
import re

import numpy as np
from PIL import Image

from item_sidecars.captioners import generate_options
from item_sidecars.models import Checkpoint, canonical, device, precision, require

MODEL_TYPES: tuple[str, ...] = ()
PROMPT = "Please generate a one-sentence caption for the input image."  # ITEM, LLaVA
MAX_NEW_TOKENS = 64  # one sentence and some room; chat models are wordier than BLIP

_QUOTES = "\"'`“”‘’*"
# A sentence ends before a capital, but not after Mr., St. and other short words.
_SENTENCE_END = re.compile(r"(?<=\w\w\w[.!?])\s+(?=[A-Z])")


class Captioner:
    """A chat model, asked for one sentence. See `item_sidecars.captioners`.

    Raises:
      ValueError: when the model cannot be loaded or has no chat template.
    """

    name = "chat"
    types = MODEL_TYPES
    max_side = 1344  # pixels; models of dynamic resolution accept any size
    retry_prompt = None  # decoding is greedy: the answer would be the same

    def __init__(
        self, model: str, *, dtype: str, local_rank: int, preset: str, prompt: str
    ):
        self._torch = require("torch", "captions")
        transformers = require("transformers", "captions")
        require("jinja2", "chat templates")
        found = Checkpoint.find(model, self.types)
        self._device = device(local_rank)
        dtype = precision(dtype, self._device)
        try:
            # Padded on the left, so that all answers begin at the same position.
            self._processor = found.load(
                transformers.AutoProcessor, padding_side="left"
            )
        except (ImportError, AttributeError, ValueError) as e:
            raise ValueError(
                f"the processor of {model!r} does not load ({e}); some need: "
                "pip install torchvision"
            ) from e
        if getattr(self._processor, "chat_template", None) is None:
            raise ValueError(
                f"model {model!r} has no chat template: it is not a chat model"
            )
        # The argument for padding changed between transformers 5.0 and 5.23.
        known = inspect.signature(self._processor.apply_chat_template).parameters
        nested = "processor_kwargs" in known
        batching = {"padding": True}
        self._batching = {"processor_kwargs": batching} if nested else batching
        self._processor.image_processor = found.image_processor()
        self._model = found.model(
            transformers.AutoModelForImageTextToText, dtype, self._device
        )
        self._options = generate_options(preset, max_new_tokens=MAX_NEW_TOKENS)
        self._prompt = prompt or PROMPT
        self._dtype = getattr(self._torch, dtype)
        self.settings = {
            **found.identity,
            "adapter": self.name,
            "dtype": dtype,
            "preset": preset,
            "generate": self._options,
            "prompt": self._prompt,
            "retry_prompt": None,
            "max_side": self.max_side,
            "image_backend": "pil",
        }

    def prepare(self, image: np.ndarray) -> Image.Image:
        """Returns the image, reduced when its long side is above `max_side` pixels."""
        picture = Image.fromarray(image)
        if self.max_side:
            picture.thumbnail((self.max_side,) * 2, Image.Resampling.BICUBIC)
        return picture

    def caption(self, prepared: list, prompt: str | None = None) -> list[str]:
        """Returns the first sentence of each answer, without quotation marks."""
        text = self._prompt if prompt is None else prompt
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": picture},
                        {"type": "text", "text": text},
                    ],
                }
            ]
            for picture in prepared
        ]
        inputs = self._processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            **self._batching,
        ).to(self._device, self._dtype)
        with self._torch.inference_mode():
            out = self._model.generate(**inputs, **self._options)
        new_ids = out[:, inputs["input_ids"].shape[1] :]
        answers = self._processor.batch_decode(new_ids, skip_special_tokens=True)
        return [first_sentence(answer) for answer in answers]


def first_sentence(answer: str) -> str:
    """Returns the first sentence of the first line of an answer that has words."""
    lines = (canonical(line).strip(_QUOTES + " ") for line in answer.splitlines())
    line = next((line for line in lines if line), "")
    return _SENTENCE_END.split(line)[0].strip(_QUOTES + " ")
