"""`item-jax train`."""

from __future__ import annotations

import argparse
import functools
import re
import time

from item_jax.commands import (
    CACHE,
    DISTRIBUTED,
    WORKDIR,
    attach_images,
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
    "  item-jax train --workdir run --as only-global --config.misalignment.w2=0\n"
    "  item-jax train --workdir run --method unifd\n"
    "  item-jax train --workdir run --method unifd --as authors "
    "--weights fc_weights.pth"
)
OPTIONS = (
    WORKDIR,
    CACHE,
    option(
        "--method",
        default="item",
        help="item, tidy, image_only, unifd, nearest, de_fake, ... (see "
        "item_jax/methods/README.md), or package.module[:name]; default: %(default)s",
    ),
    option(
        "--weights",
        metavar="FILE",
        help="take weights that the authors, or their code, saved instead of fitting: "
        "a state dictionary or a checkpoint of torch.save, or safetensors; of unifd, "
        "infofd, vib_net, de_fake, rine, cnndet, npr, dire, patchforensics, resnet50 "
        "(see item_jax/methods/README.md); read without "
        "running code",
    ),
    option(
        "--start",
        metavar="FILE",
        help="start the training from weights that the authors started from too: "
        "resnet50, cnndet, dire, swin_t, f3net; see item_jax/methods/README.md",
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
    option(
        "--tensorboard",
        metavar="FOLDER",
        help="write the loss of each seed and epoch for TensorBoard; needs "
        "item-jax[tensorboard], which is without TensorFlow",
    ),
    DISTRIBUTED,
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax import methods, tensorboard
    from item_jax import train as train_lib
    from item_jax.cache import EmbeddingCache
    from item_jax.fitted import not_learned
    from item_jax.progress import progress
    from item_jax.sharding import enable_compilation_cache, is_main_process

    tensorboard.check(arguments.tensorboard)
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
    module = fits[arguments.method]
    by_epoch = hasattr(module, "fit_seeds")
    if arguments.tensorboard and (arguments.weights or not by_epoch):
        raise ValueError(
            f"--tensorboard has no effect: {arguments.method!r} trains no epochs here"
        )
    epochs = train_lib.adapted(module, c, overridden).train.epochs
    enable_compilation_cache()
    ignored = [field for field in overridden if field != "train.threshold"]
    if arguments.weights and ignored:
        raise ValueError(
            f"--weights are taken as they are: {ignored[0]!r} has no effect on them"
        )
    if arguments.weights and arguments.start:
        raise ValueError(
            "--weights are taken instead of a training; --start begins one"
        )
    cache = EmbeddingCache(workdir.cache(arguments.cache))
    for warning in card_warnings(arguments, c, cache.embedding, "the cache"):
        say(f"warning: {warning}")
    if arguments.weights:
        return _import(arguments, cache, c, workdir, name)
    attach_images(cache, fits.values(), arguments, c)
    data = train_lib.training_set(cache, c)
    start = time.perf_counter()
    events = arguments.tensorboard if is_main_process() else None
    with (
        progress("train", epochs, "epoch", show=by_epoch and is_main_process()) as bar,
        tensorboard.losses(events) as note,
    ):

        def on_epoch(name, epoch, losses):
            note(name, epoch, losses)
            bar.update(epoch - bar.n)
            bar.set_postfix(loss=f"{losses.mean():.4f}", refresh=False)

        def train(method, name, start=None):
            return train_lib.train(
                cache,
                c,
                workdir=workdir.path,
                method=method,
                name=name,
                force=arguments.force,
                overridden=overridden,
                data=data,
                start=start,
                on_epoch=functools.partial(on_epoch, name),
            )

        training = train(arguments.method, name, arguments.start)
        others = {_default_name(b): train(b, _default_name(b)) for b in baselines}
    if not is_main_process():
        return 0
    folder = workdir.method(name)
    if getattr(module, "START", "") and not arguments.start:
        say(
            f"note: {arguments.method!r} starts from random weights; its authors start "
            f"from {module.START}: --start FILE"
        )
    if training.new:
        _say_trained(training, data.facts, time.perf_counter() - start, folder)
    else:
        say(f"{folder} is fitted with these settings already; nothing to do")
    if beside := [other for other, made in others.items() if made.new]:
        say(f"fitted beside it, in methods/: {', '.join(beside)}")
    for other, made in {name: training, **others}.items():
        for warning in not_learned(other, made.methods):
            say(f"warning: {warning}")
    return 0


def _import(arguments, cache, c, workdir, name) -> int:
    """Makes a method of published weights."""
    from item_jax import methods
    from item_jax import train as train_lib
    from item_jax.sharding import is_main_process

    training = train_lib.train(
        cache,
        c,
        workdir=workdir.path,
        method=arguments.method,
        name=name,
        force=arguments.force,
        weights=arguments.weights,
    )
    if is_main_process():
        method = training.methods[0]
        if training.new:
            notes = method.config["training"]["settings"]["weights_notes"]
            say(f"read {arguments.weights}")
            for note in notes:
                say(f"  {note}")
            say(f"{method.range()['text']}; wrote {workdir.method(name)}")
        else:
            say(f"{workdir.method(name)} has these weights already; nothing to do")
        if not methods.reads_pixels(method.module):
            say(
                f"note: whether they belong to {cache.embedding['tower']['name']} is "
                "not known from the file"
            )
    return 0


def _say_trained(training, facts, seconds, folder) -> None:
    from item_jax.protocol import generators_text
    from item_jax.tables import span

    seeds = training.methods
    judged = _judged(seeds[0])
    aucs = [one.train_auc for one in seeds if one.train_auc is not None]
    told = f", training AUC {span(aucs, '.3f')}" if aucs else ""
    say(
        f"trained {seeds[0].name!r}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}, "
        f"on {facts['real']} real + {facts['fake']} fake of "
        f"{generators_text(facts['generators'])}{_epochs(seeds)}{judged}{told}, "
        f"{seconds:.1f} s; wrote {folder}"
    )


def _judged(seed) -> str:
    """What ended the training, for a method that is stopped or chosen by images."""
    counts = seed.config["training"].get("validation")
    if counts is None:
        return ""
    if counts["real"]:
        return f", judged on {counts['real'] + counts['fake']} validation images"
    return ", judged on some of the training images (no validation images)"


def _epochs(seeds) -> str:
    """The epochs that were trained, and how many there could have been."""
    from item_jax.tables import span

    counts = [one.config["fit"]["epochs"] for one in seeds]
    if None in counts:
        return ""
    most = seeds[0].config["training"]["settings"].get("train", {}).get("epochs")
    text = f", {span(counts, 'd')} epochs"
    return text + (f" of at most {most}" if most and min(counts) < most else "")


def _default_name(method: str) -> str:
    """`head` for `item`, `npr-small` for ours of that name, `c` for `a.b:c`."""
    ours = "item_jax.methods."
    if method.startswith(ours):
        return method.removeprefix(ours).replace(":", "-")
    return PLAIN_METHOD if method == "item" else re.split(r"[.:]", method)[-1]
