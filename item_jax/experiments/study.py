"""What the experiments of one workdir share: its caches, fitted methods and results.

A cache is found by its settings, not by its name: the main one is `embeddings/`, any
other differs from it in what an experiment varies, and in nothing else.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from item_jax import config as config_lib
from item_jax import evaluate, methods, settings
from item_jax import train as train_lib
from item_jax.cache import EmbeddingCache
from item_jax.choices import check
from item_jax.datasets.dataset import Dataset, digest
from item_jax.datasets.selection import of_split
from item_jax.embeddings import Row
from item_jax.error_maps import MAKE, ErrorMaps
from item_jax.fitted import FittedMethod
from item_jax.pixels import Pictures
from item_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Need:
    """A cache that an experiment compares with the main one.

    Attributes:
      what: it holds, for people.
      name: of the cache that `item-jax paper` makes.
      changes: its settings that differ from the main cache's, `{"perturb.name":
        "noise"}`.
      free: sections of the settings that may differ in any other way too.
      words: of the `item-jax embed` that makes it, after workdir and run card.
    """

    what: str
    name: str
    changes: Mapping[str, Any]
    words: tuple[str, ...]
    free: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Missing:
    """Something an experiment does without.

    Attributes:
      what: is missing.
      why: in a sentence.
      commands: that make it.
    """

    what: str
    why: str
    commands: tuple[str, ...] = ()


class Study:
    """The caches and methods of a workdir.

    Attributes:
      config: the run card's, with overrides.
      workdir: of the study.
      main: its plain cache, with training and test images.
    """

    def __init__(
        self,
        workdir: Workdir,
        config: ConfigDict,
        *,
        card: str = "",
        force: bool = False,
        data: Dataset | None = None,
        say: Callable[[str], None] = lambda text: None,
    ):
        """Opens a study.

        Args:
          workdir: with a finished `embeddings/`.
          config: `seed`, `misalignment`, `head`, `train`, `evaluate`, `paper`.
          card: the run card, for the commands that are printed.
          force: whether to replace methods that were fitted with other settings.
          data: that the main cache was made of, for methods that read pixels.
          say: is told what is being fitted.

        Raises:
          ValueError: without a finished cache, if `data` are other records, or for
            weights of a method that is not among the rows.
        """
        self.config = config
        self.workdir = workdir
        self._card, self._force, self._say = card, force, say
        self._start = starts(config.paper.start, config.paper.methods)
        self._settings = own_settings(config.paper.settings, config.paper.methods)
        self.main = EmbeddingCache(workdir.cache())
        self.main.check_finished()
        self._data = data
        if data is not None:
            Pictures(data, self.main.embedding).check(self.main)
            self._attach(self.main)
        self._training: dict[tuple, train_lib.TrainingSet] = {}
        self._results: dict[tuple, dict[str, Any]] = {}
        self._rows: dict[str, list[Row]] = {}

    def words(self, need: Need) -> list[str]:
        """Returns the words of the `item-jax` command that makes a cache."""
        start = ["embed", *([f"--config={self._card}"] if self._card else [])]
        start += ["--workdir", str(self.workdir.path), "--cache", need.name]
        return [*start, *need.words]

    def command(self, need: Need) -> str:
        """Returns the command that makes a cache, for a shell."""
        return shlex.join(["item-jax", *self.words(need)])

    def again(
        self,
        changes: Mapping[str, str],
        names: Sequence[str] = ("table1", "table2", "table3"),
    ) -> str:
        """Returns the command for experiments with other settings, for a shell."""
        words = ["paper", *names]
        words += [f"--config={self._card}"] if self._card else []
        words += ["--workdir", str(self.workdir.path)]
        words += [f"--config.{name}={value}" for name, value in changes.items()]
        return shlex.join(["item-jax", *words])

    def find(self, need: Need) -> EmbeddingCache | Missing:
        """Finds a cache by its settings.

        Returns:
          The cache; or what is missing and why: there is none, it is not finished, or
          the one there differs from the main cache in other settings, or in its images.
        """
        why = "there is no such cache"
        for folder in sorted((self.workdir.path / "caches").glob("*/manifest.json")):
            cache = EmbeddingCache(folder.parent)
            own = config_lib.leaves(cache.embedding)
            if any(own.get(name) != value for name, value in need.changes.items()):
                continue
            if not cache.finished:
                why = f"{cache.folder} is not finished"
                continue
            also = {
                name: values
                for name, values in settings.differing(
                    self.main.embedding, cache.embedding
                ).items()
                if name not in need.changes and name.partition(".")[0] not in need.free
            }
            if also:
                found = "; ".join(
                    f"{name} is {new!r}, in {self.main.folder.name}/ {old!r}"
                    for name, (old, new) in also.items()
                )
                why = f"{cache.folder} differs in more than that: {found}"
                continue
            others = self._test_keys(cache) ^ self._test_keys(self.main)
            if others:
                why = (
                    f"{cache.folder} holds other test images: {len(others)} are in one "
                    f"of the two caches only, such as {min(others)!r}"
                )
                continue
            self._attach(cache)
            return cache
        return Missing(need.what, why, (self.command(need),))

    def _attach(self, cache: EmbeddingCache) -> None:
        """Gives a cache the images it was made of, if they are those of the study."""
        if self._data is None:
            return
        split = self.config.evaluate.split
        for data in (self._data, *([of_split(self._data, split)] if split else [])):
            if digest(data) == cache.manifest["records_sha256"]:
                maps = None
                plain = cache.embedding["perturb"] == self.main.embedding["perturb"]
                if self.config.data.error_maps and plain:
                    maps = ErrorMaps(self.config.data.error_maps, cache.embedding)
                cache.images = Pictures(data, cache.embedding, maps)
                return

    def lacks(self, method: str, cache: EmbeddingCache) -> Missing | None:
        """Returns what a method cannot do without on a cache, None for nothing."""
        if not methods.reads_error_maps(methods.get(method)):
            return None
        if getattr(cache.images, "error_maps", None) is not None:
            return None
        return Missing(
            f"error maps for {method} on {cache.folder.name}/",
            f"{MAKE} of images as the cache has them; --config.data.error_maps names "
            "those of the clean ones",
            ("python scripts/reconstruct.py --images IMAGES --out MAPS --model MODEL",),
        )

    def test_rows(self, cache: EmbeddingCache | None = None) -> list[Row]:
        """Returns the rows that are tested on, failed ones included."""
        cache = cache or self.main
        name, split = str(cache.folder), self.config.evaluate.split
        if name not in self._rows:
            self._rows[name] = [
                row
                for shard in range(cache.manifest["shards"])
                for row in cache.rows(shard)
                if not split or row["split"] == split
            ]
        return self._rows[name]

    def test_names(self) -> set[str]:
        """Returns the benchmarks and generators with labelled test images, and
        `benchmark/generator`."""
        found = set()
        for row in self.test_rows():
            if row["label"] is not None and row["status"] == "done":
                place = row["benchmark"], row["generator"]
                found |= {*place, "/".join(place)}
        return found - {""}

    def _test_keys(self, cache: EmbeddingCache) -> set[str]:
        return {row["key"] for row in self.test_rows(cache)}

    def fit(
        self,
        name: str,
        method: str = "item",
        changes: Mapping[str, Any] | None = None,
        *,
        cache: EmbeddingCache | None = None,
    ) -> list[FittedMethod]:
        """Fits a method, or loads it when it was fitted before.

        Args:
          name: of `WORKDIR/paper/methods/NAME/`.
          method: see `item_jax.methods`.
          changes: fields of the configuration that differ from the run card's.
          cache: to train on; by default the main one.

        Returns:
          One fitted method per seed.

        Raises:
          ValueError: if another one has the name, or there are no images to train on.
        """
        cache = cache or self.main
        config = self.changed(changes or {})
        own = self._settings.get(method, {})
        for field, value in own.items():
            config_lib.override(config, field, value)
        images = (str(cache.folder), config.train.split, tuple(config.train.generators))
        if images not in self._training:
            self._training[images] = train_lib.training_set(cache, config)
        training = train_lib.train(
            cache,
            config,
            workdir=self.workdir.path / "paper",
            method=method,
            name=slug(name),
            force=self._force,
            overridden=tuple(own),
            data=self._training[images],
            start=self._start.get(method),
        )
        if training.new:
            self._say(f"fitted {name}")
        return training.methods

    def evaluate(
        self,
        fitted: Mapping[str, Sequence[FittedMethod]],
        *,
        cache: EmbeddingCache | None = None,
        only: Iterable[str] = (),
        varied: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Returns the results of methods, as `item_jax.evaluate_methods`.

        Args:
          fitted: by name, the first one is what the others are compared with.
          cache: to score; by default the main one.
          only: generators or benchmarks; () is all of them.
          varied: settings, or sections of them, in which the cache differs from the
            training on purpose: no warning says so.
        """
        cache = cache or self.main
        config = self.changed({"evaluate.generators": tuple(only)})
        key = (
            *(str(cache.folder), tuple(only), tuple(varied)),
            *((n, id(m)) for n, m in fitted.items()),
        )
        if key not in self._results:
            self._results[key] = evaluate.evaluate_methods(
                cache, fitted, config, varied=varied
            )
        return self._results[key]

    def changed(self, changes: Mapping[str, Any]) -> ConfigDict:
        """Returns the configuration with some fields changed."""
        config = self.config.copy_and_resolve_references()
        for name, value in changes.items():
            section, _, leaf = name.rpartition(".")
            (config[section] if section else config)[leaf] = value
        return config


def starts(entries: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Reads `METHOD=FILE` of `paper.start`.

    Args:
      entries: those.
      names: the methods there are.

    Raises:
      ValueError: for another form, or another method.
    """
    found = {}
    for entry in entries:
        name, _, file = entry.partition("=")
        if not file:
            raise ValueError(f"paper.start: {entry!r} is not METHOD=FILE")
        found[check("method of paper.start", name, names)] = file
    return found


def own_settings(
    entries: Iterable[str], names: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Reads `METHOD:FIELD=VALUE` of `paper.settings`.

    Args:
      entries: those.
      names: the methods there are.

    Returns:
      {method: {field: value}}.

    Raises:
      ValueError: for another form or method, an unknown field, one that the method
        does not use, or a value of another type.
    """
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        setting, _, value = entry.partition("=")
        name, _, field = setting.rpartition(":")
        if not (name and field and value):
            raise ValueError(f"paper.settings: {entry!r} is not METHOD:FIELD=VALUE")
        name = check("method of paper.settings", name, names)
        config_lib.override(config_lib.default(), field, value)
        train_lib.refuse_unused(name, [field])
        found.setdefault(name, {})[field] = value
    return found


def slug(text: str) -> str:
    """Returns a name for a folder, made of the letters and digits of a text."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.") or "unnamed"
