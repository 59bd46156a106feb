"""Any vision-language chat model: Qwen-VL, SmolVLM, InternVL, LLaVA-OneVision, ...

It must load as `AutoModelForImageTextToText` of transformers, and its processor must
have a chat template. Some processors (Qwen-VL, SmolVLM) need torchvision.
"""

from __future__ import annotations

import inspect
from typing import Any

from item_sidecars.answers import first_sentence, is_reasoning_open
from item_sidecars.captioners import _prompted
from item_sidecars.models import require

MODEL_TYPES: tuple[str, ...] = ()
PROMPT = "Please generate a one-sentence caption for the input image."  # ITEM, LLaVA

NO_REASONING = {"enable_thinking": False}
"""What the templates of Qwen, GLM, InternVL and others understand, by that name."""


class Captioner(_prompted.Captioner):
    """A chat model, asked for one sentence. See `item_sidecars.captioners`.

    Raises:
      ValueError: when the model cannot be loaded or has no chat template.
    """

    name = "chat"
    types = MODEL_TYPES
    prompt = PROMPT
    # One sentence and some room; chat models are wordier than BLIP.
    limits = {"max_new_tokens": 64}
    max_side = 1344  # models of dynamic resolution accept any size

    def __init__(self, model: str, **options: Any):
        require("jinja2", "chat templates")
        super().__init__(model, **options)
        self.settings["chat_template"] = self._template

    def _check_processor(self, model: str) -> None:
        template = getattr(self._processor, "chat_template", None)
        if template is None:
            raise ValueError(
                f"model {model!r} has no chat template: it is not a chat model"
            )
        self._template = NO_REASONING if "enable_thinking" in str(template) else {}
        # The argument for padding changed between transformers 5.0 and 5.23.
        known = inspect.signature(self._processor.apply_chat_template).parameters
        nested = "processor_kwargs" in known
        batching = {"padding": True}
        self._batching = {"processor_kwargs": batching} if nested else batching

    def _inputs(self, pictures: list, text: str) -> Any:
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
            for picture in pictures
        ]
        return self._processor.apply_chat_template(
            conversations,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            **self._batching,
            **self._template,
        )

    def _caption_of(self, answer: str, inputs: Any) -> str:
        """The first sentence of an answer; all prompts of a batch end alike."""
        # Its own tokens only: a prompt has hundreds for the image.
        end = self._processor.tokenizer.decode(inputs["input_ids"][0][-16:])
        return first_sentence(answer, is_open=is_reasoning_open(end))
