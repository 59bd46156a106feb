"""Random CLIP checkpoints in Hugging Face format, of any size, real ones included.

No pretrained weights are needed to show that the towers compute what PyTorch's do:
random ones of the same shapes in the same files do. Needs torch.

    python scripts/random_clip.py ViT-L-14 /tmp/random-vit-l-14
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

# Sizes as in the checkpoints of openai/* on the Hugging Face Hub.
SIZES = {
    "ViT-L-14": dict(embed_dim=768, patch=14, vision=(1024, 24, 16), text=(768, 12)),
    "ViT-B-16": dict(embed_dim=512, patch=16, vision=(768, 12, 12), text=(512, 12)),
    "ViT-B-32": dict(embed_dim=512, patch=32, vision=(768, 12, 12), text=(512, 12)),
    "tiny": dict(embed_dim=32, patch=8, vision=(64, 3, 4), text=(48, 2), size=32),
}
BOS, EOS = 49406, 49407  # openai/CLIP: the last two of 49,408 tokens


def save_random_clip(
    folder: str | Path, size: str = "tiny", *, seed: int = 0, activation="quick_gelu"
):
    """Writes config, weights and tokenizer of a random CLIP; returns the torch model.

    Args:
      folder: made when it does not exist.
      size: a name of `SIZES`.
      seed: of the weights.
      activation: `hidden_act`, "quick_gelu" (OpenAI) or "gelu" (LAION).
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    folder = Path(folder)
    shape = SIZES[size]
    (v_width, v_layers, v_heads), (t_width, t_layers) = shape["vision"], shape["text"]
    config = CLIPConfig(
        projection_dim=shape["embed_dim"],
        vision_config=dict(
            hidden_size=v_width,
            intermediate_size=4 * v_width,
            num_hidden_layers=v_layers,
            num_attention_heads=v_heads,
            image_size=shape.get("size", 224),
            patch_size=shape["patch"],
            hidden_act=activation,
        ),
        text_config=dict(
            hidden_size=t_width,
            intermediate_size=4 * t_width,
            num_hidden_layers=t_layers,
            num_attention_heads=max(t_width // 64, 3),
            hidden_act=activation,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=EOS,
        ),
    )
    torch.manual_seed(seed)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            # Fresh biases are zero and fresh norms one: a converter could swap them.
            if name.endswith("bias"):
                p.normal_(0, 0.02)
            elif "norm" in name or "layrnorm" in name:
                p.normal_(1, 0.1)
    model.save_pretrained(folder)
    save_character_tokenizer(folder)
    return model


def save_character_tokenizer(folder: str | Path) -> None:
    """Writes CLIP's byte-level tokenizer without merges: one token a character."""
    from transformers import CLIPTokenizer

    letters = [chr(b) for b in range(33, 127)]
    vocab = {c: i for i, c in enumerate(letters)}
    vocab |= {f"{c}</w>": len(letters) + i for i, c in enumerate(letters)}
    vocab |= {f"unused{i}": i for i in range(len(vocab), BOS)}  # no holes
    vocab |= {"<|startoftext|>": BOS, "<|endoftext|>": EOS}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder)


def open_clip_twin(folder: str | Path, twin: str | Path) -> None:
    """Writes the checkpoint of `folder` again under open_clip's names and layout."""
    import shutil

    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder, twin = Path(folder), Path(twin)
    twin.mkdir(parents=True, exist_ok=True)
    raw = json.loads((folder / "config.json").read_text())
    vision, text = raw["vision_config"], raw["text_config"]
    hf = load_file(folder / "model.safetensors")
    out = {
        "logit_scale": hf["logit_scale"],
        "visual.conv1.weight": hf["vision_model.embeddings.patch_embedding.weight"],
        "visual.class_embedding": hf["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": hf[
            "vision_model.embeddings.position_embedding.weight"
        ],
        "visual.proj": hf["visual_projection.weight"].T,
        "token_embedding.weight": hf["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": hf["text_model.embeddings.position_embedding.weight"],
        "text_projection": hf["text_projection.weight"].T,
    }
    names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    norms = {
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.final_layer_norm": "ln_final",
    }
    for end in ("weight", "bias"):
        out |= {f"{b}.{end}": hf[f"{a}.{end}"] for a, b in norms.items()}
        for tower, prefix, c in (
            ("vision_model", "visual.", vision),
            ("text_model", "", text),
        ):
            for i in range(c["num_hidden_layers"]):
                a = f"{tower}.encoder.layers.{i}"
                b = f"{prefix}transformer.resblocks.{i}"
                out |= {
                    f"{b}.{n}.{end}": hf[f"{a}.{m}.{end}"] for m, n in names.items()
                }
                qkv = [hf[f"{a}.self_attn.{x}_proj.{end}"] for x in "qkv"]
                out[f"{b}.attn.in_proj_{end}"] = np.concatenate(qkv)
    out = {name: np.array(value, order="C") for name, value in out.items()}
    save_file(out, twin / "open_clip_model.safetensors")
    config = {
        "model_cfg": {
            "embed_dim": raw["projection_dim"],
            "quick_gelu": vision["hidden_act"] == "quick_gelu",
            "vision_cfg": {
                "image_size": vision["image_size"],
                "layers": vision["num_hidden_layers"],
                "width": vision["hidden_size"],
                "head_width": vision["hidden_size"] // vision["num_attention_heads"],
                "patch_size": vision["patch_size"],
            },
            "text_cfg": {
                "context_length": text["max_position_embeddings"],
                "vocab_size": text["vocab_size"],
                "width": text["hidden_size"],
                "heads": text["num_attention_heads"],
                "layers": text["num_hidden_layers"],
            },
        },
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073],
            "std": [0.26862954, 0.26130258, 0.27577711],
        },
    }
    (twin / "open_clip_config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, twin / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    save_random_clip(arguments.folder, arguments.size, seed=arguments.seed)
    print(f"a random {arguments.size} stands in {arguments.folder}")
