"""`ItemDetector`: images in, verdicts with evidence out. What a notebook imports."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from item_jax import config as config_lib
from item_jax import pipeline, settings
from item_jax.datasets import dataset
from item_jax.datasets.dataset import Dataset
from item_jax.datasets.pictures import Input, as_dataset
from item_jax.embed import embed_images
from item_jax.embeddings import Embeddings, Row
from item_jax.fitted import FittedMethod
from item_jax.methods import item, reads_pixels
from item_jax.misalignment import cosine
from item_jax.pixels import Pictures
from item_jax.records import Object
from item_jax.sidecar_runs import Request
from item_jax.towers.checkpoint import download
from item_jax.towers.towers import load_towers


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The verdict on one image.

    Attributes:
      key: the record's, or the path or number of the input.
      p_fake: P(fake) in [0, 1], or None when `status` is "failed".
      verdict: "fake" when `p_fake` is above the method's threshold, else "real"; None
        when failed.
      status: "done" or "failed".
      error: why it failed, or None.
      caption: the one that was used.
      cosine: of the whole image with its caption, in [-1, 1].
      objects: the objects that were used, best score first.
      warnings: where captions or boxes are known to be made otherwise than those that
        the method was fitted on.
    """

    key: str
    p_fake: float | None
    verdict: str | None
    status: str
    error: str | None
    caption: str | None = None
    cosine: float | None = None
    objects: tuple[Object, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ObjectEvidence:
    """One object's part in a score.

    Attributes:
      object: phrase and box.
      cosine: of its crop with its phrase, in [-1, 1].
      p_fake_without: P(fake) had this object not been found.
    """

    object: Object
    cosine: float
    p_fake_without: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A prediction and what it would be without each of its parts.

    Attributes:
      prediction: the score as it is.
      p_fake_without_global: P(fake) with w1 = 0; None when failed, or for a method
        that weighs no levels.
      p_fake_without_objects: P(fake) with w2 = 0; None likewise.
      objects: one entry per object used.
    """

    prediction: Prediction
    p_fake_without_global: float | None
    p_fake_without_objects: float | None
    objects: tuple[ObjectEvidence, ...]


class ItemDetector:
    """A fitted method on its towers.

    Attributes:
      towers: the CLIP model.
      method: the fitted method; `method.range()` says what its verdicts rest on.
      config: thresholds and view geometry as in the method's training.
      warnings: where the towers' dtype differs from the training's, and the like.
    """

    def __init__(
        self, towers: Any, method: FittedMethod, config: ConfigDict | None = None
    ):
        """Joins towers and method.

        Args:
          towers: those the method was trained on.
          method: fitted.
          config: batch sizes and threads; default `item_jax.config.default()`. What an
            embedding depends on is taken from the method.

        Raises:
          ValueError: if the method was trained on other towers.
        """
        config = (config or config_lib.default()).copy_and_resolve_references()
        settings.restore(method.embedding, config)
        roles = {role: method.embedding[role] for role in settings.ROLES}
        found = settings.embedding(towers, config, roles)
        self.warnings = settings.compare(method.embedding, found, what=method.name)
        self.towers = towers
        self.method = method
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        towers: Any = None,
        dtype: str | None = None,
        revision: str | None = None,
        config: ConfigDict | None = None,
    ) -> ItemDetector:
        """Loads a detector.

        Args:
          name: a folder that `item-jax train` wrote, or a Hugging Face repository id,
            whose method may not name modules outside item_jax.
          towers: the CLIP model or where it is; default the one named in the method's
            configuration.
          dtype: "float32" or "bfloat16"; default that of the training.
          revision: of a repository.
          config: as for `ItemDetector(...)`.

        Raises:
          ValueError: for a missing or damaged method, or towers that do not fit it.
        """
        method = load_method(name, revision)
        return cls(towers_of(method, towers, dtype), method, config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the method; the towers stay where their name says."""
        self.method.save(folder)

    def predict(
        self,
        inputs: Input | Sequence[Input],
        *,
        images: str | Path | None = None,
        captions: Sequence[str] | str | None = None,
        objects: Sequence[Sequence[Object]] | None = None,
        caption_with: str | Request | None = None,
        ground_with: str | None = None,
    ) -> list[Prediction]:
        """Scores images.

            detector.predict(["photo.jpg"], captions=["a dog on a beach"])
            detector.predict(
                ["photo.jpg"],
                caption_with="Salesforce/blip2-opt-2.7b",
                ground_with="mm-grounding-dino",
            )

        Args:
          inputs: records, or paths, PIL images, or uint8 arrays `[H, W, 3]`. A single
            one is taken as a list of one.
          images: the folder that keys and paths are relative to; default for paths: the
            current one.
          captions: one per input that is not a record; a record has its own.
          objects: the objects of each caption in `captions`; default none.
          caption_with: the model that makes the captions: folder, Hub id or
            ID@REVISION, or a `sidecar_runs.Request` for further settings. It runs in a
            process of its own, which needs item-jax[torch]; what it answers is kept.
          ground_with: who finds the objects of captions, given or made:
            "mm-grounding-dino", "grounding-dino", "llmdet", "owlv2", or a module of
            yours; default none.

        Returns:
          One `Prediction` per input, in order; one that cannot be scored is "failed"
          and says why.

        Raises:
          ValueError: for inputs without captions, of another kind, or given and to be
            made at once; when captioner or grounder stop, with their message.
        """
        request = _request(caption_with, ground_with)
        data = as_dataset(inputs, images, captions, objects, request)
        embeddings, rows = self._embed(data)
        scores = self.method.score(embeddings)
        return self._predictions(embeddings, rows, scores, self._other(data))

    def explain(
        self,
        inputs: Input | Sequence[Input],
        *,
        images: str | Path | None = None,
        captions: Sequence[str] | str | None = None,
        objects: Sequence[Sequence[Object]] | None = None,
        caption_with: str | Request | None = None,
        ground_with: str | None = None,
    ) -> list[Explanation]:
        """Scores images, and what their scores would be without each of their parts.

        An object is taken out as if the grounder had not found it: D_l becomes the
        mean of the others (or the no-object policy, when it was the only one). These
        are exact re-computations of the score, not attributions. Every image is
        decoded and embedded once.

        Args:
          inputs, images, captions, objects, caption_with, ground_with: as for
            `predict`.

        Returns:
          One `Explanation` per input, in order.
        """
        request = _request(caption_with, ground_with)
        data = as_dataset(inputs, images, captions, objects, request)
        embeddings, rows = self._embed(data)
        # Each image several times: as it is, then with one object left out each.
        counts = np.diff(embeddings.object_offsets)
        index, kept = [], []
        for i, count in enumerate(counts):
            own = embeddings.object_offsets[i] + np.arange(count)
            variants = [own, *(np.delete(own, j) for j in range(count))]
            index += [i] * len(variants)
            kept += variants
        scores = self.method.score(embeddings.variants(index, kept))
        first = np.concatenate([[0], np.cumsum(counts + 1)])
        each = np.asarray(cosine(embeddings.object_emb, embeddings.phrase_emb))
        without_global = self._weighted(embeddings, w1=0.0)
        without_objects = self._weighted(embeddings, w2=0.0)
        predictions = self._predictions(
            embeddings, rows, scores[first[:-1]], self._other(data)
        )
        out, i = [], 0
        for prediction in predictions:
            if prediction.status != "done":
                out.append(Explanation(prediction, None, None, ()))
                continue
            start = embeddings.object_offsets[i]
            evidence = tuple(
                ObjectEvidence(
                    o, float(each[start + j, 0]), float(scores[first[i] + 1 + j])
                )
                for j, o in enumerate(prediction.objects)
            )
            out.append(
                Explanation(prediction, without_global[i], without_objects[i], evidence)
            )
            i += 1
        return out

    def _embed(self, data: Dataset) -> tuple[Embeddings, list[Row]]:
        stream = pipeline.stream(
            data, config=self.config, image_size=self.towers.image_size
        )
        embeddings, rows = embed_images(stream, self.towers, self.config)
        if reads_pixels(self.method.module):
            # Perturbed as the views are: not as the method's training images were.
            own = config_lib.to_json(self.config)["perturb"]
            pictures = Pictures(data, self.method.embedding | {"perturb": own})
            embeddings = dataclasses.replace(embeddings, images=pictures)
        return embeddings, rows

    def _other(self, data: Dataset) -> tuple[str, ...]:
        """Where captions or boxes are not made as the method's, if that is known."""
        facts = dataset.facts(data)
        if not any(facts[role] for role in settings.ROLES):
            return ()
        what = self.method.name
        return tuple(settings.compare_roles(self.method.embedding, facts, what=what))

    def _predictions(
        self,
        embeddings: Embeddings,
        rows: Sequence[Row],
        scores: np.ndarray,
        warnings: tuple[str, ...],
    ) -> list[Prediction]:
        cosines = np.asarray(cosine(embeddings.image_emb, embeddings.text_emb))
        predictions, i = [], 0
        for row in rows:
            if row["status"] != "done":
                predictions.append(
                    Prediction(row["key"], None, None, "failed", row["error"])
                )
                continue
            p = float(scores[i])
            predictions.append(
                Prediction(
                    key=row["key"],
                    p_fake=p,
                    verdict="fake" if p > self.method.threshold else "real",
                    status="done",
                    error=None,
                    caption=row["caption"],
                    cosine=float(cosines[i, 0]),
                    objects=tuple(Object(**o) for o in row["objects"]),
                    warnings=warnings,
                )
            )
            i += 1
        return predictions

    def _weighted(
        self, embeddings: Embeddings, **weights: float
    ) -> list[float] | list[None]:
        """The scores with another w1 or w2, for a method that has them."""
        if "misalignment" not in self.method.state:
            return [None] * len(embeddings)
        changed = item.weighted(self.method.state, **weights)
        return [float(p) for p in self.method.score(embeddings, changed)]


def _request(
    caption_with: str | Request | None, ground_with: str | None
) -> Request | None:
    if isinstance(caption_with, Request):
        if ground_with:
            raise ValueError("give ground_with in the Request")
        return caption_with
    if not (caption_with or ground_with):
        return None
    return Request(caption_with or "", ground_with=ground_with or "")


def load_method(name: str | Path, revision: str | None = None) -> FittedMethod:
    """Loads a fitted method without its towers.

    Args:
      name: a folder that `item-jax train` wrote, or a Hugging Face repository id, whose
        method may not name modules outside item_jax.
      revision: of a repository.

    Raises:
      ValueError: for a missing or damaged method.
    """
    folder = Path(name)
    local = folder.is_dir()
    if not local:
        if str(name).count("/") != 1 or str(name).startswith((".", "/")):
            raise ValueError(
                f"no fitted method {str(name)!r}: neither a folder nor a repository id"
            )
        folder = download(str(name), revision)
    return FittedMethod.load(folder, modules=local)


def towers_of(
    method: FittedMethod, towers: Any = None, dtype: str | None = None
) -> Any:
    """Returns the towers that a method scores with.

    Args:
      method: fitted.
      towers: a CLIP model, which is returned, or where it is; default the one named in
        the method's configuration.
      dtype: "float32" or "bfloat16"; default that of the training.

    Raises:
      ValueError: if they cannot be loaded, or a loaded model is of another dtype.
    """
    tower = method.embedding["tower"]
    if towers is not None and not isinstance(towers, str | Path):
        if dtype not in (None, towers.dtype):
            raise ValueError(
                f"dtype {dtype!r}, but the towers given are of {towers.dtype!r}"
            )
        return towers
    try:
        return load_towers(
            str(towers or tower["name"]),
            dtype or method.embedding["dtype"],
            family=tower["family"],
        )
    except ValueError as e:
        if towers is not None:
            raise
        raise ValueError(
            f"the towers of method {method.name!r} cannot be loaded: {e}. If they are "
            "elsewhere now, say where (--towers; in Python towers=)"
        ) from e
