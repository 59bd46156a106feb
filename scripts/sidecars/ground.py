"""Grounds captions: OUT/objects.jsonl, for each image the boxes of its phrases.

    {key, sha256, phrases: [{phrase, span}],
     objects: [{phrase, span, box, score}], status, error}

status is done, failed or skipped (no caption). Boxes of low score are stored too;
embedding applies the threshold (data.score_threshold). Stopped or killed, the same
command continues. `item-jax index` reads the result.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import choices, files, perturb, records
from item_sidecars import boxes, run
from item_sidecars import phrases as noun_phrases
from item_sidecars.batches import AdapterError, Job, Skipped, Step, is_encodable

GLIP_NLTK = "glip-nltk"
# Status of a caption's row; files written before schema item-sidecar/2 say the second.
_DONE, _FAILED = ("done", "ok"), ("failed", "error", "skipped")

_PACKAGE = "item_sidecars.grounders"

_EXAMPLES = """\
examples:
  python scripts/ground.py --images data/images --out data/objects \\
      --captions data/captions/captions.jsonl --grounder mm-grounding-dino
  torchrun --standalone --nproc-per-node=8 scripts/ground.py --images ...
"""


class GroundStep(Step):
    """Images and captions in, boxes of phrases out.

    Args:
      grounder: see `item_sidecars.grounders`.
      find: caption -> phrases.
      given: phrases from a file by key, instead of `find`.
      min_score: the lowest score that is stored, in [0, 1].
    """

    stage = "ground"
    output = "objects.jsonl"
    columns = ("sha256",)
    empty: Mapping[str, Any] = {"phrases": [], "objects": []}

    def __init__(
        self,
        grounder: Any,
        *,
        find: Callable[[str], list[noun_phrases.Phrase]] | None = None,
        given: Mapping[str, list[Any]] | None = None,
        min_score: float,
    ):
        self.grounder, self._find, self._given = grounder, find, given
        self._min_score = min_score

    def prepare(self, image: np.ndarray, job: Job | None) -> dict[str, Any]:
        """Finds the phrases of the caption and makes the grounder's pixels.

        Raises:
          Skipped: when the image has no caption.
          ValueError: when its phrases do not fit the caption.
        """
        # A blank has a phrase too, so that running it shows whether the model works.
        caption, found = "a photo", [noun_phrases.phrase_at("a photo", 0, 7)]
        if job is not None:
            row = job.row or {}
            if row.get("status", "done") not in _DONE:
                raise Skipped(f"no caption: {row.get('error')}")
            caption = row.get("caption") or ""
            if not caption.strip():
                raise Skipped("no caption")
            if not is_encodable(caption):
                raise ValueError(f"the caption is not valid Unicode: {ascii(caption)}")
            found = self._phrases(job.key, caption)
        size = (image.shape[1], image.shape[0])
        pixels = self.grounder.prepare(image)
        return {"pixels": pixels, "size": size, "caption": caption, "phrases": found}

    def _phrases(self, key: str, caption: str) -> list[noun_phrases.Phrase]:
        if self._find is not None:
            return self._find(caption)
        given = self._given or {}
        if key not in given:
            raise ValueError("the file of phrases has no line for this image")
        return noun_phrases.place_phrases(caption, given[key])

    def process(self, prepared: list) -> list[dict[str, Any]]:
        """Grounds a batch.

        Raises:
          AdapterError: when the grounder does not return boxes [Q, 4] and scores
            [Q, P] for every image.
        """
        found = self.grounder.ground(
            [p["pixels"] for p in prepared],
            [p["caption"] for p in prepared],
            [p["phrases"] for p in prepared],
        )
        shapes = [(np.shape(where), np.shape(scores)) for where, scores in found]
        expected = [
            ((where[0], 4), (where[0], len(p["phrases"]))) if where else None
            for p, (where, _) in zip(prepared, shapes)
        ]
        if len(found) != len(prepared) or shapes != expected:
            raise AdapterError(
                f"{type(self.grounder).__name__}.ground returned arrays of the shapes "
                f"{shapes} for {len(prepared)} images with "
                f"{[len(p['phrases']) for p in prepared]} phrases; expected boxes "
                "[Q, 4] and scores [Q, phrases] for each"
            )
        return [
            {
                "phrases": p["phrases"],
                "objects": boxes.candidates(
                    where, scores, p["phrases"], p["size"], min_score=self._min_score
                ),
            }
            for p, (where, scores) in zip(prepared, found)
        ]

    def canary(self, image: np.ndarray, word: str) -> str:
        """Returns the boxes of `word` that pass the grounder's own threshold."""
        asked = self.prepare(image, None) | {
            "caption": word,
            "phrases": [noun_phrases.phrase_at(word, 0, len(word))],
        }
        objects = self.process([asked])[0]["objects"]
        sure = [o for o in objects if o["score"] >= self.grounder.reader_threshold]
        return ", ".join(f"{o['phrase']} {o['score']:.2f} {o['box']}" for o in sure)


