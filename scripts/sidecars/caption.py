"""Captions a folder of images: OUT/captions.jsonl, one line per image.

    {key, sha256, width, height, caption, status, error}

status is done or failed. Stopped or killed, the same command continues. `item-jax
index` reads the result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from item_jax import choices
from item_sidecars import models, run
from item_sidecars.batches import AdapterError, Job, Step, is_encodable
from item_sidecars.captioners import PRESETS

_PACKAGE = "item_sidecars.captioners"

_EMPTY = "the caption is empty"

FEW = 8
"""Images of which captions that are all equal, or all empty, may be chance."""

_EXAMPLES = """\
examples:
  python scripts/caption.py --images data/images --out data/captions \\
      --model Salesforce/blip2-opt-2.7b
  torchrun --standalone --nproc-per-node=8 scripts/caption.py --images ...
"""


class CaptionStep(Step):
    """Images in, captions out.

    Args:
      captioner: see `item_sidecars.captioners`.
      allow_equal: whether all captions may be the same.
    """

    stage = "caption"
    output = "captions.jsonl"
    columns = ("sha256", "width", "height")
    empty = {"caption": None}

    def __init__(self, captioner: Any, *, allow_equal: bool = False):
        self.captioner, self._allow_equal = captioner, allow_equal

    def prepare(self, image: np.ndarray, job: Job | None) -> Any:
        """Makes the captioner's input of uint8 [H, W, 3]."""
        return self.captioner.prepare(image)

    def process(self, prepared: list) -> list[dict[str, Any]]:
        """Captions a batch; images with an empty caption get a second try together.

        Raises:
          AdapterError: when the captioner does not return one str per image.
        """
        texts = self._caption(prepared)
        results: list[dict[str, Any]] = [{"caption": text} for text in texts]
        again = [i for i, text in enumerate(texts) if not text]
        prompt = self.captioner.retry_prompt
        if again and prompt:
            seconds = self._caption([prepared[i] for i in again], prompt)
            for i, text in zip(again, seconds):
                results[i] = {"caption": text, "retry_prompt": prompt}
        tried = f", also with the prompt {prompt!r}" if prompt else ""
        for i, result in enumerate(results):
            if not result["caption"]:
                results[i] = {"error": f"{_EMPTY}{tried}"}
            elif not is_encodable(result["caption"]):
                text = ascii(result["caption"])
                results[i] = {"error": f"the caption is not valid Unicode: {text}"}
        return results

    def _caption(self, prepared: list, *prompt: str) -> list[str]:
        texts = self.captioner.caption(prepared, *prompt)
        if len(texts) != len(prepared) or not all(isinstance(t, str) for t in texts):
            name = type(self.captioner).__name__
            raise AdapterError(
                f"{name}.caption returned {ascii(texts)[:200]} for {len(prepared)} "
                "images; expected as many strings"
            )
        return [models.canonical(text) for text in texts]

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Refuses captions that are all empty, or all equal, of different pictures.

        Raises:
          ValueError: with the remedies.
        """
        said: dict[str, str] = {}  # a caption per picture; of equal ones, one
        for row in rows:
            if row["status"] == "done" or _EMPTY in (row["error"] or ""):
                said[row["sha256"]] = row["caption"] or ""
        if len(said) <= FEW or len(set(said.values())) > 1 or self._allow_equal:
            return
        text = next(iter(said.values()))
        settings = getattr(self.captioner, "settings", {})
        dtype = settings.get("dtype", "unknown")
        what = f"the same caption, {ascii(text)[:80]}" if text else "no caption"
        raise ValueError(
            f"{len(said)} different pictures have {what}: this model gives nonsense "
            f"here (dtype {dtype}). Remedies: --dtype bfloat16 or float32, in item-jax "
            "--sidecar-dtype (float16 overflows in many models); a model made for "
            "captions, and no reasoning model; other versions of transformers. Then "
            "caption.py needs another --out. If the pictures are really all alike: "
            "--allow-equal-captions"
        )

    def canary(self, image: np.ndarray, word: str) -> str:
        """Returns the caption of an image."""
        result = self.process([self.prepare(image, None)])[0]
        return result.get("caption", "")


def caption(arguments: argparse.Namespace) -> int:
    """Runs one rank, or merges; returns the exit status.

    Args:
      arguments: of `parser`.

    Raises:
      ValueError: for arguments that do not fit together, or to the run in --out.
    """
    if arguments.merge:
        return run.merge(CaptionStep, arguments)
    place = run.find_ranks(arguments)
    jobs = run.list_images(arguments.images)
    captioner = load_captioner(arguments, place.local)
    settings = {"captioner": captioner.settings}
    step = CaptionStep(captioner, allow_equal=arguments.allow_equal_captions)
    return run.run(step, jobs, arguments, place, settings)


def load_captioner(arguments: argparse.Namespace, local_rank: int = 0) -> Any:
    """Loads the captioner that the arguments name.

    Raises:
      ValueError: when there is no such captioner or model, or they do not fit.
    """
    name = arguments.captioner
    if name == "auto":
        config = models.Checkpoint.find(arguments.model).config
        name = captioner_for(config.model_type)
    table = {n: _module(n).Captioner for n in choices.modules(_PACKAGE)}
    needs = ("prepare", "caption")
    found = choices.resolve(
        "captioner", name, table, needs=needs, attribute="Captioner"
    )
    return found(
        arguments.model,
        dtype=arguments.dtype,
        local_rank=local_rank,
        preset=arguments.preset,
        prompt=arguments.prompt,
    )


def captioner_for(model_type: str) -> str:
    """Returns the captioner for a `model_type`: its own, or `chat` for all others."""
    for name in choices.modules(_PACKAGE):
        if model_type in _module(name).MODEL_TYPES:
            return name
    return "chat"


def _module(name: str) -> Any:
    return import_module(f"{_PACKAGE}.{name}")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
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
        help=f"auto (by the model's type), {', '.join(choices.modules(_PACKAGE))}, or "
        "package.module[:Name] of your own",
    )
    p.add_argument(
        "--preset", default="hf-greedy", choices=PRESETS, help="decoding settings"
    )
    p.add_argument(
        "--prompt", default="", help="default: none; for chat models the paper's"
    )
    p.add_argument(
        "--allow-equal-captions",
        action="store_true",
        help="go on when all captions of a shard are equal or empty",
    )
    run.add_flags(p, batch_size=32)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The program: parses the command line, runs, returns the exit status."""
    return run.guarded(caption, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
