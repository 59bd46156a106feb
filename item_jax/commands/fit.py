"""`item-jax fit`."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from item_jax import config, files, protocol, records
from item_jax.commands import (
    SIDECARS,
    WORKDIR,
    configured,
    option,
    say,
    sidecar_request,
)
from item_jax.workdir import PLAIN_METHOD, Workdir

if TYPE_CHECKING:
    from item_jax.datasets import folder

HELP = (
    "Train a first head on a folder of your own: captions, objects, embeddings, head "
    "and figures in one command; a stopped run goes on."
)
EXAMPLE = (
    "item-jax fit photos/ --workdir run --caption-with Salesforce/blip2-opt-2.7b \\\n"
    "      --ground-with mm-grounding-dino"
)
OPTIONS = (
    option(
        "folder",
        metavar="FOLDER",
        help="images below real/ and fake/ (or a synonym), and below train/, val/ and "
        "test/ if they are split; test and val images are never trained on",
    ),
    WORKDIR,
    *SIDECARS,
    option(
        "--force",
        action="store_true",
        help="replace what was fitted with other settings",
    ),
)

TEST_SHARE = 0.2
"""Of the images of each label, where no folders split them. Not in the paper."""

FEW = 200
"""Fewer test images of a label than this leave a wide interval: at an accuracy of 0.8
it is about 0.06 to each side."""


def run(arguments: argparse.Namespace) -> int:
    from item_jax import sidecar_runs
    from item_jax.__main__ import main
    from item_jax.datasets import folder

    request = sidecar_request(arguments)
    if request is None:
        raise ValueError(
            "--caption-with MODEL is needed, such as Salesforce/blip2-opt-2.7b"
        )
    c = configured(arguments)  # refuses a wrong value before hours are spent
    if c.train.split != "train":
        raise ValueError(
            f"train.split is {c.train.split!r}: fit trains only on the images of "
            "train/; `item-jax train` takes other splits"
        )
    found = folder.label_folders(arguments.folder)
    say(found.text())
    root = Path(arguments.folder).resolve()
    split, how = split_images(found, root)
    say(how)
    sidecar_runs.check_installed(request)
    annotated = sidecar_runs.annotate(
        root,
        [record.key for record in split],
        request,
        cache=arguments.sidecar_cache,
        say=say,
    )
    joined = [
        dataclasses.replace(
            record, caption=made.caption, objects=made.objects, error=made.error
        )
        for record, made in zip(split, annotated.records)
    ]
    workdir = Workdir(arguments.workdir)
    records.write_records(workdir.records, joined)
    rows = [vars(record) for record in joined]
    facts = {
        "images": str(root),
        **annotated.facts,
        "real_sources": protocol.complete_real_sources(rows, found.real_sources),
        "index": found.settings
        | {"faults": found.faults, "split": how.partition("\n")[0]},
    }
    files.write_json(workdir.records.with_suffix(".run.json"), facts)
    worst = 0
    for stage in ("embed", "train", "evaluate"):
        words = [stage, "--workdir", str(workdir.path)]
        if arguments.config:
            words += ["--config", arguments.config]
        used = config.used_by(stage, [name for name, _ in arguments.overrides])
        for name, value in arguments.overrides:
            words += [f"--config.{name}={value}"] if name in used else []
        if stage == "train" and arguments.force:
            words.append("--force")
        say(f"\n$ item-jax {' '.join(words)}")
        status = main(words)
        if status > 1:
            return status
        worst = max(worst, status)
    say(f"\n{how}\n{_honestly(joined)}")
    say(
        "Score an image with it:\n"
        f"  item-jax predict IMAGE --head {workdir.method(PLAIN_METHOD)} "
        + " ".join(_sidecar_words(arguments))
    )
    return worst


def _sidecar_words(arguments: argparse.Namespace) -> list[str]:
    """The options with which `predict` asks the same models, for a shell."""
    words = []
    for name in (
        *("caption_with", "captioner", "ground_with", "ground_model"),
        *("sidecar_dtype", "sidecar_cache"),
    ):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", shlex.quote(value)]
    return words


def split_images(found: folder.Index, root: Path) -> tuple[list[records.Record], str]:
    """Divides labelled images into training and test images.

    Folders decide (`datasets.labels` has their words); where none says a split, a fifth
    of each label is held out, by the digest of its file: the same images each time,
    also when others are added, and copies of an image stay together. Images of a test
    or validation folder are never trained on. The method that is fitted here chooses
    nothing on validation images: they are left for `item-jax calibrate`, or are the
    test images where there are no others.

    Args:
      found: of `folder.label_folders`.
      root: the folder the keys are relative to.

    Returns:
      The labelled records with their split, and how it came about with the counts of
      each split.

    Raises:
      ValueError: when a label or a split is missing, or has too few images; or when a
        folder looks like a split and is not read as one.
    """
    labelled = [record for record in found.records if record.label is not None]
    counts = Counter(record.label for record in labelled)
    if min(counts["real"], counts["fake"]) < 2:
        raise ValueError(
            f"{root} needs real/ and fake/ with at least 2 images each, found "
            f"{counts['real']} real and {counts['fake']} fake"
        )
    splits = {record.split for record in labelled}
    trained = "" if splits == {""} else "train"
    doubts = [name for split, name in found.held_out_doubts if split == trained]
    if doubts:
        raise ValueError(
            f"{root}: {', '.join(map(repr, doubts[:5]))} looks like test or validation "
            "images and is not read as such, so fit would train on them; rename the "
            "folder to test/ or val/, or to something else"
        )
    if splits == {""}:
        split = _held_out(labelled, root)
        how = (
            f"no folders train/ and test/: {TEST_SHARE:.0%} of each label were held "
            "out as test images, by the digest of their files"
        )
    elif "train" not in splits or splits <= {"train", ""}:
        raise ValueError(
            f"{root} has images of {', '.join(sorted(filter(None, splits)))} only: "
            "give it both train/ and test/ (or val/), or neither of them"
        )
    elif "test" in splits:
        split = labelled
        how = "the folders train/ and test/ say which images were held out"
    else:
        split = [
            dataclasses.replace(record, split="test")
            if record.split == "val"
            else record
            for record in labelled
        ]
        how = "there is no folder test/: the images of val/ are the test images"
    own = Counter((record.split, record.label) for record in split)
    for name in ("train", "test"):
        if not (own[name, "real"] and own[name, "fake"]):
            raise ValueError(
                f"{root}: the {name} images are {own[name, 'real']} real and "
                f"{own[name, 'fake']} fake; both are needed"
            )
    return split, f"{how}\n{_counts(own, len(found.records) - len(labelled))}"


def _counts(own: Counter[tuple[str, str | None]], unlabelled: int) -> str:
    """A line for each split with its counts, and what they are for."""
    uses = {
        "train": "trained on",
        "val": "neither trained nor tested on; for calibrate --split val",
        "test": "tested on",
        "": "in no split, so neither trained nor tested on",
    }
    lines = [
        f"  {name or '(none)':<6} {own[name, 'real']:,} real, {own[name, 'fake']:,} "
        f"fake: {use}"
        for name, use in uses.items()
        if own[name, "real"] + own[name, "fake"]
    ]
    if unlabelled:
        lines.append(f"  {unlabelled:,} without a label: left out")
    return "\n".join(lines)


def _held_out(labelled: list[records.Record], root: Path) -> list[records.Record]:
    digests = {}
    for record in labelled:
        path = root / record.key
        digests[record.key] = (
            files.sha256(path) if path.is_file() else records.digest([record])
        )
    test: set[str] = set()
    for label in records.LABELS:
        own = sorted({digests[r.key] for r in labelled if r.label == label})
        chosen = {d for d in own if int(d[:8], 16) < TEST_SHARE * 2**32}
        # Never all of them, and never none.
        test |= (chosen or {own[0]}) if chosen != set(own) else {own[0]}
    return [
        dataclasses.replace(
            record, split="test" if digests[record.key] in test else "train"
        )
        for record in labelled
    ]


def _honestly(joined: list[records.Record]) -> str:
    """How much was seen, and what that is worth."""
    usable = [record for record in joined if record.error is None and record.caption]
    counts = Counter((record.split, record.label) for record in usable)
    text = (
        f"Fitted on {counts['train', 'real']} real and {counts['train', 'fake']} fake "
        f"images, tested on {counts['test', 'real']} real and "
        f"{counts['test', 'fake']} fake ones"
    )
    if len(usable) < len(joined):
        text += f"; {len(joined) - len(usable)} images could not be used"
    fewest = min(counts["test", "real"], counts["test", "fake"])
    if fewest < FEW:
        text += (
            ". That is few: the intervals above are what the figures are worth, and "
            "the paper trains on 80,000"
        )
    return text + (". The head knows these images and their generators, and no others.")
