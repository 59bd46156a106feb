"""`item-jax config`."""

from __future__ import annotations

import argparse

from item_jax import config
from item_jax.commands import configured, say
from item_jax.fields import Field

HELP = "Print every field of a configuration: value, meaning, choices, range."
EXAMPLE = "item-jax config --config=item_vitl14"
OPTIONS = ()


def run(arguments: argparse.Namespace) -> int:
    for name, value in config.leaves(configured(arguments)).items():
        shown = ",".join(value) if isinstance(value, tuple) else value
        say(f"--config.{name}={shown}")
        say(f"    {_described(config.FIELDS[name])}")
    say(f"\nrun cards that come with the package: {', '.join(config.shipped_cards())}")
    return 0


def _described(field: Field) -> str:
    parts = [field.meaning]
    if field.choices:
        own = ", package.module[:name]" if field.outside else ""
        parts.append(f"one of {', '.join(field.choices)}{own}")
    elif field.outside:
        parts.append("or package.module[:name]")
    if field.least is not None:
        to = "or more" if field.most is None else f"to {field.most:g}"
        parts.append(f"{field.least:g} {to}")
    return "; ".join(parts)
