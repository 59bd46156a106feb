"""A small CLIP for the miniature world, in the Hugging Face format.

The architecture family and files of `openai/clip-vit-large-patch14`, only smaller:
quick_gelu, 77 positions, causal text tower pooled at <|endoftext|>.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from camera import SIDE
from pace import Pace
from pools import Pool
from scenes import all_phrases

MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's image statistics
STD = (0.26862954, 0.26130258, 0.27577711)
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
        "patch_size": 8,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "hidden_act": "quick_gelu",
        "projection_dim": 96,
    }
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=96)
    )


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 64, 64, 3] -> normalised float32 [N, 3, 64, 64]."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    return ((x - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


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
    pool: Pool, out: Path, *, steps: int, minutes: float, seed: int, batch: int = 96
) -> dict:
    """Contrastive training on scenes with sentences and on crops with phrases.

    Besides the batch's other sentences, each image is contrasted with a sentence
    that is wrong in one detail, so that the towers attend to details (as NegCLIP,
    Yuksekgonul et al. 2023).

    Args:
        pool: the training scenes.
        out: folder to save model, tokenizer and preprocessor to.
        steps: optimiser steps.
        minutes: the most it may take; the schedule is shortened to fit.
        seed: of the weights and of the order of batches.
        batch: scenes per step, and as many crops.

    Returns:
        Facts about the run, for the README of the world.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    texts = [*pool.captions, *pool.others]
    tokenizer = make_tokenizer(texts)
    model = make_model(tokenizer)
    phrases = all_phrases()
    phrase_ids = tokens(tokenizer, phrases)
    number = {p: i for i, p in enumerate(phrases)}
    crops, crop_phrases = pool.crops()
    crop_phrase = np.array([number[p] for p in crop_phrases])
    caption_ids = tokens(tokenizer, texts)
    lengths = (caption_ids == tokenizer.eos_token_id).int().argmax(1) + 1
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=1e-3,
        betas=(0.9, 0.98),
    )
    scenes, count = len(pool.captions), len(crop_phrase)
    labels = torch.arange(batch)
    pace = Pace("clip", steps, minutes)
    for step, done in pace:
        rate = 1e-3 * min(1, (step + 1) / 60) * (1 + math.cos(math.pi * done)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        i = rng.choice(scenes, batch, replace=False)
        j = rng.choice(count, batch, replace=False)
        x = pixels(np.concatenate([pool.images[i], crops[j]]))
        rows = torch.from_numpy(np.concatenate([i, i + scenes]))
        ids = caption_ids[rows, : int(lengths[rows].max())]
        image = model.get_image_features(pixel_values=x)
        text = model.get_text_features(input_ids=ids)
        phrase = model.get_text_features(input_ids=phrase_ids[crop_phrase[j]])
        image, text, phrase = _unit(image), _unit(text), _unit(phrase)
        scale = model.logit_scale.exp().clamp(max=100)
        whole = scale * image[:batch] @ text.T
        crop = scale * image[batch:] @ phrase.T
        # Two crops of one batch may share a phrase: they are not a negative pair.
        same = torch.from_numpy(crop_phrase[j][:, None] == crop_phrase[j][None])
        crop = crop.masked_fill(same & ~torch.eye(batch, dtype=bool), -1e4)
        loss = (
            F.cross_entropy(whole, labels)
            + F.cross_entropy(whole[:, :batch].T, labels)
            + F.cross_entropy(crop, labels)
            + F.cross_entropy(crop.T, labels)
        ) / 4
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            pace.bar.set_postfix(loss=f"{loss.item():.3f}", scale=f"{scale.item():.0f}")
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
    return {"parameters": sum(p.numel() for p in model.parameters()), **pace.facts()}


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
