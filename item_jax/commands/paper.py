"""`item-jax paper`."""

from __future__ import annotations

import argparse
import time
from typing import Any

from item_jax import experiments
from item_jax.commands import WORKDIR, configured, option, say
from item_jax.workdir import Workdir

HELP = "Make the tables and figures of the papers; `all` makes every one."
EXAMPLE = (
    "item-jax paper all --config=paper_miniature --workdir paper\n"
    "  item-jax paper table1 robustness --config=paper_vitl14 --workdir run"
)
OPTIONS = (
    option(
        "name",
        nargs="*",
        metavar="NAME",
        default=["all"],
        help=f"{', '.join(experiments.NAMES)}; all of them by default",
    ),
    WORKDIR,
    option(
        "--no-embed",
        action="store_true",
        help="use the caches that are there; list those that are not",
    ),
    option(
        "--force",
        action="store_true",
        help="replace methods that were fitted with other settings",
    ),
)


def run(arguments: argparse.Namespace) -> int:
    c = configured(arguments)
    names: list[str] = []
    for name in arguments.name or ["all"]:
        names += experiments.NAMES if name == "all" else [name]
    modules = {name: experiments.get(name) for name in dict.fromkeys(names)}

    from item_jax.cache import EmbeddingCache
    from item_jax.experiments import output
    from item_jax.experiments.study import Study
    from item_jax.sharding import enable_compilation_cache

    start = time.perf_counter()
    enable_compilation_cache()
    workdir = Workdir(arguments.workdir)
    card = arguments.config or ""
    if not arguments.no_embed and not _finished(workdir):
        words = ["embed", *([f"--config={card}"] if card else [])]
        status = _embed([*words, "--workdir", str(workdir.path)])
        if status not in (0, 1):
            return status
    EmbeddingCache(workdir.cache())  # or what is missing, before anything is fitted
    study = Study(
        workdir,
        c,
        card=card,
        force=arguments.force,
        data=_images(arguments, c),
        say=say,
    )
    made: dict[str, Any] = {}
    for name, module in modules.items():
        say(f"\n{name}: {module.TITLE}")
        if not arguments.no_embed:
            _make(study, module)
        artefact = made[name] = module.run(study)
        paths = output.write(workdir.results() / "paper", name, module, artefact)
        for missing in artefact.missing:
            say(f"  missing: {missing.what}: {missing.why}")
            for command in missing.commands:
                say(f"    {command}")
        say(f"  wrote {', '.join(str(path) for path in paths)}")
    with_rows = sum(bool(artefact.rows) for artefact in made.values())
    lacking = sum(bool(artefact.missing) for artefact in made.values())
    failed = study.main.counts()["failed"]
    say(
        f"\nexperiments: {len(made)} made, {with_rows} with figures, {lacking} with "
        f"something missing; {failed} images failed; "
        f"{time.perf_counter() - start:.0f} s"
    )
    return 1 if failed else 0


def _images(arguments: argparse.Namespace, c: Any) -> Any:
    """The data set of the study, if a method of its tables reads pixels."""
    from item_jax import methods
    from item_jax.datasets.dataset import open_dataset

    if not any(methods.reads_pixels(methods.get(name)) for name in c.paper.methods):
        return None
    records = c.data.records or Workdir(arguments.workdir).records
    return open_dataset(records, c.data.images or None)


def _finished(workdir: Workdir) -> bool:
    from item_jax.cache import EmbeddingCache

    there = (workdir.cache() / "manifest.json").is_file()
    return there and EmbeddingCache(workdir.cache()).finished


def _make(study: Any, module: Any) -> None:
    """Embeds what an experiment needs and is not there."""
    from item_jax.experiments.study import Missing

    for need in module.needs(study):
        if isinstance(study.find(need), Missing):
            _embed(study.words(need))


def _embed(words: list[str]) -> int:
    """Runs `item-jax embed`; when it fails it says so, and the rest goes on."""
    from item_jax.__main__ import main

    say(f"$ item-jax {' '.join(words)}")
    return main(words)
