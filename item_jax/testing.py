"""Small data for tests, ours and other people's: random checkpoints, random images.

No pretrained weights are needed to show that the towers compute what PyTorch's do:
random ones of the same shapes in the same files do. Nothing here needs PyTorch.

    python -m item_jax.testing ViT-L-14 /tmp/random-vit-l-14
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from item_jax.files import read_json, write_json
from item_jax.records import Object, Record

# Sizes as in the checkpoints of openai/* on the Hugging Face Hub: (width, layers,
# heads) of the image tower, (width, layers) of the text tower.
SIZES: dict[str, dict[str, Any]] = {
    "ViT-L-14": dict(embed_dim=768, patch=14, vision=(1024, 24, 16), text=(768, 12)),
    "ViT-B-16": dict(embed_dim=512, patch=16, vision=(768, 12, 12), text=(512, 12)),
    "ViT-B-32": dict(embed_dim=512, patch=32, vision=(768, 12, 12), text=(512, 12)),
    "tiny": dict(embed_dim=32, patch=8, vision=(64, 3, 4), text=(48, 2), size=32),
}
BOS, EOS = 49406, 49407  # openai/CLIP: the last two of 49,408 tokens
CONTEXT_LENGTH = 77


def save_random_clip(
    folder: str | Path,
    size: str = "tiny",
    *,
    seed: int = 0,
    activation: str = "quick_gelu",
) -> Path:
    """Writes a random CLIP in Hugging Face's format: config, weights, tokenizer.

    `transformers.CLIPModel.from_pretrained(folder)` loads it too.

    Args:
      folder: made if it does not exist.
      size: a name of `SIZES`; "tiny" has views of 32 pixels and 32 dimensions.
      seed: of the weights.
      activation: "quick_gelu" (OpenAI) or "gelu" (LAION).

    Returns:
      The folder.
    """
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shape = SIZES[size]
    (v_width, v_layers, v_heads), (t_width, t_layers) = shape["vision"], shape["text"]
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": shape["embed_dim"],
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": v_width,
            "intermediate_size": 4 * v_width,
            "num_hidden_layers": v_layers,
            "num_attention_heads": v_heads,
            "image_size": shape.get("size", 224),
            "patch_size": shape["patch"],
            "hidden_act": activation,
            "projection_dim": shape["embed_dim"],
        },
        "text_config": {
            "model_type": "clip_text_model",
            "hidden_size": t_width,
            "intermediate_size": 4 * t_width,
            "num_hidden_layers": t_layers,
            "num_attention_heads": max(t_width // 64, 3),
            "hidden_act": activation,
            "vocab_size": EOS + 1,
            "max_position_embeddings": CONTEXT_LENGTH,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "pad_token_id": EOS,
            "projection_dim": shape["embed_dim"],
        },
    }
    write_json(folder / "config.json", config)
    tensors = _random_tensors(config, np.random.default_rng(seed))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)  # of older shards
    save_character_tokenizer(folder)
    return folder


def _random_tensors(
    config: dict[str, Any], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Returns the tensors of a `CLIPModel`, at the scales its own init gives them."""
    vision, text = config["vision_config"], config["text_config"]
    out: dict[str, np.ndarray] = {}

    def normal(name: str, *shape: int, std: float, mean: float = 0.0) -> None:
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(std)
        values += np.float32(mean)
        out[name] = values

    def linear(name: str, rows: int, columns: int, std: float) -> None:
        normal(f"{name}.weight", rows, columns, std=std)
        normal(f"{name}.bias", rows, std=0.02)

    def norm(name: str, width: int) -> None:
        # Fresh norms are one and fresh biases zero: a converter could swap them, and
        # no test would notice.
        normal(f"{name}.weight", width, std=0.1, mean=1.0)
        normal(f"{name}.bias", width, std=0.02)

    def blocks(tower: str, c: dict[str, Any]) -> None:
        width, mlp, layers = (
            c["hidden_size"],
            c["intermediate_size"],
            c["num_hidden_layers"],
        )
        # Towards the depth's square root, as CLIPPreTrainedModel._init_weights.
        inner = width**-0.5 * (2 * layers) ** -0.5
        for i in range(layers):
            layer = f"{tower}.encoder.layers.{i}"
            for name in "qkv":
                linear(f"{layer}.self_attn.{name}_proj", width, width, inner)
            linear(f"{layer}.self_attn.out_proj", width, width, width**-0.5)
            linear(f"{layer}.mlp.fc1", mlp, width, (2 * width) ** -0.5)
            linear(f"{layer}.mlp.fc2", width, mlp, inner)
            norm(f"{layer}.layer_norm1", width)
            norm(f"{layer}.layer_norm2", width)

    width, patch = vision["hidden_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + 1
    there = "vision_model.embeddings"
    normal(f"{there}.class_embedding", width, std=width**-0.5)
    normal(f"{there}.patch_embedding.weight", width, 3, patch, patch, std=0.02)
    normal(f"{there}.position_embedding.weight", positions, width, std=0.02)
    norm("vision_model.pre_layrnorm", width)  # the typo is theirs
    blocks("vision_model", vision)
    norm("vision_model.post_layernorm", width)
    normal("visual_projection.weight", config["projection_dim"], width, std=width**-0.5)

    width, there = text["hidden_size"], "text_model.embeddings"
    normal(f"{there}.token_embedding.weight", text["vocab_size"], width, std=0.02)
    normal(f"{there}.position_embedding.weight", CONTEXT_LENGTH, width, std=0.02)
    blocks("text_model", text)
    norm("text_model.final_layer_norm", width)
    normal("text_projection.weight", config["projection_dim"], width, std=width**-0.5)
    out["logit_scale"] = np.array(2.6592, np.float32)  # openai/CLIP: ln(1 / 0.07)
    return out


def save_character_tokenizer(folder: str | Path) -> None:
    """Writes CLIP's byte-level tokenizer without merges: one token a character."""
    from transformers import CLIPTokenizer

    letters = [chr(b) for b in range(33, 127)]
    vocab = {c: i for i, c in enumerate(letters)}
    vocab |= {f"{c}</w>": len(letters) + i for i, c in enumerate(letters)}
    vocab |= {f"unused{i}": i for i in range(len(vocab), BOS)}  # no holes
    vocab |= {"<|startoftext|>": BOS, "<|endoftext|>": EOS}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(str(folder))


def open_clip_twin(folder: str | Path, twin: str | Path) -> Path:
    """Writes the checkpoint of `folder` again under open_clip's names and layout.

    Args:
      folder: written by `save_random_clip`.
      twin: made if it does not exist.

    Returns:
      `twin`.
    """
    from safetensors.numpy import load_file, save_file

    folder, twin = Path(folder), Path(twin)
    twin.mkdir(parents=True, exist_ok=True)
    raw = read_json(folder / "config.json")
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
    write_json(twin / "open_clip_config.json", config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, twin / name)
    return twin


def save_random_images(
    folder: str | Path, count: int = 24, seed: int = 0
) -> list[Record]:
    """Writes PNG files of noise and returns their records.

    Half are real and half fake (and darker), of two generators and two splits, with 0
    to 3 objects and captions of several lengths. `folder` is their image root.

    Args:
      folder: made if it does not exist.
      count: how many.
      seed: of the noise.
    """
    folder = Path(folder)
    rng = np.random.default_rng(seed)
    records = []
    for i in range(count):
        label = ("real", "fake")[i % 2]
        split = ("train", "test")[i // 2 % 2]
        generator = ("gan", "vae")[i // 4 % 2]
        key = f"{split}/{generator}/{('0_real', '1_fake')[i % 2]}/{i:03d}.png"
        pixels = rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
        if label == "fake":
            pixels //= 2
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / key)
        objects = tuple(
            Object(f"thing {j}", (0.1 * j, 0.2, 0.1 * j + 0.5, 0.9), 0.9 - 0.1 * j)
            for j in range(i % 4)
        )
        caption = f"a picture of number {i}" + " and so on" * (i % 3 * 4)
        records.append(Record(key, label, "own", generator, split, caption, objects))
    return records


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    save_random_clip(arguments.folder, arguments.size, seed=arguments.seed)
    print(f"wrote a random {arguments.size} to {arguments.folder}")
