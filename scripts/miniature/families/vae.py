"""A conditional VAE; samples are the decoder's mean at a code from the prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from backbones import UNet, spread
from layouts import CONDITION, PIXELS, sketch_of


class Model(nn.Module):
    code, sigma = 24, 0.08

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(PIXELS + CONDITION, 48, 1),
            nn.SiLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, 2 * self.code),
        )
        self.decoder = UNet(self.code)

    def loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        mean, log_var = self.encoder(torch.cat([x, condition], 1)).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        error = F.mse_loss(self._draw(z, condition), x)
        # While the code is expensive, the decoder learns to read the layout. Otherwise
        # the code would repeat it, and samples would contradict it.
        price = 10.0 ** max(0.0, 2 - 6 * done)
        return error / (2 * self.sigma**2) + price * kl / x[0].numel()

    def sample(self, condition: torch.Tensor) -> torch.Tensor:
        return self._draw(torch.randn(len(condition), self.code), condition)

    def _draw(self, z: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return sketch_of(condition) + self.decoder(condition, spread(z))
