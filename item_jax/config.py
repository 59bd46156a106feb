"""The numbers of the papers as one `ConfigDict`: read, overridden and checked.

`item_jax.fields` has the table of all fields, each with its source and meaning.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from item_jax.choices import nearest
from item_jax.fields import FIELDS, READS

__all__ = [
    *("FIELDS", "READS"),
    *("check", "default", "leaves", "load", "override", "refuse_unused"),
    *("shipped_cards", "to_json", "used_by"),
]

_RENAMED = {"evaluate.threshold": "train.threshold", "baselines": "train.baselines"}

_GONE = {
    "evaluate.bootstrap": "intervals are computed without drawing images; leave it out"
}


def default() -> ConfigDict:
    """Returns the paper's configuration, locked: an unknown field raises."""
    config = ConfigDict()
    for name, field in FIELDS.items():
        section, _, leaf = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[leaf] = field.default
    config.lock()
    return config


def load(card: str | Path) -> ConfigDict:
    """Reads a run card: a Python file that defines `get_config()`.

    Args:
      card: a file such as `configs/item_vitl14.py`, or the name of a card that comes
        with the package, such as `item_vitl14`. Text after a colon is handed to
        `get_config` as its argument.

    Raises:
      ValueError: if there is no such card, or it does not define a configuration.
    """
    path, _, argument = str(card).partition(":")
    source = _card_file(path)
    spec = importlib.util.spec_from_file_location("item_jax_run_card", source)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("it defines no get_config()")
        config = module.get_config(argument) if argument else module.get_config()
        if not isinstance(config, ConfigDict) or leaves(config).keys() != FIELDS.keys():
            raise ValueError("get_config() must return an edited config.default()")
    except Exception as e:  # whatever somebody's own Python file may raise
        raise ValueError(f"run card {path}: {type(e).__name__}: {e}") from e
    return config


def _card_file(path: str) -> Path:
    if Path(path).is_file():
        if not path.endswith(".py"):
            raise ValueError(f"a run card is a Python file, not {path!r}")
        return Path(path)
    cards = shipped_cards()
    if path in cards:
        return cards[path]
    near: list[str] = []
    if Path(path).name != path or path.endswith(".py"):  # a file is meant
        near = sorted(str(p) for p in Path(path).parent.glob("*.py"))
    raise ValueError(f"no run card {path!r}; {nearest(path, [*cards, *near])}")


def shipped_cards() -> dict[str, Path]:
    """Returns the run cards that come with the package, by name."""
    # In a wheel they are the package item_jax.configs; in a checkout a folder beside.
    for folder in (resources.files("item_jax") / "configs", _beside()):
        if (folder / "item_vitl14.py").is_file():
            files = sorted(Path(str(folder)).glob("[!_]*.py"))
            return {file.stem: file for file in files}
    return {}


def _beside() -> Path:
    return Path(__file__).parent.parent / "configs"


def override(config: ConfigDict, field: str, value: str) -> None:
    """Sets `config.field` from text, typed by its default.

    Args:
      config: changed in place.
      field: a dotted path such as `"train.epochs"`.
      value: text from a command line; tuples are comma separated.

    Raises:
      ValueError: for an unknown field (naming the nearest) or a value that does not
        fit the field's type.
    """
    if field in _RENAMED:
        raise ValueError(f"config field {field!r} is now {_RENAMED[field]!r}")
    if field in _GONE:
        raise ValueError(f"config field {field!r} is gone: {_GONE[field]}")
    if field not in FIELDS:
        raise ValueError(_unknown(field))
    old = FIELDS[field].default
    try:
        new: Any = (
            tuple(v.strip() for v in value.strip("()").split(",") if v.strip())
            if isinstance(old, tuple)
            else type(old)(value)
        )
    except ValueError as e:
        kind = type(old).__name__
        raise ValueError(
            f"config field {field!r} takes {kind} values such as {old!r}, not {value!r}"
        ) from e
    section, _, leaf = field.rpartition(".")
    (config[section] if section else config)[leaf] = new


def _unknown(field: str) -> str:
    """What to say of a field that does not exist: the nearest, then a few others."""
    close = difflib.get_close_matches(field, FIELDS, n=4)
    section = field.partition(".")[0]
    own = [name for name in FIELDS if name.startswith(f"{section}.")]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    if own:
        others = f"Fields of {section!r}: {', '.join(own)}"
    else:
        others = f"Also near: {', '.join(close[1:])}" if close[1:] else ""
    more = f"{others}; " if others else ""
    return f"unknown config field {field!r}.{hint} {more}`item-jax config` prints all"


def refuse_unused(command: str, fields: Iterable[str]) -> None:
    """Refuses overrides that a command would ignore.

    Args:
      command: a name of `READS`.
      fields: the overridden ones.

    Raises:
      ValueError: for the first such field, with the commands that use it.
    """
    for field in fields:
        if field in FIELDS and not _reads(command, field):
            users = [name for name in READS if name != "config" and _reads(name, field)]
            *others, last = users
            named = f"{', '.join(others)} and {last} do" if others else f"{last} does"
            raise ValueError(f"{command} does not use {field!r}; {named}")


def _reads(command: str, field: str) -> bool:
    return any(field == r or field.startswith(f"{r}.") for r in READS[command])


def used_by(command: str, fields: Iterable[str]) -> list[str]:
    """Returns those of some fields that a command uses."""
    return [field for field in fields if _reads(command, field)]


def check(config: ConfigDict, sections: Sequence[str] = ()) -> None:
    """Refuses values that mean nothing.

    Args:
      config: as `default()` returns it, edited.
      sections: check only these, such as `("train", "head")`; () is all.

    Raises:
      ValueError: naming the field, what was found and what is allowed.
    """
    for name, value in leaves(config).items():
        if sections and name.partition(".")[0] not in sections:
            continue
        field = FIELDS[name]
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}; a finite number is needed")
        if field.least is not None and value < field.least:
            raise ValueError(f"{name} is {value}; at least {field.least:g}")
        if field.most is not None and value > field.most:
            raise ValueError(f"{name} is {value}; at most {field.most:g}")
        for one in value if isinstance(value, tuple | list) else (value,):
            known = not field.choices or one in field.choices
            if not known and not (field.outside and ("." in one or ":" in one)):
                also = " package.module:name works too." if field.outside else ""
                raise ValueError(
                    f"{name} is {one!r}; {nearest(one, field.choices)}{also}"
                )


def leaves(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """Returns every field as `{"dotted.name": value}`, in the order of definition."""
    out: dict[str, Any] = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict | dict):
            out |= leaves(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns plain nested dictionaries that JSON can hold."""
    return json.loads(json.dumps(config.to_dict()))
