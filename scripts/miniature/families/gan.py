"""A conditional GAN: hinge loss, a patch critic, a little L1 for stability."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from backbones import UNet
from layouts import CONDITION, GRID, PIXELS, sketch_of


class Model(nn.Module):
    noise, l1 = 16, 20.0

    def __init__(self):
        super().__init__()
        self.generator = UNet(self.noise)
        norm = nn.utils.parametrizations.spectral_norm
        self.critic = nn.Sequential(
            norm(nn.Conv2d(PIXELS + CONDITION, 64, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(64, 64, 3, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(64, 96, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(96, 96, 3, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(96, 1, 1)),
        )

    def loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        fake = self.sample(condition)
        score = self.critic(torch.cat([fake, condition], 1))
        return self.l1 * F.l1_loss(fake, x) - score.mean()

    def critic_loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        with torch.no_grad():
            fake = self.sample(condition)
        pairs = [torch.cat([image, condition], 1) for image in (x, fake)]
        real, fake = self.critic(torch.cat(pairs)).chunk(2)
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def sample(self, condition: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(condition), self.noise, GRID, GRID)
        return sketch_of(condition) + self.generator(condition, noise)
