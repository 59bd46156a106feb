"""Every field of the configuration: its default, meaning, source, choices and range.

"ITEM" is arXiv 2511.00427, "TIDY" its precursor. Where neither states a value the
meaning says "not in the paper" and why the default is what it is. `FIELDS` is the
table, `READS` says which command uses which field.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from item_jax.images import MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of the configuration.

    Attributes:
      default: its value, which also fixes its type.
      meaning: one line, with the source of the default.
      choices: the names that are allowed, also in a tuple; () for any value.
      outside: whether `package.module:name` is allowed besides `choices`.
      least, most: the range of a number, both ends included.
    """

    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    outside: bool = False
    least: float | None = None
    most: float | None = None


OUTPUTS = ("pooled", "class_tokens", "block_tokens")
"""Outputs of the image tower, beside its embedding, that a cache can hold; see
`item_jax/towers/outputs.py`."""

FIELDS: dict[str, Field] = {
    "seed": Field(0, "of everything random; not in the paper", least=0),
    "tower": Field(
        "ViT-L-14",
        "CLIP model: short name, Hugging Face id, folder, or a file of weights in it; "
        "ITEM IV-A",
    ),
    "tower_family": Field(
        "", "its architecture; empty: found by the checkpoint's files", outside=True
    ),
    "dtype": Field(
        "float32",
        "of weights and activations; float32 is the reference, bfloat16 the fast mode",
        ("float32", "bfloat16"),
    ),
    # ---- data
    "data.records": Field(
        "", "records.jsonl, a packed folder, `miniature`, or a data set of your own"
    ),
    "data.images": Field("", "folder that the keys of the records are relative to"),
    "data.error_maps": Field(
        "", "folder of scripts/reconstruct.py, for methods that read error maps"
    ),
    "data.score_threshold": Field(
        0.3,
        "objects of a lower score are dropped; not in the paper: 0.3 suits the "
        "Grounding DINO family, GLIP's web demo uses 0.5",
        least=0,
        most=1,
    ),
    "data.max_objects": Field(
        10, "the best by score are kept; not in the paper", least=0
    ),
    "data.min_object_pixels": Field(
        8, "a smaller crop shows nothing; not in the paper", least=1
    ),
    "data.max_pixels": Field(
        MAX_PIXELS,
        "width x height of the largest image decoded; Pillow's own limit",
        least=1,
    ),
    # ---- views
    "views.geometry": Field(
        "item",
        "of the whole image: `item` center-crops (ITEM IV-A), `clip` resizes first, "
        "`squash` and `squash_bilinear` resize both sides as SigLIP does",
        ("item", "clip", "squash", "squash_bilinear"),
    ),
    "views.object_crop": Field(
        "cover",
        "of an object: short side to the view, or `pad` the whole box on black; not in "
        "the paper",
        ("cover", "pad"),
    ),
    # ---- texts
    "texts.clean": Field(
        "",
        "of captions and phrases before they are tokenised; empty: as in the CLIP "
        "model's training (`lower` for OpenAI's); not in the paper",
        (
            *("", "none", "lowercase", "whitespace", "whitespace_underscore"),
            *("lower", "canonicalize"),
        ),
    ),
    # ---- neutralise: makes images alike in what headers tell (`item-jax audit`)
    "neutralise.quality": Field(
        0, "JPEG quality every image is re-encoded at; 0: as it is", least=0, most=100
    ),
    "neutralise.size": Field(
        0, "side of the square every image becomes; 0: as it is", least=0, most=8192
    ),
    # ---- perturb
    "perturb.name": Field(
        "none",
        "ITEM Fig. 4: noise, blur, jpeg; noise-std and noise-ycbcr read its sigma "
        "otherwise",
        ("none", "noise", "noise-ycbcr", "noise-std", "blur", "jpeg"),
        outside=True,
    ),
    "perturb.severity": Field(0, "1 to 3; 0 with `none`", least=0, most=3),
    # ---- embed
    "embed.batch_size": Field(256, "views in a device batch; speed only", least=1),
    "embed.text_batch_size": Field(256, "texts in a device batch; speed only", least=1),
    "embed.shard_size": Field(
        1024, "records in a shard, which is what an interrupted run repeats", least=1
    ),
    "embed.mode": Field("jit", "sharding; results are equal", ("jit", "pmap")),
    "embed.storage": Field(
        "float32", "of the cache; float16 halves the disk", ("float32", "float16")
    ),
    "embed.outputs": Field(
        (),
        "more of the image tower in the cache, in float16: `pooled`, `class_tokens`, "
        "`block_tokens`; (): only the embedding",
        OUTPUTS,
    ),
    "embed.threads": Field(8, "decoding threads, in each process", least=1),
    "embed.workers": Field(
        0, "decoding processes; 0 decodes in the main process", least=0
    ),
    "embed.on_error": Field(
        "report", "when an image fails: go on, or stop", ("report", "stop")
    ),
    # ---- misalignment
    "misalignment.name": Field(
        "item",
        "ITEM Eqs. 3-6; `tidy` is TIDY Eqs. 2-4; the others are ablations",
        (
            *("item", "tidy", "absolute_unit", "signed_raw"),
            *("image_only", "image_raw", "text_only", "concat", "cosine"),
        ),
        outside=True,
    ),
    "misalignment.w1": Field(
        1.0, "weight of the global term, ITEM IV-A; 0: only local"
    ),
    "misalignment.w2": Field(
        1.0, "weight of the local term, ITEM IV-A; 0: only global"
    ),
    "misalignment.levels": Field(
        "sum",
        "global and local: summed, ITEM Eq. 8, or side by side",
        ("sum", "concat"),
    ),
    "misalignment.no_objects": Field(
        "global",
        "D_l without objects, undefined in the paper: D_g, or zero",
        ("global", "zero"),
    ),
    # ---- head
    "head.name": Field(
        "mlp",
        'ITEM III-C: "a simple two-layer MLP"; or `linear`',
        ("mlp", "linear"),
        outside=True,
    ),
    "head.hidden_dim": Field(512, "width of the MLP; not in the paper", least=1),
    # ---- train
    "train.split": Field("train", "records of this split; empty: all"),
    "train.generators": Field(
        (), "these generators and the real images they are tested against; (): all"
    ),
    "train.epochs": Field(50, "ITEM IV-A", least=1),
    "train.batch_size": Field(
        128,
        "not in the paper; inferred from printed cells, see item_jax/protocol.py",
        least=1,
    ),
    "train.learning_rate": Field(1e-3, "of AdamW, ITEM IV-A", least=0),
    "train.weight_decay": Field(
        1e-3, "of AdamW on all parameters, as in PyTorch; ITEM IV-A", least=0
    ),
    "train.seeds": Field(
        1,
        "heads trained side by side: seed, seed + 1, ...; reported as spread",
        least=1,
    ),
    "train.checkpoint_every": Field(10, "epochs", least=1),
    "train.threshold": Field(
        0.5,
        "fake when P(fake) > threshold, strictly; ITEM IV-A. It stays with the method",
        least=0,
        most=1,
    ),
    "train.baselines": Field(
        ("constant", "cosine", "image", "caption"),
        "methods fitted beside the head by a plain `train`, on the same images",
    ),
    # ---- evaluate
    "evaluate.split": Field("test", "records of this split; empty: all"),
    "evaluate.protocol": Field(
        "full",
        "which images count, see item_jax/protocol.py",
        ("full", "unifd", "paper_compat"),
    ),
    "evaluate.generators": Field(
        (), "only these generators or benchmarks, such as unifd/dalle; (): all"
    ),
    # ---- paper: what `item-jax paper` computes its tables and figures from
    "paper.methods": Field(
        (
            *("item", "tidy", "image_only", "cosine", "unifd", "nearest"),
            *("de_fake", "vib_net", "clip_flow", "constant"),
        ),
        "rows of the tables; the first is what the others are compared with",
    ),
    "paper.start": Field(
        (), "METHOD=FILE: weights that methods start from, as of `train --start`"
    ),
    "paper.settings": Field(
        (),
        "METHOD:FIELD=VALUE: a setting of one method of the tables, such as "
        "unifd:train.batch_size=32",
    ),
    "paper.columns": Field(
        ("forensynths", "unifd"), "of Tables I and II: benchmarks or generators"
    ),
    "paper.columns_3": Field(
        ("genimage", "diffusionforensics"), "of Table III: benchmarks or generators"
    ),
    "paper.training_sets": Field(
        ("progan", "imagenet_adm"), "generators to train on in turn, ITEM Fig. 6"
    ),
    "paper.robustness": Field(
        ("progan",), "generators of the perturbed images, ITEM Fig. 4"
    ),
    "paper.perturbed": Field(
        (), "data sets whose captions were made of perturbed images, ITEM Fig. 4"
    ),
    "paper.captioners": Field(
        (), "data sets with captions of other captioners, ITEM Fig. 7"
    ),
    "paper.towers": Field(("RN50", "ViT-B-16"), "other CLIP towers, ITEM Fig. 8"),
    "paper.tsne": Field(
        ("progan", "ldm_200", "stargan"), "generators that are drawn, ITEM Fig. 9"
    ),
    "paper.windows": Field(
        (), "generators in the order of time, AI-GenBench's protocol; not in the paper"
    ),
    "paper.window": Field(4, "generators of one window, as AI-GenBench's", least=1),
}

