"""Grounds captions: OUT/objects.jsonl, for each image the boxes of its phrases.

    {key, sha256, phrases: [{phrase, span}],
     objects: [{phrase, span, box, score}], status, error}

Boxes of low score are stored too; the reader has the threshold. Stopped or killed, the
same command goes on. `item-jax index` reads the result.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import boxes
import grounders
import phrases as noun_phrases
import sidecar_models as models
import sidecar_run as sidecar
from item_jax import perturb, records
from sidecar_batches import Job, Skipped, Step
from sidecar_ranks import ranks

GLIP_NLTK = "glip-nltk"

_EXAMPLES = """\
examples:
  python scripts/ground.py --images data/images --out data/objects \\
      --captions data/captions/captions.jsonl --detector mm-grounding-dino
  torchrun --standalone --nproc-per-node=8 scripts/ground.py --images ...
"""


class GroundStep(Step):
    """Images and captions in, boxes of phrases out.

    Args:
      grounder: an adapter's `Grounder`.
      find: caption -> phrases.
      own: phrases of a file by key, instead of `find`.
      min_score: least score stored.
    """

    stage = "ground"
    output = "objects.jsonl"
    columns = ("sha256",)
    empty = {"phrases": [], "objects": []}

    def __init__(self, grounder: Any, *, find=None, own=None, min_score: float):
        self.grounder, self._find, self._own = grounder, find, own
        self._min_score = min_score

    def prepare(self, image: np.ndarray, job: Job | None) -> dict[str, Any]:
        """Finds the phrases and makes the pixels.

        Raises:
          Skipped: when the image has no caption.
          ValueError: when its phrases do not fit the caption.
        """
        # A blank asks for something too, so that it tells whether the model works.
        caption, found = "a photo", [noun_phrases.phrase_at("a photo", 0, 7)]
        if job is not None:
            if job.row.get("status", "ok") != "ok":
                raise Skipped(f"no caption: {job.row.get('error')}")
            caption = job.row.get("caption") or ""
            if not caption.strip():
                raise Skipped("no caption")
            found = self._phrases(job.key, caption)
        size = (image.shape[1], image.shape[0])
        pixels = self.grounder.prepare(image)
        return {"pixels": pixels, "size": size, "caption": caption, "phrases": found}

    def _phrases(self, key: str, caption: str) -> list[dict[str, Any]]:
        if self._own is None:
            return self._find(caption)
        if key not in self._own:
            raise ValueError("the file of phrases has no line for this image")
        return noun_phrases.place_phrases(caption, self._own[key])

    def process(self, prepared: list) -> list[dict[str, Any]]:
        found = self.grounder.ground(
            [p["pixels"] for p in prepared],
            [p["caption"] for p in prepared],
            [p["phrases"] for p in prepared],
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
        one = self.prepare(image, None)
        one |= {
            "caption": word,
            "phrases": [noun_phrases.phrase_at(word, 0, len(word))],
        }
        objects = self.process([one])[0]["objects"]
        sure = [o for o in objects if o["score"] >= self.grounder.reader_threshold]
        return ", ".join(f"{o['phrase']} {o['score']:.2f} {o['box']}" for o in sure)


def main(arguments: argparse.Namespace) -> int:
    """Runs one rank, or merges; returns the exit status."""
    if arguments.merge:
        return sidecar.merge(GroundStep, arguments)
    place = ranks(os.environ, arguments.rank, arguments.world_size)
    jobs, captions = read_captions(arguments.captions)
    arguments.perturb = perturbation(arguments)
    own = find = None
    if arguments.phrases == GLIP_NLTK:
        find = noun_phrases.PhraseFinder(stop_list=arguments.stop_list)
        source = {"phrases": GLIP_NLTK, "stop_list": arguments.stop_list}
    else:
        own = noun_phrases.read_phrases(arguments.phrases)
        text = Path(arguments.phrases).read_bytes()
        source = {"phrases": "file", "sha256": hashlib.sha256(text).hexdigest()}
    grounder = grounder_of(arguments, place.local)
    step = GroundStep(grounder, find=find, own=own, min_score=arguments.min_score)
    settings = {
        "grounder": {
            **grounder.settings,
            "min_score": arguments.min_score,
            "nms_iou": boxes.NMS_IOU,
            "max_candidates": boxes.MAX_CANDIDATES,
        },
        "noun_phrases": source,
        "captions": captions,
    }
    return sidecar.run(step, jobs, arguments, place, settings)


def grounder_of(arguments: argparse.Namespace, local_rank: int = 0) -> Any:
    """Loads the detector the arguments name.

    Raises:
      ValueError: when there is no such detector or model, or they do not fit.
    """
    name, known = arguments.detector, grounders.detectors()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        if close:
            raise ValueError(
                f"no detector {name!r}; allowed: {', '.join(known)}; did you mean "
                f"{close[0]!r}?"
            )
        known[name] = models.adapter("grounders", name, "Grounder")
    module = known[name]
    model = arguments.model or module.DETECTORS.get(name, "")
    return module.Grounder(
        model,
        detector=name,
        dtype=arguments.dtype,
        local_rank=local_rank,
    )


def read_captions(path: str | Path) -> tuple[list[Job], str]:
    """Reads `captions.jsonl` -> jobs sorted by key, and the digest of the file.

    Raises:
      ValueError: naming the line, for one without a key or whose key was there before.
    """
    jobs = []
    for number, row in records.read_json_lines(path):
        if not isinstance(row.get("key"), str):
            raise ValueError(f"{path}, line {number}: no key: {row}")
        jobs.append(Job(records.normalise_key(row["key"]), row))
    if not jobs:
        raise ValueError(f"{path} has no captions")
    jobs.sort(key=lambda job: job.key)
    sidecar.check_unique([job.key for job in jobs], str(path))
    return jobs, hashlib.sha256(Path(path).read_bytes()).hexdigest()


def perturbation(arguments: argparse.Namespace) -> str:
    """Returns `--perturb`, by default what the captions were made with.

    Raises:
      ValueError: when the captions were made on another form of the images.
    """
    folder = Path(arguments.captions).parent
    asked = arguments.perturb and perturb.label(*perturb.parse(arguments.perturb))
    if not (folder / "run.json").is_file():
        return asked or "none"
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    made = run.get("settings", {}).get("perturbation", "none")
    if asked and asked != made:
        raise ValueError(
            f"--perturb {asked}, but {arguments.captions} was made with {made!r}: "
            "captions and boxes must be of the same pixels"
        )
    return made


def parser() -> argparse.ArgumentParser:
    """Returns the flags."""
    p = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--images", required=True, help="folder the keys are relative to")
    p.add_argument("--captions", required=True, help="captions.jsonl of caption.py")
    p.add_argument(
        "--detector",
        default="mm-grounding-dino",
        help=f"{', '.join(grounders.detectors())}, or a module of your own; default: "
        "%(default)s",
    )
    p.add_argument(
        "--model", help="folder, Hub id or ID@REVISION; default: by detector"
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
        help="leave out 'top', 'background', 'picture' and their like",
    )
    p.add_argument(
        "--min-score",
        type=float,
        default=boxes.MIN_SCORE,
        help="least score stored; default: %(default)s",
    )
    sidecar.add_flags(p, batch_size=4)
    return p


if __name__ == "__main__":
    sys.exit(sidecar.guarded(main, parser().parse_args()))
