"""Training (Algorithm 1 of ITEM): cache -> method -> a folder.

A method is fitted once on the training images of a cache and saved with what it was
fitted on. What was fitted with other settings is never replaced unasked.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from item_jax import files, fit_records, methods, published, settings, training_loop
from item_jax import fitted as fitted_lib
from item_jax.cache import EmbeddingCache
from item_jax.choices import nearest
from item_jax.config import FIELDS, leaves, to_json
from item_jax.embeddings import Embeddings
from item_jax.fitted import FittedMethod
from item_jax.sharding import barrier, is_main_process
from item_jax.training_loop import OnEpoch
from item_jax.workdir import PLAIN_METHOD, Workdir


@dataclasses.dataclass(frozen=True)
class Training:
    """What `train` returns.

    Attributes:
      methods: one fitted method per seed.
      new: whether they were fitted now; False if they were there already.
    """

    methods: list[FittedMethod]
    new: bool


VALIDATION = "val"
"""The split that judges a training, where the data have it."""

NOT_FITTED = ("threshold", "baselines", "checkpoint_every")
"""Fields of `config.train` that change nothing about a state."""


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """The labelled images that methods are fitted on.

    Attributes:
      parts: their embeddings.
      embedding: what those depend on; see `item_jax.settings`.
      facts: `real` and `fake` (counts), `split`, `only` (the generators asked for, ()
        for all), `generators` (of the fakes), `benchmarks`, `records_sha256`.
      validation: images of split "val" that a training may be judged on, of the same
        generators; none if it is trained on, or has one label only.
    """

    parts: list[Embeddings]
    embedding: dict[str, Any]
    facts: dict[str, Any]
    validation: list[Embeddings] = dataclasses.field(default_factory=list)


def training_set(cache: EmbeddingCache, config: ConfigDict) -> TrainingSet:
    """Reads the training images of a cache.

    Args:
      cache: finished; the rows of `config.train.split` and `config.train.generators`
        that have a label are used.
      config: `train`.

    Raises:
      ValueError: if a generator has no images, or all images are real, or all fake.
    """
    split, only = config.train.split, tuple(config.train.generators)
    seen: dict[str, set[str]] = {}  # split -> generators of its labelled images
    parts, validation = [], []

    def chosen(part: Embeddings, split: str) -> list[Embeddings]:
        part = part.where(
            lambda row: (
                row["label"] is not None
                and cache.selects(row, split=split, generators=only)
            )
        )
        return [part] if len(part) else []

    for part, _ in cache:
        for row in part.rows:
            if row["label"] is not None:
                seen.setdefault(row["split"], set()).add(row["generator"])
        parts += chosen(part, split)
        validation += chosen(part, VALIDATION) if split not in ("", VALIDATION) else []
    if split and split not in seen:
        raise ValueError(
            f"train.split: no labelled image of split {split!r}; "
            f"{nearest(split, filter(None, sorted(seen)))} Empty takes all"
        )
    usable = seen.get(split, set()) if split else set().union(*seen.values())
    known = sorted(usable - {""})
    for name in only:
        if name not in known:
            raise ValueError(
                f"train.generators: no labelled image of {name!r} in "
                f"{_split_text(split)}; {nearest(name, known)}"
            )
    rows = [row for part in parts for row in part.rows]
    real, fake = _counts(parts)
    if not real or not fake:
        raise ValueError(
            f"training needs real and fake images, found {real} real and {fake} fake "
            f"in {_split_text(split)}, of generators {', '.join(only) or '(all)'}; "
            f"those it has: {', '.join(known) or 'none by name'}. "
            "--config.train.split= and --config.train.generators= choose; empty takes "
            "all"
        )
    facts = {
        "real": real,
        "fake": fake,
        "split": split,
        "only": list(only),
        "generators": sorted({r["generator"] for r in rows if r["label"] == "fake"}),
        "benchmarks": sorted({row["benchmark"] for row in rows}),
        "records_sha256": cache.manifest["records_sha256"],
    }
    both = all(_counts(validation))
    return TrainingSet(parts, cache.embedding, facts, validation if both else [])


def _counts(parts: Sequence[Embeddings]) -> tuple[int, int]:
    """How many images are real, and how many fake."""
    labels = [row["label"] for part in parts for row in part.rows]
    return labels.count("real"), labels.count("fake")


def _split_text(split: str) -> str:
    return f"split {split!r}" if split else "any split"


def fit_method(
    name: Any,
    data: TrainingSet,
    config: ConfigDict,
    *,
    overridden: Sequence[str] = (),
    checkpoints: str | Path | None = None,
    start: published.Weights | None = None,
    on_epoch: OnEpoch = lambda epoch, losses: None,
) -> list[FittedMethod]:
    """Fits a method.

    Args:
      name: of the method; see `methods.get`.
      data: what to fit it on.
      config: its sections; `train.seeds` states are fitted by a method that has seeds,
        with `seed`, `seed + 1`, ... Where the method has published settings, they take
        the place of fields that are at the package's default.
      overridden: fields to be taken as they are, even at the package's default.
      checkpoints: a folder from which a stopped training goes on.
      start: weights to start from, see `published.start`; None: random ones.
      on_epoch: called with the epoch (from 1) and the mean loss of each seed.

    Returns:
      One fitted method per seed. Its record has what came of the fit, `fit`:
      "train_auc", the AUC on training images (`fit_records.VALIDATES` of each label at
      most; below `fitted.LEARNED` it did not learn), their number "train_auc_images",
      and "epochs", how many it trained, which early stopping may end (None without
      epochs).

    Raises:
      ValueError: for an unknown method, one that reads an output of the image tower
        that the embeddings lack, or a score that is not in [0, 1].
    """
    module = methods.get(name)
    stored = data.embedding.get("outputs", ())
    settings.check_outputs(_name(name), module.NEEDS, stored)
    config = adapted(module, config, overridden)
    seeds = seeds_of(module, config)
    with training_loop.counted() as counts:
        if hasattr(module, "fit_seeds"):
            others: dict[str, Any] = {} if start is None else {"start": start}
            if getattr(module, "VALIDATES", False):
                others["validation"] = data.validation
            states = module.fit_seeds(
                data.parts,
                config,
                seeds,
                checkpoints=checkpoints,
                on_epoch=on_epoch,
                **others,
            )
        else:
            states = [module.fit(data.parts, config)]
    made = [
        FittedMethod(_record(name, module, data, config, seed, start), state, module)
        for seed, state in zip(seeds, states)
    ]
    fit_records.add(made, data.parts, counts)
    return made


def adapted(
    module: Any, config: ConfigDict, overridden: Sequence[str] = ()
) -> ConfigDict:
    """Returns the configuration with what a method fixes, or has other defaults for.

    Args:
      module: the method.
      config: of the run; fields that differ from the package's default stay.
      overridden: fields that stay too.
    """
    config = config.copy_and_resolve_references()
    old = leaves(config)
    chosen = {
        field: value
        for field, value in getattr(module, "DEFAULTS", {}).items()
        if field not in overridden and old[field] == FIELDS[field].default
    }
    for field, value in (chosen | getattr(module, "FIXES", {})).items():
        section, _, leaf = field.rpartition(".")
        (config[section] if section else config)[leaf] = value
    return config


def seeds_of(module: Any, config: ConfigDict) -> list[int]:
    """Returns the seeds a method is fitted with; one without `fit_seeds` has one."""
    count = config.train.seeds if hasattr(module, "fit_seeds") else 1
    return [config.seed + k for k in range(count)]


def refuse_unused(name: str, fields: Sequence[str]) -> None:
    """Refuses overrides that a method would ignore, or that contradict it.

    Args:
      name: of the method.
      fields: the overridden ones, of what `item-jax train` reads.

    Raises:
      ValueError: naming field and method.
    """
    module = methods.get(name)
    used = getattr(module, "SETTINGS", ())
    always = {"train.split", "train.generators", "train.threshold", "train.baselines"}
    if methods.reads_pixels(module):
        always |= {"data.records", "data.images"}
    if methods.reads_error_maps(module):
        always |= {"data.error_maps"}
    for field in fields:
        if field in getattr(module, "FIXES", {}):
            raise ValueError(
                f"method {name!r} sets {field} = {module.FIXES[field]!r} itself"
            )
        section = field.partition(".")[0]
        seed = field == "seed" and hasattr(module, "fit_seeds")
        every = field == "train.checkpoint_every" and hasattr(module, "fit_seeds")
        known = {field, section} & set(used) or field in always or seed or every
        if field in FIELDS and not known:
            raise ValueError(f"method {name!r} does not use {field!r}")


def _name(method: Any) -> str:
    return method if isinstance(method, str) else getattr(method, "__name__", "?")


def _record(
    name, module, data: TrainingSet, config: ConfigDict, seed: int, start=None
) -> dict:
    """The part of `config.json` that describes a training."""
    used: dict[str, Any] = {}
    for name_used in getattr(module, "SETTINGS", ()):
        section, _, leaf = name_used.partition(".")
        values = to_json(config[section])
        used.setdefault(section, {}).update({leaf: values[leaf]} if leaf else values)
    for field in NOT_FITTED:
        used.get("train", {}).pop(field, None)
    if getattr(module, "START", ""):
        used["start"] = "random weights"
        if start is not None:
            used["start"] = {"file": start.file, "sha256": start.sha256}
    training = {**data.facts, "seed": seed, "settings": used}
    if getattr(module, "VALIDATES", False):
        real, fake = _counts(data.validation)
        training["validation"] = {"real": real, "fake": fake}
    return {
        "method": _name(name),
        "embedding": settings.with_outputs(data.embedding, module.NEEDS),
        "threshold": config.train.threshold,
        "training": training,
    }


def train(
    cache: EmbeddingCache,
    config: ConfigDict,
    *,
    workdir: str | Path,
    method: str = "item",
    name: str = PLAIN_METHOD,
    force: bool = False,
    overridden: Sequence[str] = (),
    data: TrainingSet | None = None,
    weights: str | Path | None = None,
    start: str | Path | None = None,
    on_epoch: OnEpoch = lambda epoch, losses: None,
) -> Training:
    """Fits a method and saves it in a workdir; a stopped training goes on.

    Args:
      cache: finished.
      config: see `item_jax.config`.
      workdir: gets `head/` or `methods/NAME/`, with `seed-N/` of further seeds inside,
        losses in `metrics.jsonl`, and `checkpoints/` while it trains.
      method: see `methods.get`.
      name: "head" for `head/`, any other for `methods/NAME/`.
      force: whether to replace what was fitted with other settings.
      overridden: as for `fit_method`.
      data: the training set, when it has been read already.
      weights: published ones, which are taken instead of fitting; see `published`.
      start: a file of weights that the training starts from; see `published.start`.
      on_epoch: as for `fit_method`.

    Returns:
      The fitted methods: those that are there, if they have the same settings.

    Raises:
      ValueError: if something fitted with other settings is there (naming each
        setting that differs), or as `fit_method` and `training_set`.
    """
    place, module = Workdir(workdir), methods.get(method)
    folder = place.method(name)
    adapted_config = adapted(module, config, overridden)
    begin = None if start is None else published.start(method, start)
    if weights is not None:
        threshold = config.train.threshold
        made = [published.read(method, weights, cache, threshold=threshold)]
        seeds, wanted = [0], made[0].config
    else:
        data = data or training_set(cache, config)
        seeds = seeds_of(module, adapted_config)
        wanted = _record(method, module, data, adapted_config, seeds[0], begin)
    there = _compare(folder, wanted, len(seeds), force)
    barrier(f"compared {name}")  # before the first of several processes writes
    if there is not None:
        return Training(there, new=False)
    checkpoints = place.checkpoints(name)
    if weights is None:
        assert data is not None
        made = fit_method(
            method,
            data,
            config,
            overridden=overridden,
            checkpoints=checkpoints,
            start=begin,
            on_epoch=_logged(place.metrics, name, on_epoch),
        )
    if is_main_process():
        # The methods of all seeds together, in place of those of an earlier training.
        with files.atomic_folder(folder) as partial:
            for k, one in enumerate(made):
                one.save(partial / (f"seed-{seeds[k]}" if k else ""))
        files.remove_folder(checkpoints)
        if checkpoints.parent.is_dir() and not any(checkpoints.parent.iterdir()):
            checkpoints.parent.rmdir()
    barrier(f"trained {name}")
    return Training(made, new=True)


def _compare(
    folder: Path, wanted: dict[str, Any], seeds: int, force: bool
) -> list[FittedMethod] | None:
    """Returns the methods of a folder if they are those wanted; None to fit them."""
    if not folder.exists() or force:
        return None
    there = fitted_lib.load_seeds(folder)
    old, new = leaves(there[0].config), leaves(json.loads(json.dumps(wanted)))
    old["seeds"], new["seeds"] = len(there), seeds
    if there[0].calibration:  # its threshold came later, from `item-jax calibrate`
        old["threshold"] = there[0].calibration["uncalibrated_threshold"]
    ignored = ("schema", "item_jax", "embedding.tower.name")
    differing = [
        f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
        for name in dict.fromkeys((*old, *new))
        if old.get(name) != new.get(name)
        and name not in ignored
        and not name.startswith(("calibration.", "fit."))
    ]
    if not differing:
        return there
    raise ValueError(
        f"{folder} was fitted with other settings: {'; '.join(differing)}. Give this "
        "one a name (--as NAME), or replace the other (--force)"
    )


def _logged(path: Path, name: str, on_epoch: OnEpoch) -> OnEpoch:
    """Writes a line of `metrics.jsonl` an epoch, each epoch of a training once."""
    begun = False

    def log(epoch: int, losses: np.ndarray) -> None:
        nonlocal begun
        if is_main_process():
            if not begun:  # drop what a run that was killed wrote beyond its checkpoint
                files.write_json_lines(path, _rows_before(path, name, epoch))
                begun = True
            row = {"stage": "train", "method": name, "epoch": epoch}
            loss = [round(float(x), 6) for x in losses]
            with open(path, "a", encoding="utf-8") as f:
                f.write(files.json_line(row | {"loss": loss}))
        on_epoch(epoch, losses)

    return log


def _rows_before(path: Path, name: str, epoch: int) -> list[dict[str, Any]]:
    rows = []
    if path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                row = files.parse_json(line, path)
            except ValueError:  # torn by a kill: that epoch is trained again
                continue
            if row.get("method", PLAIN_METHOD) != name or row.get("epoch", 0) < epoch:
                rows.append(row)
    return rows
