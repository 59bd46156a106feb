"""`ItemDetector`: records in, verdicts with evidence out. What a notebook imports."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from item_jax import config as config_lib
from item_jax import pipeline
from item_jax.cache import Embeddings
from item_jax.embed import embed_items, embedding_settings
from item_jax.evaluate import check_match, score
from item_jax.heads import Head
from item_jax.misalignment import cosine
from item_jax.records import Object, Record
from item_jax.towers.load import Towers, download, load_towers


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the detector says of one record.

    Attributes:
      key: the record's.
      p_fake: P(fake) in [0, 1], or None when `status` is "failed".
      verdict: "fake" when `p_fake` is above the head's threshold, else "real"; None
        when failed.
      status: "done" or "failed".
      error: why it failed, or None.
      cosine: of the whole image with its caption, in [-1, 1].
      objects: the objects that were used, best score first.
    """

    key: str
    p_fake: float | None
    verdict: str | None
    status: str
    error: str | None
    cosine: float | None = None
    objects: tuple[Object, ...] = ()


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
      p_fake_without_global: P(fake) with w1 = 0.
      p_fake_without_objects: P(fake) with w2 = 0.
      objects: one entry per object used.
    """

    prediction: Prediction
    p_fake_without_global: float
    p_fake_without_objects: float
    objects: tuple[ObjectEvidence, ...]


class ItemDetector:
    """A trained head on its towers.

    Attributes:
      towers: the CLIP model.
      head: the trained head.
      config: thresholds and view geometry as in the head's training.
    """

    def __init__(self, towers: Towers, head: Head, config: ConfigDict | None = None):
        """Joins towers and head.

        Args:
          towers: those the head was trained on.
          head: trained.
          config: batch sizes and threads; default `item_jax.config.default()`. What an
            embedding depends on is taken from the head.

        Raises:
          ValueError: when the head was trained on other towers.
        """
        config = (config or config_lib.default()).copy_and_resolve_references()
        trained = head.config["embedding"]
        config.views.geometry = trained["geometry"]
        config.views.object_crop = trained["object_crop"]
        for name in ("score_threshold", "max_objects", "min_object_pixels"):
            config.data[name] = trained[name]
        for name in config.neutralise:
            config.neutralise[name] = trained[f"neutralise_{name}"]
        check_match(
            head,
            embed_dim=towers.embed_dim,
            towers=towers.name,
            embedding=embedding_settings(towers, config),
        )
        self.towers = towers
        self.head = head
        self.config = config

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        towers: Towers | str | Path | None = None,
        dtype: str | None = None,
        revision: str | None = None,
    ) -> ItemDetector:
        """Loads a detector.

        Args:
          name: a folder with `head.safetensors` and `config.json`, or a Hugging Face
            repository id.
          towers: the CLIP model or where it is; default the one named in the head's
            configuration.
          dtype: "float32" or "bfloat16"; default that of the training.
          revision: of a repository.

        Raises:
          ValueError: for a missing or damaged head, or towers that do not fit it.
        """
        folder = Path(name)
        if not folder.is_dir():
            if str(name).count("/") != 1 or str(name).startswith((".", "/")):
                raise ValueError(f"no head {str(name)!r}: no folder, no repository id")
            folder = download(str(name), revision)
        head = Head.load(folder)
        if not isinstance(towers, Towers):
            towers = load_towers(
                towers or head.config["towers"]["name"],
                dtype or head.config["embedding"]["dtype"],
            )
        return cls(towers, head)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the head; the towers stay where their name says."""
        self.head.save(folder)

    def predict(
        self, records: Sequence[Record], *, images: str | Path
    ) -> list[Prediction]:
        """Scores records.

        Args:
          records: with captions, and objects where some were found.
          images: the folder their keys are relative to.

        Returns:
          One `Prediction` per record, in order; one that cannot be scored is "failed"
          and says why.
        """
        return self._predictions(*self._embed(records, images))

    def _predictions(self, embeddings, rows) -> list[Prediction]:
        scores = iter(score(self.head, embeddings).tolist())
        cosines = iter(np.asarray(cosine(embeddings.image_emb, embeddings.text_emb)))
        threshold = self.head.config["threshold"]
        predictions = []
        for row in rows:
            if row["status"] != "done":
                predictions.append(
                    Prediction(row["key"], None, None, "failed", row["error"])
                )
                continue
            p = next(scores)
            predictions.append(
                Prediction(
                    key=row["key"],
                    p_fake=p,
                    verdict="fake" if p > threshold else "real",
                    status="done",
                    error=None,
                    cosine=float(next(cosines)[0]),
                    objects=tuple(Object(**o) for o in row["objects"]),
                )
            )
        return predictions

    def explain(self, record: Record, *, images: str | Path) -> Explanation:
        """Scores one record and what its score would be without each of its parts.

        An object is taken out as if the grounder had not found it: D_l becomes the
        mean of the others (or the no-object policy, when it was the only one). These
        are exact re-computations of the score, not attributions.

        Args:
          record: with a caption.
          images: the folder its key is relative to.

        Raises:
          ValueError: when the record cannot be scored, with the reason.
        """
        embeddings, rows = self._embed([record], images)
        if not len(embeddings):
            raise ValueError(f"{record.key}: {rows[0]['error']}")
        (prediction,) = self._predictions(embeddings, rows)
        count = len(embeddings.object_emb)
        # The same image count + 1 times: whole, then with one object left out each.
        keep = np.concatenate(
            [np.arange(count)] + [np.delete(np.arange(count), i) for i in range(count)]
        ).astype(int)
        sizes = np.array([count] + [count - 1] * count)
        variants = Embeddings(
            rows=[rows[0]] * (count + 1),
            image_emb=np.repeat(embeddings.image_emb, count + 1, axis=0),
            text_emb=np.repeat(embeddings.text_emb, count + 1, axis=0),
            object_emb=embeddings.object_emb[keep],
            phrase_emb=embeddings.phrase_emb[keep],
            object_offsets=np.concatenate([[0], np.cumsum(sizes)]),
        )
        without = score(self.head, variants)[1:]
        each = np.asarray(cosine(embeddings.object_emb, embeddings.phrase_emb))
        return Explanation(
            prediction=prediction,
            p_fake_without_global=self._rescored(embeddings, w1=0.0),
            p_fake_without_objects=self._rescored(embeddings, w2=0.0),
            objects=tuple(
                ObjectEvidence(o, float(c[0]), float(p))
                for o, c, p in zip(prediction.objects, each, without)
            ),
        )

    def _embed(self, records, images) -> tuple[Embeddings, list[dict[str, Any]]]:
        items = pipeline.stream(
            records,
            root=images,
            config=self.config,
            image_size=self.towers.image_size,
        )
        return embed_items(items, self.towers, self.config)

    def _rescored(self, embeddings: Embeddings, **weights: float) -> float:
        changed = self.head.config["misalignment"] | weights
        d = embeddings.misalignment(ConfigDict({"misalignment": changed}))
        return float(self.head.p_fake(d)[0])
