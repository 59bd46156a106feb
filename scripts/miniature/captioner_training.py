"""The captioner: a small BLIP in the Hugging Face format, trained on real scenes alone.

It learns to describe a photograph, thing by thing from left to right. It never sees a
fake, nor the CLIP. `scripts/caption.py` runs it as it runs a published BLIP.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)

from camera import SIDE
from clip_training import MEAN, STD, pixels
from pace import Pace
from pools import Pool
from scenes import COLOURS, GROUNDS, SHAPES, SIZES

PATCH = 8
PEAK = 1.2e-3  # learning rate
CELLS = SIDE // PATCH
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
PHRASE = re.compile(r"\ban? (?:(?!and\b|on\b|with\b)[a-z]+ ?)+\b")


def make_tokenizer(texts: list[str]) -> BertTokenizer:
    """Makes a BERT tokenizer whose tokens are the world's words."""
    words = sorted({w for t in texts for w in re.findall(r"\w+|,", t)})
    return BertTokenizer(vocab={w: i for i, w in enumerate((*SPECIAL, *words))})


def make_model(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    size = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_attention_heads": 4,
        "projection_dim": 128,
    }
    ids = tokenizer.get_vocab()
    text = {
        "vocab_size": len(ids),
        "encoder_hidden_size": 128,
        "num_hidden_layers": 3,
        "max_position_embeddings": 64,
        "bos_token_id": ids["[DEC]"],
        "sep_token_id": ids["[SEP]"],
        "eos_token_id": ids["[SEP]"],
        "pad_token_id": ids["[PAD]"],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    vision = {
        "num_hidden_layers": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": 0.02,  # that of BLIP, 1e-10, is for loaded weights
    }
    model = BlipForConditionalGeneration(
        BlipConfig(
            text_config=size | text, vision_config=size | vision, projection_dim=128
        )
    )
    with torch.no_grad():  # patches that know their neighbours learn shapes sooner
        places = model.vision_model.embeddings.position_embedding
        places[0, 1:] = _waves(places.shape[-1])
    return model


def _waves(width: int) -> torch.Tensor:
    """Sines and cosines of the places of the patches, [64, width]."""
    rates = math.pi * 2.0 ** torch.linspace(-3, 0.5, width // 4)
    turns = torch.arange(CELLS)[:, None] * rates
    line = torch.cat([turns.sin(), turns.cos()], -1)
    across = line[None].expand(CELLS, -1, -1)
    down = line[:, None].expand(-1, CELLS, -1)
    return 0.3 * torch.cat([across, down], -1).flatten(0, 1)


def patch_names(layouts: np.ndarray) -> torch.Tensor:
    """What is in each patch: int64 [N, 64, 3], shape, colour and size + 1, or 0."""
    centre = (np.arange(CELLS) + 0.5) * PATCH * SIDE  # in 1/64 px, as boxes are
    names = np.zeros((len(layouts), CELLS, CELLS, 3), np.int64)
    for thing in range(1, layouts.shape[1]):
        x1, y1, x2, y2, *named = layouts[:, thing].astype(np.int64).T
        across = (centre > x1[:, None]) & (centre < x2[:, None])
        down = (centre > y1[:, None]) & (centre < y2[:, None])
        inside = down[:, :, None] & across[:, None, :] & (named[0] >= 0)[:, None, None]
        own = np.stack(named, 1)[:, None, None, :] + 1
        names = np.where(inside[..., None], own, names)
    return torch.from_numpy(names.reshape(len(layouts), -1, 3))


class Teacher(nn.Module):
    """Reads off the patches what is in them; it helps in training and is then dropped.

    With it the vision tower learns shapes and colours several times faster than from
    sentences alone.
    """

    counts = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(SIZES))

    def __init__(self, width: int):
        super().__init__()
        self.patches = nn.Linear(width, sum(self.counts))
        self.ground = nn.Linear(width, len(GROUNDS) + len(COLOURS))

    def forward(self, states: torch.Tensor, layouts: np.ndarray) -> torch.Tensor:
        """Loss of the states [N, 65, width] of a vision tower."""
        things = self.patches(states[:, 1:]).split(self.counts, -1)
        names = patch_names(layouts)
        grounds = self.ground(states[:, 1:].mean(1)).split(
            (len(GROUNDS), len(COLOURS)), -1
        )
        ground = torch.from_numpy(layouts[:, 0, 4:6].astype(np.int64))
        parts = [
            F.cross_entropy(said.flatten(0, 1), names[..., i].flatten())
            for i, said in enumerate(things)
        ]
        parts += [F.cross_entropy(said, ground[:, i]) for i, said in enumerate(grounds)]
        return sum(parts) / len(parts)


def train(
    pool: Pool, out: Path, *, steps: int, minutes: float, seed: int, batch: int = 32
) -> dict:
    """Trains on photographs with their descriptions, and saves model and processor.

    A model that is in the folder already is trained further.

    Args:
        pool: the training scenes.
        out: folder to save to.
        steps: optimiser steps.
        minutes: the most it may take; the schedule is shortened to fit.
        seed: of the weights and of the order of batches.
        batch: scenes per step.

    Returns:
        Facts about the run, for the README of the world.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tokenizer = make_tokenizer(pool.descriptions)
    model = make_model(tokenizer)
    peak = PEAK
    if (out / "model.safetensors").exists():
        model.load_state_dict(load_file(out / "model.safetensors"), strict=False)
        peak = PEAK * 2 / 3
    teacher = Teacher(128)
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in ("[DEC]", "[SEP]"))
    rows = [
        [start, *tokenizer(t, add_special_tokens=False)["input_ids"], end]
        for t in pool.descriptions
    ]
    lengths = np.array([len(r) for r in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    weights = [*model.parameters(), *teacher.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    pace = Pace("captioner", steps, minutes)
    model.train()
    for step, done in pace:
        rate = peak * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * done)) / 2
        for group in optimiser.param_groups:
            group["lr"] = rate
        i = np.sort(rng.choice(len(pool), batch, replace=False))
        states = model.vision_model(pixel_values=pixels(pool.images[i]))[0]
        said = torch.from_numpy(ids[i, : lengths[i].max()])
        loss = model.text_decoder(
            input_ids=said,
            attention_mask=(said != 0).long(),
            encoder_hidden_states=states,
            labels=said.masked_fill(said == 0, -100),
        ).loss
        helped = teacher(states, pool.layouts[i])
        optimiser.zero_grad()
        (loss + helped).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        if step % 50 == 0:
            pace.bar.set_postfix(loss=f"{loss.item():.3f} {helped.item():.3f}")
    model.half().save_pretrained(out)
    image = BlipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )
    BlipProcessor(image, tokenizer).save_pretrained(out)
    return {"parameters": sum(p.numel() for p in model.parameters()), **pace.facts()}


def find_phrases(caption: str) -> list[str]:
    """Returns the noun phrases of a sentence of this world, in reading order."""
    return [found.group().strip() for found in PHRASE.finditer(caption)]


def measure(captions: list[str], pool: Pool) -> dict[str, float]:
    """How right captions are, of scenes in the order of a pool.

    Returns:
        `caption_accuracy`, the share that equals the description; `phrase_accuracy`,
        the share of the descriptions' phrases, the grounds' included, that the captions
        have; `phrase_precision`, the share of the captions' phrases that are right.
    """
    right = said = true = 0
    for caption, description in zip(captions, pool.descriptions, strict=True):
        rest = find_phrases(description)
        true += len(rest)
        for phrase in find_phrases(caption):
            said += 1
            if phrase in rest:
                rest.remove(phrase)
                right += 1
    same = np.mean([a == b for a, b in zip(captions, pool.descriptions, strict=True)])
    return {
        "scenes": len(captions),
        "caption_accuracy": round(float(same), 4),
        "phrase_accuracy": round(right / true, 4),
        "phrase_precision": round(right / max(said, 1), 4),
    }
