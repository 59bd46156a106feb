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
from safetensors.torch import load_file
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
)

import patches
from camera import SIDE
from pace import Pace
from patches import MEAN, STD
from pools import Pool

WARM = 0.5  # share of the training that the image tower has for itself
PEAK = 0.5  # of the rates of `patches.optimisers`, on sentences
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
PHRASE = re.compile(r"\ban? (?:(?!and\b|on\b|with\b)[a-z]+ ?)+\b")


def make_tokenizer(texts: list[str]) -> BertTokenizer:
    """Makes a BERT tokenizer whose tokens are the world's words."""
    words = sorted({w for t in texts for w in re.findall(r"\w+|,", t)})
    return BertTokenizer(vocab={w: i for i, w in enumerate((*SPECIAL, *words))})


def make_model(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    size = {
        "hidden_size": 128,
        "intermediate_size": 256,
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
        "patch_size": patches.PATCH,
        "initializer_range": 0.02,  # that of BLIP, 1e-10, is for loaded weights
    }
    model = BlipForConditionalGeneration(
        BlipConfig(
            text_config=size | text, vision_config=size | vision, projection_dim=128
        )
    )
    patches.know_places(model.vision_model)
    return model


def train(
    pool: Pool, out: Path, *, steps: int, minutes: float, seed: int, batch: int = 32
) -> dict:
    """Trains on photographs with their descriptions, and saves model and processor.

    First the image tower alone, patch by patch (`patches.warm_up`), then all of it on
    sentences. A model that is in the folder already is trained further.

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
    model = make_model(tokenizer).train()
    if (out / "model.safetensors").exists():
        model.load_state_dict(load_file(out / "model.safetensors"), strict=False)
    start, end = (tokenizer.convert_tokens_to_ids(t) for t in ("[DEC]", "[SEP]"))
    rows = [
        [start, *tokenizer(t, add_special_tokens=False)["input_ids"], end]
        for t in pool.descriptions
    ]
    lengths = np.array([len(r) for r in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = found
    first, teacher = patches.warm_up(
        model.vision_model,
        patches.scenes_of(pool, rng, 2 * batch),
        Pace("captioner, patches", round(steps * WARM), minutes * WARM),
    )
    trained = patches.optimisers([model, teacher])
    rates = [PEAK * o.param_groups[0]["lr"] for o in trained]
    rest = (steps - round(steps * WARM), minutes * (1 - WARM))
    pace = Pace("captioner, sentences", *rest)
    for step, done in pace:
        for optimiser, rate in zip(trained, rates, strict=True):
            warm = min(1, (step + 1) / 100) * (1 + math.cos(math.pi * done)) / 2
            optimiser.param_groups[0]["lr"] = rate * warm
        i = np.sort(rng.choice(len(pool), batch, replace=False))
        said = torch.from_numpy(ids[i, : lengths[i].max()])
        x, named, ground = patches.of_scenes(pool, i)
        states = model.vision_model(pixel_values=x).last_hidden_state
        loss = teacher(states[:, 1:], named, ground)
        loss = (
            loss
            + model.text_decoder(
                input_ids=said,
                attention_mask=(said != 0).long(),
                encoder_hidden_states=states,
                labels=said.masked_fill(said == 0, -100),
            ).loss
        )
        for optimiser in trained:
            optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in trained:
            optimiser.step()
        if step % 20 == 0:
            pace.bar.set_postfix(
                loss=f"{loss.item():.3f}", right=f"{teacher.right:.2f}"
            )
    model.half().save_pretrained(out)
    image = BlipImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )
    BlipProcessor(image, tokenizer).save_pretrained(out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        **{k: round(first[k] + v, 1) for k, v in pace.facts().items()},
        "patches": first,
    }


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
