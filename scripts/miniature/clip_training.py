"""A small CLIP for the miniature world, in the Hugging Face format.

The architecture family and files of `openai/clip-vit-large-patch14`, only smaller:
quick_gelu, 77 positions, causal text tower pooled at <|endoftext|>.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

import patches
from camera import SIDE
from pace import Pace
from patches import MEAN, STD, pixels
from pools import Pool
from scenes import all_phrases, names_in

WARM = 0.4  # share of the training that the image tower has for itself
PEAK = 0.5  # of the rates of `patches.optimisers`, on sentences
START, END = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(texts: list[str], merges: int = 256) -> CLIPTokenizer:
    """Makes CLIP's byte-level BPE with merges of the world's sentences.

    It encodes any text. The order of the vocabulary is CLIP's: 256 bytes, the same at
    the end of a word, merges, <|startoftext|>, <|endoftext|>.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}]+|[\p{N}]"), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    pairs = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(a + "</w>" for a in alphabet)]
    tokens += ["".join(p) for p in pairs] + [START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=77)


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 96,
        **ids,
    }
    vision = {
        "image_size": SIDE,
        "patch_size": patches.PATCH,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
        "projection_dim": 96,
    }
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=96)
    )
    patches.know_places(model.vision_model)
    return model


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids int64 [N, L], padded with <|endoftext|> to the longest."""
    return tokenizer(list(texts), padding=True, return_tensors="pt")["input_ids"]


def _unit(out) -> torch.Tensor:
    return F.normalize(getattr(out, "pooler_output", out).float(), dim=-1)


def image_units(model: CLIPModel, images: np.ndarray) -> torch.Tensor:
    """Unit image embeddings, float32 [N, D]."""
    return torch.cat(
        [
            _unit(model.get_image_features(pixel_values=pixels(images[i : i + 256])))
            for i in range(0, len(images), 256)
        ]
    )


def text_units(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """Unit text embeddings, float32 [N, D]."""
    return torch.cat(
        [_unit(model.get_text_features(input_ids=b)) for b in ids.split(256)]
    )


def train(
    pool: Pool, out: Path, *, steps: int, minutes: float, seed: int, batch: int = 64
) -> dict:
    """Contrastive training on scenes with sentences and on crops with phrases.

    Before that the image tower learns to name what is in its patches
    (`patches.warm_up`). Besides the batch's other sentences, each image is contrasted
    with a sentence that is wrong in one detail, so that the towers attend to details
    (as NegCLIP, Yuksekgonul et al. 2023); each crop with all other phrases. A model
    that is in the folder already is trained further.

    Args:
        pool: the training scenes.
        out: folder to save model, tokenizer and preprocessor to.
        steps: optimiser steps.
        minutes: the most it may take; the schedule is shortened to fit.
        seed: of the weights and of the order of batches.
        batch: scenes per step, and half as many crops.

    Returns:
        Facts about the run, for the README of the world.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    texts = [*pool.captions, *pool.others]
    tokenizer = make_tokenizer(texts)
    model = make_model(tokenizer)
    if (out / "model.safetensors").exists():
        model.load_state_dict(load_file(out / "model.safetensors"), strict=False)
    phrases = all_phrases()
    phrase_ids = tokens(tokenizer, phrases)
    number = {p: i for i, p in enumerate(phrases)}
    crops, crop_phrases = pool.crops()
    crop_phrase = np.array([number[p] for p in crop_phrases])
    caption_ids = tokens(tokenizer, texts)
    lengths = (caption_ids == tokenizer.eos_token_id).int().argmax(1) + 1
    named = torch.tensor([names_in(p) for p in crop_phrases]) + 1
    first, teacher = patches.warm_up(
        model.vision_model,
        _scenes_and_crops(pool, crops, named, rng, batch // 2),
        Pace("clip, patches", round(steps * WARM), minutes * WARM),
    )
    trained = patches.optimisers([model, teacher])
    rates = [PEAK * o.param_groups[0]["lr"] for o in trained]
    scenes, count = len(pool.captions), len(crop_phrase)
    labels = torch.arange(batch)
    rest = (steps - round(steps * WARM), minutes * (1 - WARM))
    pace = Pace("clip, sentences", *rest)
    for step, done in pace:
        for optimiser, rate in zip(trained, rates, strict=True):
            warm = min(1, (step + 1) / 50) * (1 + math.cos(math.pi * done)) / 2
            optimiser.param_groups[0]["lr"] = rate * warm
        i = rng.choice(scenes, batch, replace=False)
        j = rng.choice(count, batch // 2, replace=False)
        x, of_patches, ground = _beside(
            patches.of_scenes(pool, i), pixels(crops[j]), named[j]
        )
        rows = torch.from_numpy(np.concatenate([i, i + scenes]))
        ids = caption_ids[rows, : int(lengths[rows].max())]
        seen = model.get_image_features(pixel_values=x)
        states = model.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
        image = _unit(seen)
        text = _unit(model.get_text_features(input_ids=ids))
        phrase = _unit(model.get_text_features(input_ids=phrase_ids))
        scale = model.logit_scale.exp().clamp(max=100)
        whole = scale * image[:batch] @ text.T
        crop = scale * image[batch:] @ phrase.T
        loss = (
            F.cross_entropy(whole, labels)
            + F.cross_entropy(whole[:, :batch].T, labels)
            + F.cross_entropy(crop, torch.from_numpy(crop_phrase[j]))
        ) / 3
        for optimiser in trained:
            optimiser.zero_grad()
        (loss + teacher(states, of_patches, ground)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in trained:
            optimiser.step()
        if step % 20 == 0:
            pace.bar.set_postfix(
                loss=f"{loss.item():.3f}",
                scale=f"{scale.item():.0f}",
                right=f"{teacher.right:.2f}",
            )
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=MEAN,
        image_std=STD,
    ).save_pretrained(out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        **{k: round(first[k] + v, 1) for k, v in pace.facts().items()},
        "patches": first,
    }


def _scenes_and_crops(
    pool: Pool,
    crops: np.ndarray,
    named: torch.Tensor,
    rng: np.random.Generator,
    batch: int,
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches for `patches.warm_up`: scenes, and as many crops."""
    for scenes in patches.scenes_of(pool, rng, batch):
        j = rng.choice(len(crops), batch, replace=False)
        yield _beside(scenes, pixels(crops[j]), named[j])


def _beside(
    scenes: tuple[torch.Tensor, ...], crops: torch.Tensor, named: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Scenes, and crops whose patches are all of their thing and show no ground."""
    x, of_patches, ground = scenes
    of_crops = named[:, None].expand(-1, of_patches.shape[1], -1)
    return (
        torch.cat([x, crops]),
        torch.cat([of_patches, of_crops]),
        torch.cat([ground, ground.new_full((len(crops), 2), -1)]),
    )


@torch.no_grad()
def measure(folder: Path, pool: Pool) -> dict[str, float]:
    """Recall@1 and accuracies of a saved CLIP on scenes it has not seen."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    image = image_units(model, pool.images)
    text = text_units(model, tokens(tokenizer, pool.captions))
    other = text_units(model, tokens(tokenizer, pool.others))
    crops, crop_phrases = pool.crops()
    crop = image_units(model, crops)
    phrases = all_phrases()
    phrase = text_units(model, tokens(tokenizer, phrases))
    truth = torch.tensor([phrases.index(p) for p in crop_phrases])
    right = torch.arange(len(image))
    similar = image @ text.T
    figures = {
        "scenes": len(image),
        "image_to_text_recall_at_1": (similar.argmax(1) == right),
        "text_to_image_recall_at_1": (similar.argmax(0) == right),
        "right_over_nearly_right": (image * text).sum(1) > (image * other).sum(1),
        "crop_phrase_accuracy": (crop @ phrase.T).argmax(1) == truth,
    }
    return {
        k: v if isinstance(v, int) else round(v.float().mean().item(), 4)
        for k, v in figures.items()
    }
