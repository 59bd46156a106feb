"""Writes a random checkpoint as open_clip saves it, and what open_clip makes of it.

    python tests/open_clip_reference.py FOLDER '{"name": "RN50", "set": {...}}'

`name` is one of open_clip's own configurations, `set` changes it by dotted keys, to
make it smaller. `reference.npz` then has `views`, `image_emb`, `tokens` and `text_emb`
of the texts in `texts.json`. Run in the environment of the fixture `references`.
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import tiny_towers
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file

from item_jax import testing

TEXTS = [
    "a dog",
    "",
    "A small cat, on the mat & its sea",
    "it’s the “blue” sea &amp; a_dog",
    "the sea " * 60,
]


def save_tokenizer(folder: Path, text: dict) -> None:
    """One of the kind that the model has, with as many tokens as rows."""
    if not text.get("hf_tokenizer_name"):
        return testing.save_character_tokenizer(folder)
    rows = text["vocab_size"]
    if text.get("pool_type") == "eos":  # XLM-V
        specials, start, end = ["<s>", "<pad>", "</s>", "<unk>"], "<s>", "</s>"
    elif text["tokenizer_kwargs"].get("strip_sep_token"):  # BERT
        specials, start, end = ["[PAD]", "<unk>", "[CLS]", "[SEP]"], "[CLS]", "[SEP]"
    else:  # SigLIP
        specials, start, end = ["<pad>", "</s>", "<unk>"], "", "</s>"
    tiny_towers.save_word_tokenizer(
        folder,
        specials=specials,
        start=start,
        eos=end,
        pad=specials[1] if start == "<s>" else specials[0],
        rows=rows,
        sep_token=end,
        padding_side="right",
    )


def main(folder: Path, name: str, changes: dict) -> None:
    config = copy.deepcopy(open_clip.get_model_config(name))
    for dotted, value in changes.items():
        *outer, last = dotted.split(".")
        row = config
        for key in outer:
            row = row[key]
        row[last] = value
    config.setdefault("quick_gelu", False)
    torch.manual_seed(0)
    arguments = {k: v for k, v in config.items() if k != "custom_text"}
    make = CustomTextCLIP if config.get("custom_text") else CLIP
    model = make(**copy.deepcopy(arguments)).eval()
    tiny_towers.shake(model)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    mean, std = [0.5, 0.4, 0.45], [0.25, 0.26, 0.27]
    preprocess = {"mean": mean, "std": std}
    if "CLIPA" in name:
        preprocess |= {"interpolation": "bilinear", "resize_mode": "squash"}
    raw = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(raw))
    save_tokenizer(folder, config["text_cfg"])
    (folder / "texts.json").write_text(json.dumps(TEXTS))

    size = config["vision_cfg"]["image_size"]
    shape = (2, size, size, 3)
    views = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = (torch.from_numpy(views) / 255 - torch.tensor(mean)) / torch.tensor(std)
    if config["text_cfg"].get("hf_tokenizer_name"):
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    else:  # the tokenizer of CLIP is compared elsewhere
        from transformers import CLIPTokenizer

        clean = open_clip.tokenizer.get_clean_fn("lower")  # SimpleTokenizer's own
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        tokens = tokenizer(
            [clean(text) for text in TEXTS],
            padding="max_length",
            truncation=True,
            max_length=77,
        ).input_ids
        tokens = torch.tensor(tokens)
    with torch.no_grad():
        image_emb = model.encode_image(pixels.permute(0, 3, 1, 2))
        text_emb = model.encode_text(tokens)
    np.savez(
        folder / "reference.npz",
        views=views,
        image_emb=image_emb,
        tokens=tokens,
        text_emb=text_emb,
    )


if __name__ == "__main__":
    asked = json.loads(sys.argv[2])
    main(Path(sys.argv[1]), asked["name"], asked.get("set", {}))