def ground(arguments: argparse.Namespace) -> int:
    """Runs one rank, or merges; returns the exit status.

    Args:
      arguments: of `parser`.

    Raises:
      ValueError: for arguments that do not fit together, or to the run in --out; for a
        file of captions or phrases that is damaged.
    """
    if arguments.detector is not None:
        raise ValueError(
            f"--detector is now called --grounder: --grounder {arguments.detector}"
        )
    if not 0 <= arguments.min_score <= 1:
        raise ValueError(f"--min-score {arguments.min_score} is not in [0, 1]")
    if arguments.merge:
        return run.merge(GroundStep, arguments)
    place = run.find_ranks(arguments)
    jobs, captions = read_captions(arguments.captions)
    arguments.perturb = perturbation(arguments)
    given = find = None
    if arguments.phrases == GLIP_NLTK:
        find = noun_phrases.PhraseFinder(stop_list=arguments.stop_list)
        source = {"phrases": GLIP_NLTK, "stop_list": arguments.stop_list}
    elif arguments.stop_list:
        raise ValueError(
            "--stop-list has no effect on the phrases of a file: leave out "
            "--stop-list or --phrases"
        )
    else:
        given = noun_phrases.read_phrases(arguments.phrases)
        source = {"phrases": "file", "sha256": files.sha256(arguments.phrases)}
    grounder = load_grounder(arguments, place.local)
    step = GroundStep(grounder, find=find, given=given, min_score=arguments.min_score)
    settings = {
        "grounder": {
            **grounder.settings,
            "reader_threshold": grounder.reader_threshold,
            "min_score": arguments.min_score,
            "nms_iou": boxes.NMS_IOU,
            "max_candidates": boxes.MAX_CANDIDATES,
        },
        "noun_phrases": source,
        "captions": captions,
    }
    return run.run(step, jobs, arguments, place, settings)


def load_grounder(arguments: argparse.Namespace, local_rank: int = 0) -> Any:
    """Loads the grounder that the arguments name.

    Raises:
      ValueError: when there is no such grounder or model, or they do not fit.
    """
    name = arguments.grounder
    found = choices.resolve(
        "grounder",
        name,
        {name: module.Grounder for name, module in grounders().items()},
        needs=("prepare", "ground", "reader_threshold"),
        attribute="Grounder",
    )
    defaults = getattr(import_module(found.__module__), "MODELS", {})
    default = defaults[name] if name in defaults else next(iter(defaults.values()), "")
    model = arguments.model or default
    return found(model, name=name, dtype=arguments.dtype, local_rank=local_rank)


def grounders() -> dict[str, Any]:
    """Returns the names of our grounders and the module of each."""
    found: dict[str, Any] = {}
    for name in choices.modules(_PACKAGE):
        module = import_module(f"{_PACKAGE}.{name}")
        found |= dict.fromkeys(module.MODELS, module)
    return found


