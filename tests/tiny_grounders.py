"""Tiny random grounders, written as whole checkpoints; see `tiny_captioners`."""

from __future__ import annotations

import string
from pathlib import Path

import torch
import transformers as hf
from tiny_captioners import bert_vocab, noise


def grounding_dino(folder: Path, kind: str = "GroundingDino") -> Path:
    config = getattr(hf, f"{kind}Config")(
        backbone_config=hf.SwinConfig(
            image_size=64,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=7,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=hf.BertConfig(
            vocab_size=1030,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        ),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=10,
        max_text_len=64,
    )
    cls = getattr(hf, f"{kind}ForObjectDetection")
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        # Fresh weights see no text at all: the enhancers between picture and words
        # begin switched off. And every box would be the same.
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 0.2)
            if "param" in name:
                p.fill_(0.5)
            if "class_embed" in name and name.endswith("bias"):
                p.zero_()  # MM-Grounding-DINO begins with a probability of 0.01
    hf.GroundingDinoProcessor(
        hf.GroundingDinoImageProcessor(size={"shortest_edge": 72, "longest_edge": 128}),
        hf.BertTokenizer(vocab=bert_vocab()),
    ).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def mm_grounding_dino(folder: Path) -> Path:
    """MM-Grounding-DINO; LLMDet's checkpoints are of the same class."""
    return grounding_dino(folder, "MMGroundingDino")


def owlv2(folder: Path) -> Path:
    letters = string.ascii_lowercase
    words = ("!", *letters, *(f"{c}</w>" for c in letters))
    # The text's vector is taken at the highest id, so the end must be the last.
    vocab = {t: i for i, t in enumerate((*words, "<|startoftext|>", "<|endoftext|>"))}
    tokenizer = hf.CLIPTokenizer(vocab=vocab, merges=[], pad_token="!")
    config = hf.Owlv2Config(
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=vocab["<|endoftext|>"],
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=dict(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=64,
            patch_size=16,
        ),
        projection_dim=16,
    )
    model = noise(hf.Owlv2ForObjectDetection(config))
    hf.Owlv2Processor(
        hf.Owlv2ImageProcessor(size={"height": 64, "width": 64}), tokenizer
    ).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


GROUNDERS = {
    "mm-grounding-dino": mm_grounding_dino,
    "grounding-dino": grounding_dino,
    "llmdet": mm_grounding_dino,
    "owlv2": owlv2,
}
