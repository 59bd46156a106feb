"""Runs GLIP end to end with tiny random weights, to check its environment.

    python scripts/try_glip.py [FOLDER]

Writes a random GLIP (the published architecture, made small) and a few images with
captions, and runs `ground.py --grounder glip` on them: caption spans, mmdet's pipeline
with the compiled operators, boxes, objects.jsonl. The boxes are meaningless.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

try:
    import item_sidecars  # noqa: F401
except ModuleNotFoundError:  # a checkout that is not installed
    import sidecars  # noqa: F401  (takes the name item_sidecars)

from item_jax import files, records
from item_jax.join import join
from item_sidecars import ground
from item_sidecars.grounders import glip
from item_sidecars.run import guarded

# Phrases that occur twice, that are part of another word, and none at all.
CAPTIONS = {
    "a.png": ("A man and a woman, and a man.", ["A man", "man", "a woman", "a man"]),
    "b.png": ("a red ball. on top", ["a red ball", "top"]),
    "c.png": ("running and jumping", []),
    "d.jpg": ("two cats sleeping on a couch", ["two cats", "a couch"]),
}


def run(folder: Path) -> int:
    """Builds, runs and checks; returns the exit status."""
    model = save_tiny_glip(folder / "tiny-glip")
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for place, key in enumerate(CAPTIONS):
        pixels = rng.integers(0, 256, (96 + 16 * place, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / key)
    captions, phrases = folder / "captions.jsonl", folder / "phrases.jsonl"
    files.write_json_lines(
        captions, ({"key": k, "caption": c} for k, (c, _) in CAPTIONS.items())
    )
    files.write_json_lines(
        phrases, ({"key": k, "phrases": p} for k, (_, p) in CAPTIONS.items())
    )
    out = folder / "objects"
    ground.ground(
        ground.parser().parse_args(
            [
                *("--images", str(images), "--captions", str(captions)),
                *("--phrases", str(phrases), "--grounder", "glip"),
                *("--model", str(model), "--out", str(out), "--batch-size", "2"),
            ]
        )
    )
    return check(out / "objects.jsonl", captions)


def check(objects: Path, captions: Path) -> int:
    """Checks the rows; returns 0, or 1 with a message."""
    wrong, found = [], 0
    for _, row in files.read_json_lines(objects):
        caption, asked = CAPTIONS[row["key"]]
        spans = [tuple(p["span"]) for p in row["phrases"]]
        if row["status"] != "done" or [p["phrase"] for p in row["phrases"]] != asked:
            wrong.append(f"{row['key']}: {row['status']}, {row['error']}")
        for thing in row["objects"]:
            found += 1
            records.object_from_json(thing)
            start, end = thing["span"]
            if (start, end) not in spans or caption[start:end] != thing["phrase"]:
                wrong.append(f"{row['key']}: {thing} has no phrase")
        if asked and not row["objects"]:
            wrong.append(f"{row['key']}: no box")
    _, report = join(
        [records.Record(key) for key in CAPTIONS], captions=captions, objects=objects
    )
    if report.captioned != len(CAPTIONS) or report.grounded != len(CAPTIONS):
        wrong.append(f"item-jax reads it differently: {report}")
    for line in wrong:
        print(f"wrong: {line}")
    print(
        f"GLIP: {found} boxes in {len(CAPTIONS)} images;", "FAILED" if wrong else "ok"
    )
    return 1 if wrong else 0


def save_tiny_glip(folder: Path) -> Path:
    """Writes a small GLIP-L: configuration, random weights and a tiny BERT."""
    modules = glip.environment()
    torch, transformers = modules["torch"], modules["transformers"]
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    bert = folder / "bert"
    bert.mkdir(exist_ok=True)
    save_tiny_bert(bert, transformers)
    package = Path(mmdet.__file__).parent / ".mim/configs/glip"
    config = modules["mmengine"].Config.fromfile(str(package / f"{glip.CONFIG}.py"))
    model = config.model
    model.backbone.update(
        embed_dims=24, depths=[1] * 4, num_heads=[1] * 4, window_size=7, init_cfg=None
    )
    model.neck.in_channels = [48, 96, 192]
    model.bbox_head.num_dyhead_blocks = 1
    model.language_model.name = str(bert)
    model.bbox_head.lang_model_name = str(bert)
    config.lang_model_name = str(bert)
    model.test_cfg.score_thr = 0.0  # random scores are low
    register_all_modules()
    torch.manual_seed(0)
    state = MODELS.build(model).state_dict()
    save_file({k: v.contiguous().clone() for k, v in state.items()},
              folder / "model.safetensors")  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return folder


def save_tiny_bert(folder: Path, transformers) -> None:
    """Writes a random BERT of two layers whose tokens are single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocab = {i: f"[unused{i}]" for i in range(1030)}
    vocab |= {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    vocab |= {1012: ".", 1029: "?", 1010: ","}
    vocab |= {200 + i: c for i, c in enumerate(letters)}
    vocab |= {300 + i: f"##{c}" for i, c in enumerate(letters)}
    text = "".join(f"{vocab[i]}\n" for i in range(len(vocab)))
    (folder / "vocab.txt").write_text(text)
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        num_hidden_layers=2,
        intermediate_size=64,
        max_position_embeddings=256,
    )
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BertModel(config).save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) > 2 or sys.argv[1:2] == ["--help"]:
        sys.exit(__doc__)
    if sys.argv[1:]:
        sys.exit(guarded(run, Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(guarded(run, Path(temporary)))