def read_captions(path: str | Path) -> tuple[list[Job], str]:
    """Reads `captions.jsonl` -> jobs sorted by key, and the SHA-256 of the file.

    Raises:
      ValueError: naming file, line and field, for a row that is not one of a captioner,
        or whose key is duplicated.
    """
    jobs = []
    for number, row in files.read_json_lines(path):
        where = f"{path}, line {number}"
        key = records.normalise_key(files.field(row, "key", str, where))
        if not is_encodable(key):
            raise ValueError(f"{where}: key {ascii(key)} is not valid Unicode")
        for name in ("caption", "sha256", "error"):
            if name in row:
                files.field(row, name, (str, type(None)), where)
        if row.get("status", "done") not in (*_DONE, *_FAILED):
            allowed = choices.nearest(row["status"], (*_DONE, *_FAILED))
            raise ValueError(f"{where}: unknown status {row['status']!r}; {allowed}")
        jobs.append(Job(key, row))
    if not jobs:
        raise ValueError(f"{path} has no captions")
    if not any("caption" in (job.row or {}) for job in jobs):
        names = ", ".join(sorted(jobs[0].row or {}))
        raise ValueError(
            f"{path} is not a file of captions: no line has a 'caption' (the fields of "
            f"the first: {names}). --captions takes the captions.jsonl of caption.py"
        )
    jobs.sort(key=lambda job: job.key)
    run.check_unique([job.key for job in jobs], str(path))
    return jobs, files.sha256(path)


def perturbation(arguments: argparse.Namespace) -> str:
    """Returns `--perturb`, by default the perturbation of the captions.

    Raises:
      ValueError: when the captions were made of other pixels; when `run.json` beside
        them is damaged, or names a perturbation from a module that --perturb does not.
    """
    path = Path(arguments.captions).parent / "run.json"
    asked = arguments.perturb and perturb.label(*perturb.parse(arguments.perturb))
    if not path.is_file():
        return asked or "none"
    settings = files.read_json(path).get("settings", {})
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: 'settings' is not a JSON object")
    made = settings.get("perturbation", "none")
    if not isinstance(made, str):
        raise ValueError(f"{path}: 'settings.perturbation' is {made!r}; expected str")
    if asked and asked != made:
        raise ValueError(
            f"--perturb {asked}, but {arguments.captions} was made with {made!r}: "
            "captions and boxes must be of the same pixels"
        )
    # A file must not make us import a module that the user has not named.
    if not asked and made.rpartition(":")[0] not in ("", *perturb.NAMES):
        raise ValueError(
            f"{path}: the captions were made with the perturbation {made!r}; if you "
            f"trust its module, add --perturb {made}"
        )
    return made


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    p = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--images", required=True, help="folder the keys are relative to")
    p.add_argument("--captions", required=True, help="captions.jsonl of caption.py")
    p.add_argument(
        "--grounder",
        default="mm-grounding-dino",
        help=f"{', '.join(grounders())}, or package.module[:Name] of your own; "
        "default: %(default)s",
    )
    # Its name of before: it gets a message that names the new one.
    p.add_argument("--detector", help=argparse.SUPPRESS)
    p.add_argument(
        "--model", help="folder, Hub id or ID@REVISION; default: by grounder"
    )
    p.add_argument(
        "--phrases",
        default=GLIP_NLTK,
        help="file of JSON lines {key, phrases}, such as another objects.jsonl; "
        "default: %(default)s, the noun phrases of the caption",
    )
    p.add_argument(
        "--stop-list",
        action="store_true",
        help="omit 'top', 'background', 'picture' and similar phrases",
    )
    p.add_argument(
        "--min-score",
        type=float,
        default=boxes.MIN_SCORE,
        help="the lowest score that is stored; default: %(default)s",
    )
    run.add_flags(p, batch_size=4)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The program: parses the command line, runs, returns the exit status."""
    return run.guarded(ground, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
