"""`item-jax train`."""

from __future__ import annotations

import argparse
import re
import time

from item_jax.commands import (
    CACHE,
    DISTRIBUTED,
    WORKDIR,
    card_warnings,
    configured,
    option,
    say,
)
from item_jax.workdir import PLAIN_METHOD, Workdir

HELP = "Fit a method on embeddings, by default ITEM; a stopped run goes on."
EXAMPLE = (
    "item-jax train --config=item_vitl14 --workdir run\n"
    "  item-jax train --workdir run --method tidy\n"
    "  item-jax train --workdir run --as only-global --config.misalignment.w2=0"
)
OPTIONS = (
    WORKDIR,
    CACHE,
    option(
        "--method",
        default="item",
        help="item, tidy, cosine, image, ..., or package.module[:name]; default: "
        "%(default)s",
    ),
    option(
        "--as",
        dest="name",
        metavar="NAME",
        help="write methods/NAME/; default: head/ for item, else methods/METHOD/",
    ),
    option(
        "--force",
        action="store_true",
        help="replace what was fitted with other settings",
    ),
    DISTRIBUTED,
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax import methods
    from item_jax import train as train_lib
    from item_jax.cache import EmbeddingCache
    from item_jax.progress import progress
    from item_jax.sharding import enable_compilation_cache, is_main_process

    c = configured(arguments)
    overridden = [field for field, _ in arguments.overrides]
    train_lib.refuse_unused(arguments.method, overridden)
    workdir = Workdir(arguments.workdir)
    name = arguments.name or _default_name(arguments.method)
    baselines = c.train.baselines if name == PLAIN_METHOD else ()
    if "train.baselines" in overridden and name != PLAIN_METHOD:
        raise ValueError(
            "train.baselines are fitted beside head/ only, by a train without --as and "
            "--method"
        )
    fits = {other: methods.get(other) for other in (arguments.method, *baselines)}
    by_epoch = hasattr(fits[arguments.method], "fit_seeds")
    enable_compilation_cache()
    cache = EmbeddingCache(workdir.cache(arguments.cache))
    for warning in card_warnings(arguments, c, cache.embedding, "the cache"):
        say(f"warning: {warning}")
    data = train_lib.training_set(cache, c)
    start = time.perf_counter()
    with progress(
        "train", c.train.epochs, "epoch", show=by_epoch and is_main_process()
    ) as bar:

        def on_epoch(epoch, losses):
            bar.update(epoch - bar.n)
            bar.set_postfix(loss=f"{losses.mean():.4f}", refresh=False)

        def train(method, name):
            return train_lib.train(
                cache,
                c,
                workdir=workdir.path,
                method=method,
                name=name,
                force=arguments.force,
                data=data,
                on_epoch=on_epoch,
            )

        training = train(arguments.method, name)
        beside = [b for b in baselines if train(b, _default_name(b)).new]
    if not is_main_process():
        return 0
    folder = workdir.method(name)
    if training.new:
        _say_trained(training, data.facts, c, time.perf_counter() - start, folder)
    else:
        say(f"{folder} is fitted with these settings already; nothing to do")
    if beside:
        say(f"fitted beside it, in methods/: {', '.join(beside)}")
    return 0


def _say_trained(training, facts, c, seconds, folder) -> None:
    seeds = len(training.methods)
    method = training.methods[0]
    epochs = f", {c.train.epochs} epochs" if hasattr(method.module, "fit_seeds") else ""
    say(
        f"trained {method.name!r}, {seeds} seed{'s' if seeds > 1 else ''}, on "
        f"{facts['real']} real + {facts['fake']} fake of "
        f"{', '.join(facts['generators'])}{epochs}, {seconds:.1f} s; wrote {folder}"
    )


def _default_name(method: str) -> str:
    return PLAIN_METHOD if method == "item" else re.split(r"[.:]", method)[-1]
