"""Tiny random SigLIP and MetaCLIP 2 in their real files, written by transformers."""

from pathlib import Path

import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import (
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

WORDS = "a dog small cat on mat the sea its blue & , . ' it".split()
BLOCKS = dict(
    num_hidden_layers=2, num_attention_heads=4, hidden_size=64, intermediate_size=96
)


def shake(model: torch.nn.Module, seed: int = 0) -> None:
    """Moves every parameter off its initial value: a fresh norm is one and a fresh bias
    zero, so that a converter could swap them and no test would notice."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim < 2:
                value += 0.1 * torch.randn(value.shape, generator=generator)
            elif "embedding" in name or "probe" in name:
                value += 0.1 * torch.randn(value.shape, generator=generator)


def save_word_tokenizer(
    folder: Path,
    *,
    specials: list[str],
    eos: str,
    pad: str,
    start: str = "",
    rows: int = 0,
    **facts,
) -> PreTrainedTokenizerFast:
    """Writes a tokenizer of one token a word and a character, `eos` at the end; with
    unused tokens up to `rows` of them."""
    characters = [chr(c) for c in range(33, 127)]
    names = dict.fromkeys([*specials, *WORDS, *characters])
    names |= dict.fromkeys(f"unused{i}" for i in range(len(names), rows))
    vocab = {name: i for i, name in enumerate(names)}
    made = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids = [(token, vocab[token]) for token in specials]
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {eos}".strip(), special_tokens=ids
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=eos, pad_token=pad, unk_token="<unk>", **facts
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_siglip(folder: Path, version: int = 1) -> SiglipModel:
    """SigLIP, or SigLIP 2 of a fixed size: another vocabulary, padding and filter."""
    torch.manual_seed(version)
    specials = ["<pad>", "</s>", "<unk>"]
    pad = "</s>" if version == 1 else "<pad>"
    tokenizer = save_word_tokenizer(
        folder, specials=specials, eos="</s>", pad=pad, padding_side="right"
    )
    model = SiglipModel(
        SiglipConfig(
            text_config=BLOCKS
            | dict(vocab_size=len(tokenizer), max_position_embeddings=16),
            vision_config=BLOCKS | dict(image_size=34, patch_size=8),
        )
    ).eval()
    shake(model)
    model.save_pretrained(folder)
    return model


def save_metaclip_2(folder: Path) -> MetaClip2Model:
    torch.manual_seed(0)
    tokenizer = save_word_tokenizer(
        folder,
        specials=["<s>", "<pad>", "</s>", "<unk>"],
        eos="</s>",
        pad="<pad>",
        start="<s>",
        bos_token="<s>",
    )
    model = MetaClip2Model(
        MetaClip2Config(
            projection_dim=32,
            text_config=BLOCKS
            | dict(
                vocab_size=len(tokenizer),
                max_position_embeddings=20,
                eos_token_id=2,
                bos_token_id=0,
                hidden_act="gelu",
            ),
            vision_config=BLOCKS | dict(image_size=32, patch_size=8, hidden_act="gelu"),
        )
    ).eval()
    shake(model)
    model.save_pretrained(folder)
    return model
