"""The files of a fitted method: arrays and JSON taken apart, read back and checked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from item_jax import choices, files, heads, methods, misalignment, settings
from item_jax.config import leaves
from item_jax.workdir import Workdir

SCHEMA = "item-method/1"
SCHEMA_0_1 = "item-head/1"
WEIGHTS, WEIGHTS_0_1 = "weights.safetensors", "head.safetensors"

LATER = {"levels": "sum"}
"""Fields of `misalignment` that came after some heads, at what was the only value."""

_SHAPE: dict[str, Any] = {
    "method": str,
    "state": dict,
    "threshold": (int, float),
    "training.real": int,
    "training.fake": int,
    "training.split": str,
    "training.generators": list,
    "training.benchmarks": list,
    "training.seed": int,
    "training.settings": dict,
    "training.records_sha256": str,
}


def read(
    folder: Path, *, modules: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the folder of a fitted method, of this version or 0.1.

    Args:
      folder: of the method.
      modules: whether it may name modules outside item_jax.

    Returns:
      Its configuration without the state, and the state.

    Raises:
      ValueError: if a file is missing, damaged or of another schema, or a number is not
        finite; naming the file and field or tensor. Or if it names a module but may
        not.
    """
    path = folder / "config.json"
    _check_there(path)
    config = files.read_json(path)
    weights = folder / WEIGHTS
    if config.get("schema") == SCHEMA_0_1:
        config, weights = _upgrade(config, path), folder / WEIGHTS_0_1
    elif "schema" not in config and "model_type" in config:
        kind = files.printable(config["model_type"])
        raise ValueError(
            f"{folder} is a checkpoint of model type {kind!r}, not a fitted method: "
            "`item-jax train` writes one, such as WORKDIR/head"
        )
    elif config.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} is of schema {config.get('schema')!r}; this version reads "
            f"{SCHEMA!r} and {SCHEMA_0_1!r}"
        )
    _check_config(config, path)
    for owner in (config["state"], config["training"]["settings"]):
        if isinstance(owner.get("misalignment"), dict):
            owner["misalignment"] = LATER | owner["misalignment"]
    if not modules:
        _refuse_modules(config, path)
    arrays = _read_arrays(weights)
    if weights.name == WEIGHTS_0_1:
        arrays = {f"params.{name}": value for name, value in arrays.items()}
    return config, _merged(config.pop("state"), arrays, weights)


def _check_there(path: Path) -> None:
    """Refuses what is no readable file, saying what it is, or what its folder is."""
    wrong = files.what_is_wrong(path)
    if not wrong:
        return
    folder = path.parent
    text = f"no fitted method in {folder}"
    if not os.path.lexists(folder):
        raise ValueError(f"{text}: there is no such folder")
    if not folder.is_dir():
        what = files.what_is_wrong(folder) or "not a folder"
        raise ValueError(f"{text}: it is {what}")
    if wrong != "missing":
        raise ValueError(f"{text}: {path.name} is {wrong}")
    if (folder / "open_clip_config.json").is_file():
        raise ValueError(f"{text}: it is a checkpoint of open_clip")
    below = {
        name: place
        for name, place in Workdir(folder).methods().items()
        if not files.what_is_wrong(place / "config.json")
    }
    if not below:
        raise ValueError(f"{text}: {path.name} is missing")
    named = [p.relative_to(folder).as_posix() for p in below.values()]
    first = next(iter(below.values()))
    raise ValueError(
        f"{text} itself; it has {', '.join(named)}: did you mean {str(first)!r}?"
    )


def _check_config(config: Mapping[str, Any], path: Path) -> None:
    for name, kind in _SHAPE.items():
        files.field(config, name, kind, path)
    settings.check(config, path)
    for name in ("generators", "benchmarks"):
        if not all(isinstance(value, str) for value in config["training"][name]):
            raise ValueError(f"{path}: 'training.{name}' is not a list of names")
    threshold = config["threshold"]
    if not (math.isfinite(threshold) and 0 <= threshold <= 1):
        raise ValueError(f"{path}: threshold {threshold} is not in [0, 1]")
    if config.get("fit") is not None:
        _check_fit(config, path)
    if config.get("calibration") is not None:
        _check_calibration(config, path)


def _check_fit(config: Mapping[str, Any], path: Path) -> None:
    none = type(None)
    auc = files.field(config, "fit.train_auc", (int, float, none), path)
    files.field(config, "fit.train_auc_images", int, path)
    epochs = files.field(config, "fit.epochs", (int, none), path)
    if auc is not None and not 0 <= auc <= 1:
        raise ValueError(f"{path}: fit.train_auc {auc} is not in [0, 1]")
    if epochs is not None and epochs < 0:
        raise ValueError(f"{path}: fit.epochs {epochs} is below 0")


