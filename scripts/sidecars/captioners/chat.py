"""Any vision-language chat model: Qwen-VL, SmolVLM, InternVL, LLaVA-OneVision, ...

It must load as `AutoModelForImageTextToText` of transformers, and its processor must
have a chat template. Some processors (Qwen-VL, SmolVLM) need torchvision.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from item_sidecars.answers import first_sentence, is_reasoning_open
from item_sidecars.captioners import _prompted
from item_sidecars.models import Checkpoint, require

MODEL_TYPES: tuple[str, ...] = ()
PROMPT = "Please generate a one-sentence caption for the input image."  # ITEM, LLaVA

NO_REASONING = {"enable_thinking": False}
"""What the templates of Qwen, GLM, InternVL and others understand, by that name."""


# Image towers of LLaVA, and how many tokens each has beside those of the patches.
_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}


def complete(processor: Any, config: Any, source: str) -> dict[str, Any]:
    """Sets what an older `processor_config.json` of LLaVA lacks, in place.

    The prompt must have as many image tokens as the image tower gives. Files of before
    2025 do not say how many: transformers counted them in the model then.

    Args:
      processor: of `AutoProcessor`; others than LLaVA's are left as they are.
      config: of the model, which says it all.
      source: the folder or repository, for messages.

    Returns:
      What was set, {name: value}; a warning names it, too.

    Raises:
      ValueError: for a processor that contradicts the model, or lacks what the model's
        configuration does not say either; names file and field.
    """
    if config.model_type not in ("llava", "llava_next"):
        return {}
    tower = config.vision_config
    where = f"processor_config.json of model {source!r}"
    remedy = f"fetch its newest files with `hf download`, or set it in {where}"
    needed = {
        "patch_size": tower.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": _CLASS_TOKENS.get(tower.model_type),
    }
    done: dict[str, Any] = {}
    for name, value in needed.items():
        stated = getattr(processor, name, None)
        # 0 is what transformers takes where the file does not say.
        lacking = stated is None or (
            name == "num_additional_image_tokens" and not stated
        )
        if value is None and stated is None:
            raise ValueError(
                f"{where} has no {name}, and an image tower of type "
                f"{tower.model_type!r} does not say it; {remedy}"
            )
        if value is None or stated == value:
            continue
        if not lacking:
            raise ValueError(
                f"{where} has {name} {stated!r}, but the model's config.json needs "
                f"{value!r}: they are not of one revision; {remedy}"
            )
        setattr(processor, name, value)
        done[name] = value
    known = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    if known != config.image_token_index:
        raise ValueError(
            f"the tokenizer of model {source!r} has {processor.image_token!r} as token "
            f"{known}, but its config.json needs {config.image_token_index}: they are "
            "not of one revision; fetch the newest files with `hf download`"
        )
    if done:
        named = ", ".join(f"{name} {value!r}" for name, value in done.items())
        warnings.warn(
            f"{where} is of an older revision; set from config.json: {named}",
            stacklevel=2,
        )
    return done


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

    def _check_processor(self, found: Checkpoint) -> dict[str, Any]:
        template = getattr(self._processor, "chat_template", None)
        if template is None:
            raise ValueError(
                f"model {found.source!r} has no chat template: it is not a chat model, "
                "or its files are older than chat_template.jinja; `hf download ID` "
                "fetches the newest"
            )
        self._template = NO_REASONING if "enable_thinking" in str(template) else {}
        # The argument for padding changed between transformers 5.0 and 5.23.
        known = inspect.signature(self._processor.apply_chat_template).parameters
        nested = "processor_kwargs" in known
        batching = {"padding": True}
        self._batching = {"processor_kwargs": batching} if nested else batching
        return complete(self._processor, found.config, found.source)

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
