"""Codes of the VQ-VAE one after the other, by a causal transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from backbones import TOKENS, Transformer
from families import vqvae


class Model(nn.Module):
    def __init__(self, vq: vqvae.Model):
        super().__init__()
        self.vq = [vq]  # frozen, and saved elsewhere
        self.codes = nn.Embedding(vq.codes + 1, 128)  # the last one is the start
        self.body = Transformer(causal=True)
        self.say = nn.Linear(128, vq.codes)

    def _logits(self, codes: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        start = torch.full_like(codes[:, :1], self.vq[0].codes)
        before = torch.cat([start, codes[:, :-1]], 1)
        return self.say(self.body(self.codes(before), condition))

    def loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        with torch.no_grad():
            codes = self.vq[0].quantise(self.vq[0].encode(x, condition))
        logits = self._logits(codes, condition)
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten())

    def sample(self, condition: torch.Tensor) -> torch.Tensor:
        codes = torch.zeros(len(condition), TOKENS**2, dtype=torch.long)
        for place in range(TOKENS**2):
            p = self._logits(codes, condition)[:, place].softmax(-1)
            codes[:, place] = torch.multinomial(p, 1)[:, 0]
        return self.vq[0].decode(self.vq[0].look_up(codes), condition)
