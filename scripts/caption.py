"""Captions a folder of images: OUT/captions.jsonl, one line an image.

    {key, sha256, width, height, caption, status, error}

Stopped or killed, the same command goes on. `item-jax index` reads the result.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import numpy as np

import sidecar_models as models
import sidecar_run as sidecar
from captioners import PRESETS
from sidecar_batches import Job, Step
from sidecar_ranks import ranks

_EXAMPLES = """\
examples:
  python scripts/caption.py --images data/images --out data/captions \\
      --model Salesforce/blip2-opt-2.7b
  torchrun --standalone --nproc-per-node=8 scripts/caption.py --images ...
"""


class CaptionStep(Step):
    """Images in, captions out.

    Args:
      captioner: an adapter's `Captioner`.
    """

    stage = "caption"
    output = "captions.jsonl"
    columns = ("sha256", "width", "height")
    empty = {"caption": None}

    def __init__(self, captioner: Any):
        self.captioner = captioner

    def prepare(self, image: np.ndarray, job: Job | None) -> Any:
        return self.captioner.prepare(image)

    def process(self, prepared: list) -> list[dict[str, Any]]:
        """Captions a batch; the images without a caption get a second try together."""
        texts = [models.canonical(t) for t in self.captioner.caption(prepared)]
        results: list[dict[str, Any]] = [{"caption": text} for text in texts]
        again = [i for i, text in enumerate(texts) if not text]
        prompt = self.captioner.retry_prompt
        if again and prompt:
            seconds = self.captioner.caption([prepared[i] for i in again], prompt)
            for i, text in zip(again, map(models.canonical, seconds)):
                results[i] = {"caption": text, "retry_prompt": prompt}
        tried = f", also with the prompt {prompt!r}" if prompt else ""
        return [
            r if r["caption"] else {"error": f"the caption is empty{tried}"}
            for r in results
        ]

    def canary(self, image: np.ndarray, word: str) -> str:
        said = self.process([self.prepare(image, None)])[0]
        return said.get("caption", "")


def main(arguments: argparse.Namespace) -> int:
    """Runs one rank, or merges; returns the exit status."""
    if arguments.merge:
        return sidecar.merge(CaptionStep, arguments)
    place = ranks(os.environ, arguments.rank, arguments.world_size)
    jobs = sidecar.list_images(arguments.images)
    captioner = captioner_of(arguments, place.local)
    settings = {"captioner": captioner.settings}
    return sidecar.run(CaptionStep(captioner), jobs, arguments, place, settings)


def captioner_of(arguments: argparse.Namespace, local_rank: int = 0) -> Any:
    """Loads the captioner the arguments name.

    Raises:
      ValueError: when there is no such adapter or model, or they do not fit.
    """
    name = arguments.captioner
    if name == "auto":
        kind = models.Checkpoint.find(arguments.model).config.model_type
        name = adapter_for(kind)
    module = models.adapter("captioners", name, "Captioner")
    return module.Captioner(
        arguments.model,
        dtype=arguments.dtype,
        local_rank=local_rank,
        preset=arguments.preset,
        prompt=arguments.prompt,
    )


def adapter_for(model_type: str) -> str:
    """Returns the adapter of a type of model: its own, or `chat`, which takes all."""
    for name in models.adapters("captioners"):
        module = models.adapter("captioners", name, "Captioner")
        if model_type in module.MODEL_TYPES:
            return name
    return "chat"


def parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    p = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--images", required=True, help="folder the keys are relative to")
    p.add_argument(
        "--model",
        default="Salesforce/blip2-opt-2.7b",
        help="folder, Hub id or ID@REVISION; default: %(default)s, the paper's",
    )
    p.add_argument(
        "--captioner",
        default="auto",
        help=f"auto (by the model's type), {', '.join(models.adapters('captioners'))}, "
        "or a module of your own",
    )
    p.add_argument(
        "--preset", default="hf-greedy", choices=PRESETS, help="decoding settings"
    )
    p.add_argument("--prompt", default="", help="default: none; chat: the paper's")
    sidecar.add_flags(p, batch_size=32)
    return p


if __name__ == "__main__":
    sys.exit(sidecar.guarded(main, parser().parse_args()))
