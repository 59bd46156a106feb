"""The README of the miniature world, from the facts of its making."""

from __future__ import annotations

import camera
import scenes
from families import FAMILIES

MODELS = ("clip", "captioner", "detector", "judge", "sketch", "vqvae")


def text(facts: dict[str, dict]) -> str:
    """Returns the text.

    Args:
        facts: of each stage of `build.py`, by name.
    """
    models = "\n".join(
        f"| {name} | {facts[name]['parameters']:,} | {facts[name]['steps']:,} | "
        f"{facts[name]['minutes']} |"
        for name in (*MODELS, *FAMILIES)
        if name in facts and "parameters" in facts[name]
    )
    families = "\n".join(f"| `{name}` | {what} |" for name, what in FAMILIES.items())
    gate = facts["gate"]
    misses = ", ".join(gate["miss"]) or "none"
    clip, seen = facts["clip"]["held_out"], facts["texts"]
    says, finds = seen["captioner"], seen["detector"]
    return f"""# The miniature world

A small closed world on which every stage of ITEM runs for real on a CPU. It is a toy
world: it shows that the code works and how the method behaves here, and says nothing
about ForenSynths or any other benchmark of photographs.

## What is in it

- `images/`: 64x64 JPEG files (quality {camera.FILE_QUALITY}). Real: drawn scenes, up to
  {scenes.MAX_THINGS} things on a textured ground; all families share them. Fake: the
  same kind of scene drawn by a small generative model from a layout (boxes with the
  names of what is in them, and the ground's names and frame). Both are taken by one
  simulated camera (exposure, lens, noise, JPEG), then saved, blurred, given noise and
  saved again alike, as pictures that are passed on. The scenes of the sets are
  disjoint, and none was used to train anything.
- `captions.jsonl`, `objects.jsonl`: what a captioner and a detector that look at the
  pixels say of each image, written by `scripts/caption.py` and `scripts/ground.py`.
- `captioner/`: a BLIP in the Hugging Face format, and `detector/`, which
  `scripts/miniature/grounder.py` runs. Both were trained on real scenes alone: they
  have seen no fake.
- `prompt/`: a second mode. There a fake's sentence and boxes are those of the layout it
  was drawn from, and a real image's those of its scene. With them "misalignment" means
  being untrue to the prompt, which is not what ITEM measures.
- `judge/`: the network of the quality gate, trained on real scenes of its own.
- `clip/`: a small CLIP in the Hugging Face format (float16), trained on real scenes
  with their sentences and on their objects with their phrases.

| family | what it is |
| --- | --- |
{families}

## How it was made

`python scripts/miniature/build.py`, PyTorch on a CPU. The clock may cut a training
short (`--minutes`); the table has the steps taken.

| model | parameters | steps | minutes |
| --- | --- | --- | --- |
{models}

On {says["scenes"]:,} scenes that none of them has seen:

| measure | value |
| --- | --- |
| captioner: phrases of the scene that it says | {says["phrase_accuracy"]:.3f} |
| captioner: phrases it says that are right | {says["phrase_precision"]:.3f} |
| captioner: sentences right to the letter | {says["caption_accuracy"]:.3f} |
| detector: things found (IoU 0.5) | {finds["found"]:.3f} |
| detector: things found and named rightly | {finds["named"]:.3f} |
| CLIP: recall@1, image to sentence | {clip["image_to_text_recall_at_1"]:.3f} |
| CLIP: recall@1, sentence to image | {clip["text_to_image_recall_at_1"]:.3f} |
| CLIP: right sentence above one wrong in a detail | \
{clip["right_over_nearly_right"]:.3f} |
| CLIP: object's phrase first among {len(scenes.all_phrases())} | \
{clip["crop_phrase_accuracy"]:.3f} |

The quality gate (`scripts/miniature/gate.json`): families that hold:
{", ".join(gate["hold"])}; that miss it: {misses}.

Licence: Apache-2.0, as the repository.
"""
