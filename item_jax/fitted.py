"""A fitted method: its state, what it was fitted on, and the folder it is saved in.

    head/
      config.json          method, state, embedding settings, threshold, training
      weights.safetensors  the arrays of the state, their names joined by dots
      README.md            a model card
      seed-1/ ...          the same of further seeds

One writer and one reader for all methods. Folders of version 0.1 are read too
(`head.safetensors`, schema `item-head/1`).
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from item_jax import (
    __version__,
    calibration,
    files,
    method_files,
    methods,
    model_card,
    protocol,
    settings,
)
from item_jax.embeddings import Embeddings

FEW = 1000
"""Fewer training images than this are called few in a verdict. Not in the paper, which
trains on 80,000."""

LEARNED = 0.6
"""A training AUC below this is called a failure to learn. Chance is 0.5, and whatever
detects fakes of known generators ranks those it was trained on. Not in the paper."""

TOY_TOWERS = (
    "c66c8e66340ec7c6ce985ac32cbb89b2afe76ff23e6fc5a892266a8fbab78248",  # version 0.1
    "84fdcb5b459ed6908f2c119b8e0e053804dba505b5306b3aa2f01f9272f4cc51",
)
"""`checkpoint_sha256` of the miniature's CLIPs, which know a toy world only."""


@dataclasses.dataclass(frozen=True)
class FittedMethod:
    """A method with its state and the record of its training.

    Attributes:
      config: the content of `config.json` without the state: `method`, `embedding`
        (see `item_jax.settings`), `threshold`, `training` {real, fake, split,
        generators, benchmarks, seed, settings, records_sha256}, `fit` {train_auc,
        train_auc_images, epochs} (see `item_jax.train.fit_method`; published weights
        and what earlier versions fitted have none), and after `item-jax calibrate`
        also `calibration` (see `item_jax.thresholds`).
      state: what its `fit` returned.
      module: the method.
    """

    config: dict[str, Any]
    state: dict[str, Any]
    module: Any

    @property
    def name(self) -> str:
        """The method's name, such as "item"."""
        return self.config["method"]

    @property
    def embedding(self) -> settings.Embedding:
        """What the embeddings it was fitted on depend on."""
        return self.config["embedding"]

    @property
    def threshold(self) -> float:
        """A P(fake) above it, not equal to it, says fake."""
        return self.config["threshold"]

    @property
    def calibration(self) -> dict[str, Any] | None:
        """What threshold and temperature were fitted on, if they were."""
        return self.config.get("calibration")

    @property
    def train_auc(self) -> float | None:
        """The AUC on images that it was trained on; None where it is not known."""
        return (self.config.get("fit") or {}).get("train_auc")

    @property
    def learned(self) -> bool | None:
        """Whether it ranks its training images; None for what cannot, or is not known.

        What reads nothing, such as `constant`, has nothing to learn.
        """
        if self.train_auc is None or not self.module.NEEDS:
            return None
        return self.train_auc >= LEARNED

    def score(
        self, part: Embeddings, state: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Scores images.

        Args:
          part: n images.
          state: another one than its own, such as `methods.item.weighted` makes.

        Returns:
          float `[n]`, P(fake) in [0, 1].

        Raises:
          ValueError: if a score is not one, naming the image; or if the method reads
            an output of the image tower that the images lack, naming it.
        """
        needs = getattr(self.module, "NEEDS", ())
        settings.check_outputs(self.name, needs, part.outputs)
        scores = np.asarray(
            self.module.score(self.state if state is None else state, part)
        )
        if scores.shape != (len(part),):
            raise ValueError(
                f"method {self.name!r} gave scores {list(scores.shape)} for "
                f"{len(part)} images"
            )
        wrong = np.flatnonzero(~((scores >= 0) & (scores <= 1)))  # NaN too
        if len(wrong):
            key = files.printable(part.rows[wrong[0]]["key"])
            raise ValueError(
                f"method {self.name!r}: P(fake) of {key!r} is {scores[wrong[0]]}, not "
                "in [0, 1]"
            )
        temperature = (self.calibration or {}).get("temperature")
        if temperature is not None:
            scores = calibration.apply_temperature(scores, temperature)
        return scores

    def about(self) -> str:
        """Returns what the method is: the first line of its docstring."""
        path = self.name.partition(":")[0]
        module = sys.modules.get(f"item_jax.methods.{path}")
        if module is None:  # not one of ours
            text = inspect.getdoc(self.module) or inspect.getdoc(sys.modules.get(path))
        else:  # perhaps an object of it; the module has the docstring
            text = inspect.getdoc(module)
        return (text or "").partition("\n")[0]

    def range(self) -> dict[str, Any]:
        """Returns what a verdict rests on.

        Returns:
          `method`, `real` and `fake` (training images), `generators`, `benchmarks`,
          `captioner`, `grounder` (ids or None), `toy_world` (bool), `threshold`,
          `train_auc` (or None), and all of it as a sentence in `text`.
        """
        t, e = self.config["training"], self.embedding
        ids = {
            role: (e[role] or {}).get("id") if e[role] else None
            for role in ("captioner", "grounder")
        }
        toy = (
            "miniature" in t["benchmarks"]
            or e["tower"]["checkpoint_sha256"] in TOY_TOWERS
        )
        where = f" ({', '.join(t['benchmarks'])})" if any(t["benchmarks"]) else ""
        images = t["real"] + t["fake"]
        counts = (
            f"trained on {t['real']:,} real and {t['fake']:,} fake images of "
            f"{protocol.generators_text(t['generators'])}{where}"
            if images
            else f"trained by others on images that are not recorded{where}"
        )
        text = (
            f"{counts}, captions by "
            f"{ids['captioner'] or 'an unknown captioner'}, boxes by "
            f"{ids['grounder'] or 'an unknown grounder'}"
        )
        if 0 < images < FEW:
            text += "; few images"
        if self.learned is False:
            text += f"; it did not learn them (training AUC {self.train_auc:.3f})"
        c = self.calibration
        if c:
            text += (
                f"; threshold for {100 * c['fpr']:g}% false alarms on {c['n_real']:,} "
                f"real images of split {c['split']!r}"
            )
        text += (
            "; a toy world, which says nothing about photographs"
            if toy
            else "; untested on anything else"
        )
        return {
            "method": self.name,
            **{k: t[k] for k in ("real", "fake", "generators", "benchmarks")},
            **ids,
            "toy_world": toy,
            "threshold": self.threshold,
            "train_auc": self.train_auc,
            "text": text,
        }

    def save(
        self, folder: str | Path, *, results: Mapping[str, Any] | None = None
    ) -> None:
        """Writes the folder; each file is whole or absent, `config.json` comes last.

        Args:
          folder: to be written to.
          results: as for `card`.

        Raises:
          ValueError: for a number in the state that is not finite.
        """
        folder = Path(folder)
        arrays, plain = method_files.split(self.state)
        method_files.check_finite(arrays, folder / method_files.WEIGHTS)
        with files.atomic_file(folder / method_files.WEIGHTS, binary=True) as f:
            f.write(save(arrays))
        with files.atomic_file(folder / "README.md") as f:
            f.write(self.card(results))
        head = {"schema": method_files.SCHEMA, "item_jax": __version__}
        files.write_json(folder / "config.json", head | self.config | {"state": plain})

    @classmethod
    def load(cls, folder: str | Path, *, modules: bool = True) -> FittedMethod:
        """Reads what `save` wrote, or version 0.1.

        Args:
          folder: of the method.
          modules: whether it may name modules outside item_jax, which are imported.

        Raises:
          ValueError: if a file is missing, damaged or of another schema, a number is
            not finite, or the state is not what the method needs; naming the file and
            field or tensor. Or if it names a module and may not.
        """
        folder = Path(folder)
        config, state = method_files.read(folder, modules=modules)
        module = methods.get(config["method"])
        if hasattr(module, "check"):
            try:
                module.check(state)
            except (KeyError, TypeError, AttributeError, ValueError) as e:
                detail = f"{e.args[0]!r} is missing" if isinstance(e, KeyError) else e
                raise ValueError(f"{folder}: {detail}") from e
        return cls(config, state, module)

    def card(self, results: Mapping[str, Any] | None = None) -> str:
        """Returns the model card.

        Args:
          results: the content of a `results.json`, whose figures it shows.

        Raises:
          ValueError: if they are not of this method.
        """
        plain = method_files.split(self.state)[1]
        return model_card.card(self.config, self.range(), plain, results)


def load_seeds(folder: str | Path) -> list[FittedMethod]:
    """Loads a method and its further seeds, in the order of the seeds.

    Raises:
      ValueError: as `FittedMethod.load`; for a `seed-*` without a number; or if they
        differ in more than the seed.
    """
    folder = Path(folder)
    others = list(folder.glob("seed-*"))
    for place in others:
        if not place.name.removeprefix("seed-").isdecimal():
            raise ValueError(f"{place}: expected seed-NUMBER; move it elsewhere")
    others.sort(key=lambda place: int(place.name.removeprefix("seed-")))
    loaded = [FittedMethod.load(place) for place in (folder, *others)]

    def but_for_the_seed(fitted: FittedMethod) -> dict[str, Any]:
        training = fitted.config["training"] | {"seed": None}
        # Each seed has a threshold of its own after `item-jax calibrate`.
        own = (
            *("item_jax", "fit"),
            *(("threshold", "calibration") if fitted.calibration else ()),
        )
        config = {k: v for k, v in fitted.config.items() if k not in own}
        return config | {
            "training": training,
            "state": method_files.split(fitted.state)[1],
        }

    for place, fitted in zip(others, loaded[1:]):
        if but_for_the_seed(fitted) != but_for_the_seed(loaded[0]):
            raise ValueError(
                f"{place} differs from {folder} in more than the seed: they are not of "
                "one training"
            )
    return loaded


def not_learned(name: str, seeds: Sequence[FittedMethod]) -> list[str]:
    """Warns of a method that does not rank the images it was trained on.

    Args:
      name: of the method, for the warning.
      seeds: one fitted method per seed, or what scores like one.

    Returns:
      One warning, or none.
    """
    failed = [s.train_auc for s in seeds if getattr(s, "learned", None) is False]
    if not failed:
        return []
    of = f" in {len(failed)} of {len(seeds)} seeds" if len(seeds) > 1 else ""
    shown = ", ".join(f"{auc:.3f}" for auc in failed)
    found = (
        f"{name} did not learn{of}: AUC {shown} on its own training images (below "
        f"{LEARNED:g}; chance is 0.5)"
    )
    if (seeds[0].config.get("fit") or {}).get("epochs") is None:
        return [f"{found}. What it reads tells little about them"]
    return [
        f"{found}. Before its figures are taken for the method's: try more epochs, "
        "another learning rate or more images"
    ]
