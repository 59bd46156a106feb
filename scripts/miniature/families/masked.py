"""Masked tokens on the codes of the VQ-VAE (MaskGIT, Chang et al. 2022)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from backbones import TOKENS, Transformer
from families import vqvae


class Model(nn.Module):
    steps, choice = 12, 2.0  # `choice` noises the confidences while codes are chosen

    def __init__(self, vq: vqvae.Model):
        super().__init__()
        self.vq = [vq]  # frozen, and saved elsewhere
        self.codes = nn.Embedding(vq.codes + 1, 128)  # the last one is the mask
        self.body = Transformer(causal=False)
        self.say = nn.Linear(128, vq.codes)

    def _logits(self, codes: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.say(self.body(self.codes(codes), condition))

    def loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        with torch.no_grad():
            codes = self.vq[0].quantise(self.vq[0].encode(x, condition))
        share = torch.cos(torch.rand(len(x), 1) * math.pi / 2)
        hidden = torch.rand(codes.shape) < share.clamp(min=1 / TOKENS**2)
        given = codes.masked_fill(hidden, self.vq[0].codes)
        return F.cross_entropy(self._logits(given, condition)[hidden], codes[hidden])

    def sample(self, condition: torch.Tensor) -> torch.Tensor:
        mask = self.vq[0].codes
        codes = torch.full((len(condition), TOKENS**2), mask)
        for step in range(1, self.steps + 1):
            p = self._logits(codes, condition).softmax(-1)
            drawn = torch.multinomial(p.flatten(0, 1), 1).view_as(codes)
            open_ = codes == mask
            sure = p.gather(-1, drawn[..., None])[..., 0].log()
            gumbel = -torch.empty_like(sure).exponential_().log()
            sure = sure + self.choice * (1 - step / self.steps) * gumbel
            sure = sure.masked_fill(~open_, math.inf)
            keep = TOKENS**2 - int(
                TOKENS**2 * math.cos(math.pi / 2 * step / self.steps)
            )
            floor = sure.topk(keep, 1).values[:, -1:]
            codes = torch.where(open_ & (sure >= floor), drawn, codes)
        return self.vq[0].decode(self.vq[0].look_up(codes), condition)
