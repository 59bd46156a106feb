"""Diffusion in the space of the VQ-VAE (Rombach et al. 2022), sampled by DDIM.

The network predicts v (Salimans and Ho 2022), which is well scaled at every time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from backbones import TOKENS, WAVES, Transformer, time_code
from families import vqvae
from families.diffusion import ddim, schedule


class Model(nn.Module):
    steps = 25

    def __init__(self, vq: vqvae.Model):
        super().__init__()
        self.vq = [vq]  # frozen, and saved elsewhere
        self.enter = nn.Linear(vq.size + 2 * WAVES, 128)
        self.body = Transformer(causal=False)
        self.leave = nn.Linear(128, vq.size)
        # Latents are trained and drawn at unit variance.
        self.register_buffer("scale", vq.book.std())

    def _v(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor):
        flat = x.flatten(2).transpose(1, 2)
        time = time_code(t)[:, None].expand(-1, flat.shape[1], -1)
        states = self.body(self.enter(torch.cat([flat, time], -1)), condition)
        return self.leave(states).transpose(1, 2).unflatten(-1, (TOKENS, TOKENS))

    def _clean(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor):
        a, b = schedule(t)
        return a * x - b * self._v(x, t, condition)

    def loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        with torch.no_grad():
            latents = self.vq[0].encode(x, condition) / self.scale
        noise, t = torch.randn_like(latents), torch.rand(len(x))
        a, b = schedule(t)
        v = self._v(a * latents + b * noise, t, condition)
        return F.mse_loss(v, a * noise - b * latents)

    def sample(self, condition: torch.Tensor) -> torch.Tensor:
        vq = self.vq[0]
        noise = torch.randn(len(condition), vq.size, TOKENS, TOKENS)
        latents = ddim(lambda x, t: self._clean(x, t, condition), noise, self.steps)
        return vq.decode(vq.look_up(vq.quantise(latents * self.scale)), condition)