READS: dict[str, tuple[str, ...]] = {
    "index": ("data.score_threshold",),
    "audit": ("neutralise", "embed.threads", "data.max_pixels"),
    "embed": (
        *("tower", "tower_family", "dtype", "data.records", "data.images"),
        *("data.score_threshold", "data.max_objects", "data.min_object_pixels"),
        "data.max_pixels",
        *("views", "texts", "neutralise", "perturb", "embed"),
    ),
    "train": (
        *("seed", "misalignment", "head", "train"),
        # Of methods that read pixels or error maps.
        *("data.records", "data.images", "data.error_maps"),
    ),
    "evaluate": (*("evaluate", "data.records", "data.images", "data.error_maps"),),
    "fit": (
        *("seed", "tower", "tower_family", "dtype", "data.score_threshold"),
        *("data.max_objects", "data.min_object_pixels", "data.max_pixels", "views"),
        *("texts", "neutralise", "embed", "misalignment", "head", "train", "evaluate"),
    ),
    "paper": (
        *("seed", "misalignment", "head", "train", "evaluate", "paper"),
        "data.error_maps",
    ),
    "predict": (
        *("dtype", "data.max_pixels", "embed.batch_size", "embed.text_batch_size"),
        *("embed.mode", "embed.threads", "embed.workers", "embed.on_error"),
    ),
    "export": ("dtype",),
    "config": tuple(FIELDS),
}
"""Which fields, or whole sections, a command uses; any other override is refused."""
