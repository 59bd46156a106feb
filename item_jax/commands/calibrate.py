"""`item-jax calibrate`."""

from __future__ import annotations

import argparse

from item_jax import config as config_lib
from item_jax import files
from item_jax.choices import nearest
from item_jax.commands import CACHE, WORKDIR, attach_images, option, say
from item_jax.workdir import PLAIN_METHOD, Workdir

HELP = (
    "Fit the threshold of a method on held-out labelled images; evaluate and predict "
    "then use it."
)
EXAMPLE = (
    "item-jax calibrate --workdir run --fpr 0.05 --split val\n"
    "  item-jax calibrate --workdir run --method tidy --temperature"
)
OPTIONS = (
    WORKDIR,
    CACHE,
    option(
        "--method",
        default=PLAIN_METHOD,
        metavar="NAME",
        help="of the workdir; default: %(default)s",
    ),
    option(
        "--fpr",
        type=float,
        default=0.05,
        help="share of real images that may be called fake; default: %(default)s",
    ),
    option("--split", default="val", help="of the images; default: %(default)s"),
    option(
        "--generators",
        metavar="A,B",
        help="of the fakes, or `all`; default: those the method was trained on",
    ),
    option(
        "--temperature",
        action="store_true",
        help="also correct P(fake) by a temperature, fitted by likelihood",
    ),
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax.cache import EmbeddingCache
    from item_jax.fitted import load_seeds
    from item_jax.sharding import enable_compilation_cache
    from item_jax.thresholds import calibrate

    workdir = Workdir(arguments.workdir)
    known = workdir.methods()
    if arguments.method not in known:
        raise ValueError(
            f"no fitted method {arguments.method!r} in {workdir.path}; "
            f"{nearest(arguments.method, known)}"
        )
    folder = known[arguments.method]
    names = arguments.generators
    generators = None
    if names is not None:
        generators = [] if names == "all" else [n for n in names.split(",") if n]
    enable_compilation_cache()
    seeds = load_seeds(folder)
    cache = EmbeddingCache(workdir.cache(arguments.cache))
    attach_images(cache, [seeds[0].module], arguments, config_lib.default())
    made, warnings = calibrate(
        cache,
        seeds,
        fpr=arguments.fpr,
        split=arguments.split,
        generators=generators,
        temperature=arguments.temperature,
    )
    with files.atomic_folder(folder) as partial:
        for k, one in enumerate(made):
            seed = one.config["training"]["seed"]
            one.save(partial / (f"seed-{seed}" if k else ""))
    for warning in warnings:
        say(f"warning: {warning}")
    for one in made:
        say(_described(one, arguments.method))
    say(f"wrote {folder}")
    return 0


def _described(one, name: str) -> str:
    c = one.calibration
    seed = one.config["training"]["seed"]
    text = (
        f"{name}, seed {seed}: fake when P(fake) > {one.threshold:.4f} (before: "
        f"{c['uncalibrated_threshold']:g}), which calls {c['found']['fpr']:.1%} of "
        f"{c['n_real']} real and {c['found']['tpr']:.1%} of {c['n_fake']} fake images "
        f"of split {c['split']!r} fake ({', '.join(c['generators'])})"
    )
    if c["temperature"] is not None:
        text += (
            f"; temperature {c['temperature']:.3f}, log loss "
            f"{c['found']['uncalibrated_nll']:.3f} -> {c['found']['nll']:.3f}"
        )
    return text
