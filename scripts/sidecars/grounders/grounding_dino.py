"""Grounding DINO, MM-Grounding-DINO and LLMDet: one architecture, three trainings.

The text for a detector of this family is built here, because the family has three
traps, all silent, all in the text:

* Tokens attend only within a part that ends with a dot (or "?"), and the end of the
  sequence does not end a part: without a last dot each token sees only itself, unless a
  longer neighbour in the batch pads the row. So " ." is always appended.
* An inner dot or question mark cuts the caption into parts that do not see each other.
  Both become spaces, one character for one, so that the spans stay right.
* The processor of transformers reads a list of texts without final dots as the labels
  of one image. The tokenizer is called directly instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from item_sidecars.models import Checkpoint, device, pixels_of, precision, require

_MM = "openmmlab-community/mm_grounding_dino_large_o365v2_oiv6_goldg"
MODELS = {
    "mm-grounding-dino": _MM,
    "grounding-dino": "IDEA-Research/grounding-dino-base",
    "llmdet": "iSEE-Laboratory/llmdet_large",
}
# Checkpoints of LLMDet have the class of MM-Grounding-DINO.
MODEL_TYPES = {
    "mm-grounding-dino": ("mm-grounding-dino",),
    "grounding-dino": ("grounding-dino",),
    "llmdet": ("mm-grounding-dino",),
}
_HALF_SINCE = (5, 23)  # transformers; half precision failed in this family before
_DELIMITERS = ".?"


class Grounder:
    """A detector of the Grounding DINO family. See `item_sidecars.grounders`.

    Raises:
      ValueError: for a model of another type, or for half precision with a transformers
        that does not support it.
    """

    reader_threshold = (
        0.3  # demo/inference_on_a_image.py of IDEA-Research/GroundingDINO
    )

    def __init__(self, model: str, *, name: str, dtype: str, local_rank: int):
        self._torch = require("torch", "boxes")
        transformers = require("transformers", "boxes")
        found = Checkpoint.find(model, MODEL_TYPES[name])
        self._device = device(local_rank)
        dtype = precision(dtype, self._device, "float32")
        version = tuple(int(v) for v in transformers.__version__.split(".")[:2])
        if dtype != "float32" and version < _HALF_SINCE:
            raise ValueError(
                f"{name} in {dtype} needs transformers >= 5.23, here is "
                f"{transformers.__version__}: upgrade it, or --dtype float32"
            )
        cls = transformers.AutoModelForZeroShotObjectDetection
        self._model = found.model(cls, dtype, self._device)
        self._processor = found.image_processor()
        self._tokenizer = found.tokenizer()
        self._longest = found.config.max_text_len  # 256 tokens
        self._dtype = getattr(self._torch, dtype)
        self.settings = {
            **found.identity,
            "adapter": name,
            "dtype": dtype,
            "text": "caption",
            "score": "mean of sigmoid over the phrase's tokens",
            "image_backend": "pil",
        }

    def prepare(self, image: np.ndarray) -> Any:
        """Returns the resized pixels of one image, float32 [3, h, w]."""
        return pixels_of(self._processor, image)

    def ground(
        self,
        prepared: list,
        captions: Sequence[str],
        phrases: Sequence[list[dict[str, Any]]],
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns boxes and scores per image; see `item_sidecars.grounders`.

        Images of equal size run together. Padding to a common size would change the
        boxes: the windows of the backbone and the norms behind it see the padding,
        despite the mask.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for i, pixels in enumerate(prepared):
            groups.setdefault(tuple(pixels.shape), []).append(i)
        results: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for own in groups.values():
            where, tokens, offsets = self._run(
                self._torch.stack([prepared[i] for i in own]),
                [self._text(captions[i]) for i in own],
            )
            for row, i in enumerate(own):
                how = mean_over_tokens(tokens[row], offsets[row], phrases[i])
                results[i] = where[row], how
        return [results[i] for i in range(len(prepared))]

    def _run(
        self, pixels: Any, texts: list[str]
    ) -> tuple[np.ndarray, np.ndarray, list]:
        """Returns boxes [N, Q, 4], probabilities [N, Q, T], token offsets [N, T, 2]."""
        tokens = self._tokenizer(
            texts, padding=True, return_offsets_mapping=True, return_tensors="pt"
        )
        offsets = tokens.pop("offset_mapping").numpy()
        pixels = pixels.to(self._device, self._dtype)
        with self._torch.inference_mode():
            out = self._model(pixel_values=pixels, **tokens.to(self._device))
        where = corners(out.pred_boxes.float().cpu().numpy())
        return where, out.logits.float().sigmoid().cpu().numpy(), offsets

    def _text(self, caption: str) -> str:
        text = detector_text(caption)
        # Leave room for [CLS], the last dot and [SEP]: the dot must not be cut off.
        room = self._longest - 3
        offsets = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]
        return (text[: offsets[room - 1][1]] if len(offsets) > room else text) + " ."


def lower(caption: str) -> str:
    """Returns a caption in lower case, as GLIP reads it, of the same length."""
    # A few capitals become two characters; the tokenizer lowers those itself.
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in caption)


def detector_text(caption: str) -> str:
    """Returns a caption as this family reads it: in lower case, delimiters replaced by
    spaces, of the same length."""
    return lower(caption).translate(dict.fromkeys(map(ord, _DELIMITERS), " "))


def mean_over_tokens(
    probabilities: np.ndarray,
    offsets: Sequence[Sequence[int]],
    phrases: Sequence[dict[str, Any]],
) -> np.ndarray:
    """Averages token scores to phrase scores: GLIP's positive map, rows normalised.

    Args:
      probabilities: [Q, T], of every query for every token, in [0, 1].
      offsets: `(start, end)` of at most T tokens in the text; (0, 0) for special ones.
      phrases: each with the `span` of its characters in the same text.

    Returns:
      [Q, P]; 0 for a phrase without tokens, which lies behind the cut of a long text.
    """
    scores = np.zeros((len(probabilities), len(phrases)))
    for place, phrase in enumerate(phrases):
        start, end = phrase["span"]
        own = [
            t
            for t, (a, b) in enumerate(offsets[: probabilities.shape[1]])
            if a < end and b > start and a < b
        ]
        if own:
            scores[:, place] = probabilities[:, own].mean(1)
    return scores


def corners(boxes: np.ndarray) -> np.ndarray:
    """Converts boxes [..., 4], (centre x, centre y, width, height), to corners."""
    middle, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate([middle - half, middle + half], -1)
