"""What each command of `item-jax` does and prints, one file a command.

A command is a module with `HELP`, `EXAMPLE`, `OPTIONS` and `run(arguments) -> exit
status`. It finds and formats; everything it computes can be imported from elsewhere.
`item_jax.config.READS` says which fields of the configuration it uses.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from item_jax import config as config_lib
from item_jax import files, sidecar_runs
from item_jax.workdir import Workdir

NAMES = (
    *("demo", "index", "audit", "build-dataset", "embed", "train", "evaluate"),
    *("calibrate", "report", "paper", "fit", "predict", "app", "export"),
    *("config", "check", "completion"),
)
"""The commands in the order of `item-jax --help`."""


class Option(NamedTuple):
    """An argument of a command, as `argparse.ArgumentParser.add_argument` takes it."""

    names: tuple[str, ...]
    settings: dict[str, Any]


def option(*names: str, **settings: Any) -> Option:
    """Describes an argument of a command."""
    return Option(names, settings)


WORKDIR = option("--workdir", required=True, help="folder of the study; see README")
DISTRIBUTED = option(
    "--distributed",
    action="store_true",
    help="one of several processes (TPU pod, SLURM, JAX_PROCESS_ID ...)",
)
CACHE = option(
    "--cache", default="", metavar="NAME", help="a named cache beside embeddings/"
)
HEAD = option(
    "--head",
    help="fitted in another workdir, whose methods are taken; default: WORKDIR/head",
)
LAYOUT = (
    option(
        "--benchmark",
        default="",
        help="forensynths, unifd, diffusionforensics, genimage, synthbuster or wildrf, "
        "whose trees are known and checked; package.module[:name] of your own; any "
        "other name is only written into the records. Several sets below one "
        "folder, known or your own: forensynths=FOLDER,mine=FOLDER",
    ),
    option(
        "--generators",
        default="",
        help="of a known benchmark: only these, such as ADM,glide; `paper`: the "
        "columns of ITEM's tables",
    ),
    option("--split", default="", help="of a known benchmark: only this one"),
    option(
        "--train-subset",
        default="",
        help="progan-20x2000 (default of forensynths), progan-4x10000, adm-40000, all",
    ),
)
SIDECARS = (
    option(
        "--caption-with",
        metavar="MODEL",
        help="make captions: folder, Hub id or ID@REVISION, such as "
        "Salesforce/blip2-opt-2.7b; needs item-jax[torch]",
    ),
    option(
        "--captioner",
        metavar="NAME",
        help="how the model is asked; default: by its type; package.module[:Name]",
    ),
    option(
        "--ground-with",
        metavar="NAME",
        help="find the objects of the captions: mm-grounding-dino, grounding-dino, "
        "llmdet, owlv2, or package.module[:Name]",
    ),
    option("--ground-model", metavar="MODEL", help="its model; default: by its name"),
    option(
        "--allow-equal-captions",
        action="store_true",
        default=None,
        help="believe captions that are all equal or empty, instead of stopping",
    ),
    option(
        "--sidecar-dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        help="of captioner and grounder; default: auto, what suits model and device",
    ),
    option(
        "--sidecar-cache",
        metavar="FOLDER",
        help="where captions and boxes are kept; default: ~/.cache/item_jax/sidecars",
    ),
)


def sidecar_request(arguments: argparse.Namespace) -> sidecar_runs.Request | None:
    """Returns what the options of `SIDECARS` ask for, or None.

    Raises:
      ValueError: for an option that has no effect without another one.
    """
    for name, base in (
        *(("captioner", "caption_with"), ("ground_with", "caption_with")),
        *(("ground_model", "ground_with"), ("sidecar_cache", "caption_with")),
        *(("sidecar_dtype", "caption_with"), ("allow_equal_captions", "caption_with")),
    ):
        if getattr(arguments, name) is not None and getattr(arguments, base) is None:
            flags = [f"--{n.replace('_', '-')}" for n in (name, base)]
            raise ValueError(f"{flags[0]} has no effect without {flags[1]}")
    if arguments.caption_with is None:
        return None
    return sidecar_runs.Request(
        arguments.caption_with,
        arguments.captioner or "auto",
        arguments.ground_with or "",
        arguments.ground_model or "",
        arguments.sidecar_dtype or "auto",
        bool(arguments.allow_equal_captions),
    )


def configured(arguments: argparse.Namespace) -> ConfigDict:
    """Returns the configuration: the run card, or the default, with the overrides.

    Raises:
      ValueError: for an override that the command would ignore, or a wrong value.
    """
    card = arguments.config
    c = config_lib.load(card) if card else config_lib.default()
    for name, value in arguments.overrides:
        config_lib.override(c, name, value)
    overridden = [name for name, _ in arguments.overrides]
    config_lib.refuse_unused(arguments.command, overridden)
    config_lib.check(c)
    return c


def card_warnings(
    arguments: argparse.Namespace, c: ConfigDict, settings: dict[str, Any], what: str
) -> list[str]:
    """Says where a run card contradicts the settings that something was made with.

    Args:
      arguments: of the command.
      c: its configuration.
      settings: that were stored, subtrees of a configuration.
      what: they were stored with, such as "the cache".

    Returns:
      A warning for each field that differs and that the card has changed from its
      default.
    """
    if not arguments.config:
        return []
    stored = config_lib.leaves(settings)
    default = config_lib.leaves(config_lib.to_json(config_lib.default()))
    return [
        f"the run card says {name}={value!r}, {what} was made with {stored[name]!r}"
        for name, value in config_lib.leaves(config_lib.to_json(c)).items()
        if name in stored and value not in (stored[name], default[name])
    ]


def attach_images(
    cache: Any, methods: Iterable[Any], arguments: argparse.Namespace, c: ConfigDict
) -> None:
    """Gives a cache its images, where a method reads pixels.

    Args:
      cache: an `EmbeddingCache`, changed in place.
      methods: modules of methods.
      arguments: of the command, with `workdir`.
      c: its configuration; `data.records` and `data.images` say where images are.

    Raises:
      ValueError: if they were set and no method reads pixels or error maps, or if the
        records or maps are not those of the cache.
    """
    from item_jax.datasets.dataset import open_dataset
    from item_jax.error_maps import ErrorMaps
    from item_jax.methods import reads_error_maps, reads_pixels
    from item_jax.pixels import Pictures

    methods = list(methods)
    maps = any(reads_error_maps(method) for method in methods)
    overridden = {field for field, _ in getattr(arguments, "overrides", ())}
    if "data.error_maps" in overridden and not maps:
        raise ValueError("data.error_maps has no effect: no method here reads them")
    if any(reads_pixels(method) for method in methods):
        records = c.data.records or Workdir(arguments.workdir).records
        data = open_dataset(records, c.data.images or None)
        error_maps = None
        if maps and c.data.error_maps:
            error_maps = ErrorMaps(c.data.error_maps, cache.embedding)
        cache.images = Pictures(data, cache.embedding, error_maps)
        cache.images.check(cache)
        return
    for field in sorted(overridden & {"data.records", "data.images"}):
        raise ValueError(f"{field} has no effect: no method here reads pixels")


def method_folders(arguments: argparse.Namespace) -> dict[str, Path]:
    """Returns the folders of the fitted methods that `--head` or `--workdir` names.

    They are in the order of the tables, the head first.
    """
    workdir = Workdir(arguments.workdir)
    first: dict[str, Path] = {}
    if arguments.head:
        head = Path(arguments.head)
        workdir, first = Workdir(head.absolute().parent), {head.name: head}
    return first | workdir.methods()


def find_images(root: str, arguments: argparse.Namespace) -> Any:
    """Indexes a folder as the options of `LAYOUT` say.

    Raises:
      ValueError: as `layout.find` and `several.find_all`; or for a list of benchmarks
        one of which has no folder, or that names one twice.
    """
    from item_jax.datasets import layout, several

    choice = {
        "generators": tuple(g for g in arguments.generators.split(",") if g),
        "split": arguments.split,
        "train_subset": arguments.train_subset,
    }
    if "=" not in arguments.benchmark:
        return layout.find(root, arguments.benchmark, **choice)
    pairs = [word.partition("=") for word in arguments.benchmark.split(",")]
    folders = {name: below for name, _, below in pairs}
    if len(folders) < len(pairs) or not all(map(all, folders.items())):
        raise ValueError(
            f"--benchmark {arguments.benchmark!r}: expected NAME=FOLDER,NAME=FOLDER, "
            "each name once"
        )
    return several.find_all(root, folders, **choice)


def say(text: str) -> None:
    """Prints at once, also into a pipe."""
    print(text, flush=True)


def say_failures(rows: list[dict[str, Any]], *, most: int = 5) -> None:
    """Prints failed rows, at most `most` of them."""
    for row in rows[:most]:
        say(f"  failed: {files.printable(row['key'])}: {files.printable(row['error'])}")
    if len(rows) > most:
        say(f"  ... and {len(rows) - most} more")