def _refuse_modules(config: Mapping[str, Any], path: Path) -> None:
    """Refuses names of modules that are not the package's own, before any import."""
    state = leaves({"state": config["state"]})
    tables = {
        "method": (config["method"], methods.names()),
        "state.misalignment.name": (
            state.get("state.misalignment.name", "item"),
            list(misalignment.MISALIGNMENTS),
        ),
        "state.head.name": (state.get("state.head.name", "mlp"), list(heads.HEADS)),
        "embedding.tower.family": (
            config["embedding"]["tower"]["family"],
            ["", *choices.modules("item_jax.towers")],
        ),
    }
    for field, (name, ours) in tables.items():
        if name not in ours:
            raise ValueError(
                f"{path}: {field} names code that is not part of item_jax: {name!r}. "
                "If you trust it, download the folder and load it from there"
            )


_CALIBRATION: dict[str, Any] = {
    "fpr": (int, float),
    "best_accuracy_threshold": (int, float),
    "uncalibrated_threshold": (int, float),
    "n_real": int,
    "n_fake": int,
    "split": str,
    "generators": list,
    "records_sha256": str,
}


def _check_calibration(config: Mapping[str, Any], path: Path) -> None:
    for name, kind in _CALIBRATION.items():
        files.field(config, f"calibration.{name}", kind, path)
    own = config["calibration"]
    for name in ("fpr", "best_accuracy_threshold", "uncalibrated_threshold"):
        if not 0 <= own[name] <= 1:
            raise ValueError(f"{path}: calibration.{name} {own[name]} is not in [0, 1]")
    if own.get("temperature") is not None:
        value = files.field(config, "calibration.temperature", (int, float), path)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{path}: calibration.temperature {value} is not above 0")


def split(state: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Splits a state into arrays by dotted name and the rest, which JSON can hold."""
    arrays: dict[str, np.ndarray] = {}
    plain: dict[str, Any] = {}
    for name, value in state.items():
        if "." in name:
            raise ValueError(f"a name in a state must not have a dot: {name!r}")
        if isinstance(value, Mapping):
            inner, rest = split(value)
            arrays |= {f"{name}.{key}": array for key, array in inner.items()}
            if rest or not inner:
                plain[name] = rest
        elif hasattr(value, "dtype"):
            arrays[name] = np.ascontiguousarray(value)
        else:
            plain[name] = value
    return arrays, plain


def _merged(plain: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> dict:
    """Puts what `split` took apart together again."""
    for name, value in arrays.items():
        *above, leaf = name.split(".")
        place = plain
        for part in above:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{path}: tensor {name!r} has no place in the state")
        place[leaf] = value
    return plain


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    _check_there(path)
    try:
        arrays = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as e:
        raise ValueError(f"{path} is damaged: {e}") from e
    check_finite(arrays, path)
    return arrays


def check_finite(arrays: Mapping[str, np.ndarray], where: object) -> None:
    """Refuses tensors with NaN or infinity, or without numbers.

    Args:
      arrays: by name.
      where: their file, for the message.

    Raises:
      ValueError: naming the first such tensor.
    """
    for name, value in arrays.items():
        if not (np.issubdtype(value.dtype, np.number) and np.isfinite(value).all()):
            raise ValueError(
                f"{where}: tensor {name!r} holds numbers that are not finite"
            )


def _upgrade(old: dict[str, Any], path: Path) -> dict[str, Any]:
    """Brings the `config.json` of version 0.1 into today's form."""
    try:
        towers, training = old["towers"], old["training"]
        chosen = training["settings"]["generators"]
        return {
            "method": "item",
            "state": {"misalignment": old["misalignment"], "head": old["head"]},
            "embedding": settings.upgrade(
                old["embedding"], tower=towers["name"], embed_dim=towers["embed_dim"]
            ),
            "threshold": old["threshold"],
            "training": training
            | {
                "benchmarks": [],  # not recorded then
                "settings": {
                    "misalignment": old["misalignment"],
                    "head": {k: old["head"][k] for k in ("name", "hidden_dim")},
                    "train": training["settings"],
                },
                "only": chosen,
            },
        }
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        detail = f"{e.args[0]!r} is missing" if isinstance(e, KeyError) else e
        raise ValueError(f"{path}: {detail}") from e
