"""`item-jax evaluate`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from item_jax.choices import nearest
from item_jax.commands import (
    CACHE,
    DISTRIBUTED,
    HEAD,
    WORKDIR,
    attach_images,
    card_warnings,
    configured,
    method_folders,
    option,
    say,
)
from item_jax.workdir import Workdir, checked_name

HELP = "Score a split with every fitted method; print ACC, AP and AUC per generator."
EXAMPLE = (
    "item-jax evaluate --config=item_vitl14 --workdir run\n"
    "  item-jax evaluate --workdir genimage --head progan/head\n"
    "  item-jax evaluate --workdir run --scores effort=effort.csv"
)
OPTIONS = (
    WORKDIR,
    CACHE,
    HEAD,
    option(
        "--methods",
        metavar="A,B",
        help="only these, by name or folder; the others are compared with the first; "
        "default: every fitted method of the workdir, head first",
    ),
    option(
        "--scores",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="scores made elsewhere, a CSV file of key,score with P(fake) in [0, 1]; "
        "can be given several times",
    ),
    option(
        "--as",
        dest="name",
        default="",
        metavar="NAME",
        help="write results/NAME/; default: results/, or results/CACHE/ with --cache",
    ),
    option(
        "--parquet",
        action="store_true",
        help="write scores.parquet beside scores.csv",
    ),
    DISTRIBUTED,
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax import figures, outside_scores, results, settings
    from item_jax.cache import EmbeddingCache
    from item_jax.evaluate import evaluate_methods
    from item_jax.sharding import enable_compilation_cache, is_main_process
    from item_jax.tables import table

    if not is_main_process():  # arithmetic on the cache: one process is enough
        return 0
    c = configured(arguments)
    enable_compilation_cache()
    workdir = Workdir(arguments.workdir)
    cache = EmbeddingCache(workdir.cache(arguments.cache))
    folders = _chosen(arguments, method_folders(arguments))
    fitted, broken = _loaded(folders, every=arguments.methods is not None)
    for name, file in _scores(arguments, fitted).items():
        fitted[name] = [outside_scores.read(file, cache, split=c.evaluate.split)]
    first = next(iter(fitted))
    training = fitted[first][0].config["training"]["settings"]
    warnings = card_warnings(arguments, c, cache.embedding, "the cache")
    warnings += card_warnings(arguments, c, training, first)
    warnings += [f"left out: {name}: {why}" for name, why in broken.items()]
    for name in list(fitted)[1:]:
        try:
            settings.compare(fitted[name][0].embedding, cache.embedding, what=name)
        except ValueError as e:
            if arguments.methods:
                raise
            warnings.append(f"left out: {e}")
            del fitted[name]
    modules = [getattr(seeds[0], "module", None) for seeds in fitted.values()]
    attach_images(cache, modules, arguments, c)
    folder = workdir.results(arguments.name or arguments.cache)
    found = evaluate_methods(cache, fitted, c, folder=folder, warnings=warnings)
    say(table(found))
    drawn = figures.save(results.read(folder), folder)
    written = [folder / "results.json", folder / "scores.csv"]
    if arguments.parquet:
        written.append(results.write_parquet(folder))
    say(f"wrote {folder}: {', '.join(p.name for p in [*written, *drawn])}")
    return 1 if found["counts"]["failed"] else 0


def _loaded(
    folders: dict[str, Path], *, every: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """Loads the methods, constant ones last: nothing is compared with those.

    Args:
      folders: by name, the first one first.
      every: whether each of them was asked for by name.

    Returns:
      The seeds of each method, and why a method cannot be loaded, by name.

    Raises:
      ValueError: if the first cannot be loaded, or one that was asked for.
    """
    from item_jax.fitted import load_seeds

    fitted: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for name, folder in folders.items():
        try:
            fitted[name] = load_seeds(folder)
        except (ValueError, OSError) as e:
            if every:
                raise
            if not fitted:
                raise ValueError(
                    f"{e}. Without it {name!r} would not be the method that the others "
                    "are compared with: mend it, or name the methods to evaluate by "
                    "--methods"
                ) from e
            broken[name] = str(e)
    if not every:
        blind = [n for n, (one, *_) in fitted.items() if not one.module.NEEDS]
        fitted |= {name: fitted.pop(name) for name in blind}
    return fitted, broken


def _scores(arguments: argparse.Namespace, taken: dict[str, Any]) -> dict[str, str]:
    """The files of scores by name."""
    found: dict[str, str] = {}
    for text in arguments.scores:
        name, _, file = text.partition("=")
        if not file:
            raise ValueError(f"--scores is {text!r}; NAME=FILE is needed")
        if checked_name(name) in (*taken, *found):
            raise ValueError(f"--scores: there is another method named {name!r}")
        found[name] = file
    return found


def _chosen(arguments: argparse.Namespace, known: dict[str, Path]) -> dict[str, Path]:
    """The folders of the methods to score, by name, the first one first."""
    if arguments.methods is None:
        if not known and not arguments.scores:
            raise ValueError(
                f"no fitted method in {arguments.workdir}: `item-jax train` makes one"
            )
        return known
    chosen: dict[str, Path] = {}
    for name in filter(None, arguments.methods.split(",")):
        path = known.get(name, Path(name))
        if not os.path.lexists(path):
            raise ValueError(
                f"no fitted method {name!r} in {arguments.workdir}; "
                f"{nearest(name, known)}"
            )
        if chosen.setdefault(path.name, path) != path:
            raise ValueError(
                f"--methods: {chosen[path.name]} and {path} have the same name; give "
                "one of them another (a link will do)"
            )
    return chosen
