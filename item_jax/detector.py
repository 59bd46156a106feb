"""`ItemDetector`: images in, verdicts with evidence out. What a notebook imports."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from item_jax import config as config_lib
from item_jax import evidence, files, hub, pipeline, settings
from item_jax.datasets import dataset
from item_jax.datasets.dataset import Dataset
from item_jax.datasets.pictures import Input, as_dataset
from item_jax.embed import embed_images
from item_jax.embeddings import Embeddings, Row
from item_jax.evidence import Explanation, Prediction
from item_jax.fitted import FittedMethod
from item_jax.methods import reads_pixels
from item_jax.pixels import Pictures
from item_jax.records import Object
from item_jax.sidecar_runs import Request
from item_jax.towers.towers import load_towers


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
          towers: the CLIP model or where it is: a folder, a repository id, or
            ID@REVISION; default the one named in the method's configuration, also where
            the whole workdir was moved.
          dtype: "float32" or "bfloat16"; default that of the training.
          revision: of a repository.
          config: as for `ItemDetector(...)`.

        Raises:
          ValueError: for a missing or damaged method, or towers that do not fit it.
        """
        method, folder = hub.load(name, revision)
        return cls(towers_of(method, towers, dtype, folder=folder), method, config)

    def save_pretrained(
        self, folder: str | Path, *, results: str | Path | None = None
    ) -> None:
        """Writes the method and its model card; the towers stay where they are.

        Args:
          folder: to be written to.
          results: a `results.json` whose figures the card shows.

        Raises:
          ValueError: if the results are not of this method.
        """
        self.method.save(folder, results=_read(results))

    def push_to_hub(
        self,
        repository: str,
        *,
        results: str | Path | None = None,
        private: bool = False,
        revision: str | None = None,
        message: str = "",
        token: str | None = None,
    ) -> str:
        """Publishes the method and its model card on the Hugging Face Hub.

        The towers are named, by repository id or by the name of their folder, and by
        their digest; they are not published.

        Args:
          repository: its id, `owner/name`; made if it is not there.
          results: a `results.json` whose figures the card shows.
          private, revision, message, token: see `item_jax.hub.push`.

        Returns:
          The commit, for `from_pretrained(repository, revision=...)`.

        Raises:
          ValueError: if the Hub refuses, or the results are not of this method.
        """
        return hub.push(
            self.method,
            repository,
            results=_read(results),
            private=private,
            revision=revision,
            message=message,
            token=token,
        )

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
        return evidence.predictions(
            self.method, embeddings, rows, scores, warnings=self._other(data)
        )

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
        return evidence.explain(
            self.method, embeddings, rows, warnings=self._other(data)
        )

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


def _read(results: str | Path | None) -> dict[str, Any] | None:
    return None if results is None else files.read_json(results)


def towers_of(
    method: FittedMethod,
    towers: Any = None,
    dtype: str | None = None,
    *,
    folder: Path | None = None,
) -> Any:
    """Returns the towers that a method scores with.

    Args:
      method: fitted.
      towers: a CLIP model, which is returned, or where it is: a folder, a repository
        id, or ID@REVISION; default the one named in the method's configuration.
      dtype: "float32" or "bfloat16"; default that of the training.
      folder: the method's, near which towers that were moved with it are found.

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
    name = str(towers or tower["name"])
    if towers is None and folder is not None:
        name = hub.find_towers(name, folder)
    revision = None
    if not Path(name).exists():
        name, _, revision = name.partition("@")
    try:
        return load_towers(
            name,
            dtype or method.embedding["dtype"],
            revision=revision or None,
            family=tower["family"],
            text_cleaning=settings.text_cleaning(method.embedding),
        )
    except ValueError as e:
        if towers is not None:
            raise
        raise ValueError(
            f"the towers of method {method.name!r}, {hub.described(tower)}, cannot be "
            f"loaded: {str(e).rstrip('.')}. If they are elsewhere now, say where "
            "(--towers; in Python towers=)"
        ) from e
