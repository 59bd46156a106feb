"""What a captioner is compared with: `AutoProcessor` and `generate` of transformers.

As a program it builds tiny checkpoints, captions pictures both ways, and prints a line
of JSON for each, for tests that need torchvision in a process of its own:

    python tests/unmodified.py qwen2_5_vl smolvlm
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from item_sidecars import caption
from item_sidecars.answers import first_sentence
from item_sidecars.captioners import chat

PROMPTS = {
    "blip2_t5": "",
    "florence2": "<CAPTION>",
    "paligemma": "<image>caption en",
}
SHORT = ("blip", "blip2", "blip2_t5", "paligemma")  # 30 new tokens, the others 64


def load(model: Path, **changes: str) -> Any:
    """Loads our captioner of a checkpoint; `changes` are options of `caption.py`."""
    words = ["--images", ".", "--out", "out", "--model", str(model)]
    words += [w for k, v in changes.items() for w in (f"--{k}", v)]
    return caption.load_captioner(caption.parser().parse_args(words))


def captions(
    name: str, model: Path, pictures: Sequence[np.ndarray], batch: int, **replaced: Any
) -> list[str]:
    """Captions pictures without any of our code but the prompt and `first_sentence`.

    Args:
      name: of `tiny_captioners` or `tiny_chat`.
      model: its folder.
      pictures: uint8 [H, W, 3], of several shapes.
      batch: how many at once.
      **replaced: attributes of the processor that are not the checkpoint's own.
    """
    processor = transformers.AutoProcessor.from_pretrained(model, padding_side="left")
    for attribute, value in replaced.items():
        setattr(processor, attribute, value)
    cls = transformers.AutoModelForImageTextToText
    reference = cls.from_pretrained(model, dtype=torch.float32).eval()
    prompt = PROMPTS.get(name)
    talks = prompt is None and name not in ("blip", "blip2")
    if talks:
        parts = [{"type": "image"}, {"type": "text", "text": chat.PROMPT}]
        prompt = processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True
        )
    found = []
    for start in range(0, len(pictures), batch):
        some = [Image.fromarray(i) for i in pictures[start : start + batch]]
        options: dict[str, Any] = {"images": some, "return_tensors": "pt"}
        if prompt is not None:
            options |= {"text": [prompt] * len(some), "padding": True}
        if talks or name == "paligemma":
            options["images"] = [[i] for i in some]
        inputs = processor(**options)
        length = 64 if name not in SHORT else 30
        out = reference.generate(**inputs, max_new_tokens=length, do_sample=False)
        if "input_ids" in inputs and not reference.config.is_encoder_decoder:
            out = out[:, inputs["input_ids"].shape[1] :]
        elif name in ("blip", "blip2"):  # what generate() itself begins with
            out = out[:, {"blip": 1, "blip2": 5}[name] :]
        found += processor.batch_decode(out, skip_special_tokens=True)
    if talks:
        found = [first_sentence(answer) for answer in found]
    return [text.strip() for text in found]


def noise() -> list[np.ndarray]:
    """Four pictures of several shapes, so that a batch is padded."""
    rng = np.random.default_rng(1)
    shapes = [(56, 56), (28, 56), (70, 41), (33, 90)]
    return [
        rng.integers(0, 256, (*shape, 3), dtype=np.uint8) // (1 + i % 3)
        for i, shape in enumerate(shapes)
    ]


def plain() -> list[np.ndarray]:
    """Four pictures of one colour each: no resizing changes them."""
    colours = [(250, 20, 20), (0, 0, 0), (20, 250, 250), (255, 255, 255)]
    return [np.full_like(image, colour) for image, colour in zip(noise(), colours)]


def compare(name: str, model: Path) -> dict[str, dict[str, list[str]]]:
    """Returns our captions and the reference's, one by one and in one batch.

    The captioners resize with Pillow, whatever is installed. Where torchvision is,
    `AutoProcessor` resizes with it, and pixels differ in the last digit. So pictures of
    one colour meet the checkpoint's own processor, and noise meets it with the image
    processor that transformers has for Pillow.
    """
    ours = load(model)
    cls = transformers.AutoImageProcessor
    pillow = {"image_processor": cls.from_pretrained(model, backend="pil")}
    found = {}
    for kind, pictures, replaced in (
        ("plain", plain(), {}),
        ("noise", noise(), pillow),
    ):
        views = [ours.prepare(image) for image in pictures]
        found[kind] = {
            "ours, one by one": [ours.caption([view])[0].strip() for view in views],
            "theirs, one by one": captions(name, model, pictures, 1, **replaced),
            "ours, a batch": [text.strip() for text in ours.caption(views)],
            "theirs, a batch": captions(name, model, pictures, 4, **replaced),
        }
    return found


def main(names: Sequence[str]) -> None:
    """Prints what `compare` finds for each checkpoint, and that 16 bits run."""
    import tiny_captioners
    import tiny_chat

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    build = {**tiny_captioners.CAPTIONERS, **tiny_chat.CHAT_MODELS}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            model = build[name](Path(folder) / name)
            found: dict[str, Any] = compare(name, model)
            half = load(model, dtype="bfloat16")
            found["bfloat16"] = half.caption([half.prepare(noise()[0])])
            print(json.dumps({"name": name, **found}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
