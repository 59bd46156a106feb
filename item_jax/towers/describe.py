"""What is known of a checkpoint before it is loaded, and whether it would load."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from item_jax.towers.checkpoint import open_checkpoint
from item_jax.towers.families import read_config
from item_jax.towers.towers import SHORT_NAMES, load_towers


@dataclasses.dataclass(frozen=True)
class Description:
    """A checkpoint as its files describe it.

    Attributes:
      facts: (what, value) in the order to print them.
      refused: why it would not load; "" if nothing speaks against it.
    """

    facts: tuple[tuple[str, str], ...]
    refused: str


def describe(
    source: str | Path,
    *,
    revision: str | None = None,
    family: str = "",
    load: bool = False,
) -> Description:
    """Describes a checkpoint: its family, files, sizes and tokenizer.

    Args:
      source, revision, family: as for `load_towers`.
      load: whether to load it too, every tensor checked. Of a repository of the Hub
        that fetches the weights; without it the small files are enough.
    """
    name = str(source)
    facts: list[tuple[str, str]] = [("checkpoint", name)]
    try:
        with warnings.catch_warnings(record=True) as guesses:
            warnings.simplefilter("always")
            checkpoint = open_checkpoint(
                SHORT_NAMES.get(name, name), revision, short_names=SHORT_NAMES
            )
            found, module, config = read_config(checkpoint, family)
        summary = " ".join((module.__doc__ or "").partition("\n\n")[0].split())
        layout = checkpoint.layout(module.LAYOUTS)
        facts += [
            ("family", f"{found}: {summary}"),
            ("layout", f"{layout.name}, {layout.config}" if layout else "none"),
            *_fields(config),
        ]
        outputs = getattr(module, "image_outputs", None)
        if outputs:
            facts += [(f"output {k}", str(list(v))) for k, v in outputs(config).items()]
        cleaning = getattr(module, "text_cleaning", None)
        if cleaning:
            facts.append(("texts cleaned", cleaning(config)))
        facts += [("warning", str(guess.message)) for guess in guesses]
        tokenizer = module.load_tokenizer(checkpoint, config)
        facts.append(("tokenizer", type(tokenizer).__name__))
        if layout is not None and not checkpoint.remote:
            paths = checkpoint.weights(layout)
            facts.append(("weights", ", ".join(p.name for p in paths)))
            others = [files.chosen for files in checkpoint.others(module.LAYOUTS)]
            if others:
                facts.append(("other weights", ", ".join(others)))
        if load:
            load_towers(source, revision=revision, family=family)
            facts.append(("tensors", "all there, every one used, all finite"))
    except ValueError as e:
        return Description(tuple(facts), str(e))
    return Description(tuple(facts), "")


def _fields(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", str(value)
