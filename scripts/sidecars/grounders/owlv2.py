"""OWLv2: one text query per phrase, without the caption around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from item_sidecars.grounders.grounding_dino import corners
from item_sidecars.models import Checkpoint, device, pixels_of, precision, require

MODELS = {"owlv2": "google/owlv2-base-patch16-ensemble"}


class Grounder:
    """OWLv2. See `item_sidecars.grounders`.

    Raises:
      ValueError: for a model of another type.
    """

    reader_threshold = 0.1  # default of transformers' post-processing for OWLv2

    def __init__(self, model: str, *, name: str, dtype: str, local_rank: int):
        self._torch = require("torch", "boxes")
        transformers = require("transformers", "boxes")
        require("scipy", "the images of OWLv2")
        found = Checkpoint.find(model, ("owlv2",))
        self._device = device(local_rank)
        dtype = precision(dtype, self._device, "float32")
        self._model = found.model(
            transformers.Owlv2ForObjectDetection, dtype, self._device
        )
        self._processor = found.image_processor()
        self._tokenizer = found.tokenizer()
        self._length = found.config.text_config.max_position_embeddings  # 16 tokens
        self._dtype = getattr(self._torch, dtype)
        self.settings = {
            **found.identity,
            "adapter": name,
            "dtype": dtype,
            "text": "phrases",
            "score": "sigmoid of the phrase's logit",
            "image_backend": "pil",
        }

    def prepare(self, image: np.ndarray) -> tuple[Any, tuple[int, int]]:
        """Returns the pixels, float32 [3, S, S], and the image's (width, height)."""
        return pixels_of(self._processor, image), (image.shape[1], image.shape[0])

    def ground(
        self,
        prepared: list,
        captions: Sequence[str],
        phrases: Sequence[list[dict[str, Any]]],
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns boxes and scores per image; see `item_sidecars.grounders`."""
        torch = self._torch
        # All images of a batch need the same number of queries: pad with blanks.
        most = max(1, *(len(own) for own in phrases))
        texts = [
            text
            for own in phrases
            for text in [p["phrase"].lower() for p in own] + [" "] * (most - len(own))
        ]
        tokens = self._tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        ).to(self._device)
        views = torch.stack([p for p, _ in prepared]).to(self._device, self._dtype)
        with torch.inference_mode():
            out = self._model(
                pixel_values=views,
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
            )
        scores = out.logits.float().sigmoid().cpu().numpy()
        boxes = corners(out.pred_boxes.float().cpu().numpy())
        results = []
        for i, (_, (width, height)) in enumerate(prepared):
            # Boxes are fractions of the padded square; the image is its top left part.
            scale = max(width, height) / np.array([width, height] * 2)
            results.append((boxes[i] * scale, scores[i][:, : len(phrases[i])]))
        return results
