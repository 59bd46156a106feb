"""The VQ-VAE whose 8x8 codes three families draw in.

Its decoder sees the layout too: a code says what the layout leaves open. Codes are
moved to the mean of what they stand for (van den Oord et al. 2017, appendix A.1); one
that nothing uses is put where a picture is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from backbones import Block, UNet
from layouts import CONDITION, PIXELS, sketch_of


class Model(nn.Module):
    codes, size, decay, commitment = 256, 16, 0.98, 0.25

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(PIXELS + CONDITION, 48, 3, padding=1),
            Block(48),
            nn.Conv2d(48, 96, 3, stride=2, padding=1),
            Block(96),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Conv2d(96, self.size, 1),
        )
        self.enter = nn.Conv2d(self.size, 4 * 24, 1)
        self.decoder = UNet(24)
        self.register_buffer("book", torch.randn(self.codes, self.size))
        self.register_buffer("used", torch.ones(self.codes))
        self.register_buffer("total", self.book.clone())

    def encode(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Latents before they are quantised, [N, size, 8, 8]."""
        return self.encoder(torch.cat([x, condition], 1))

    def quantise(self, latents: torch.Tensor) -> torch.Tensor:
        """The nearest codes, int64 [N, 64]."""
        flat = latents.flatten(2).transpose(1, 2)
        return torch.cdist(flat, self.book.expand(len(flat), -1, -1)).argmin(-1)

    def look_up(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes [N, 64] -> latents [N, size, 8, 8]."""
        return self.book[codes].transpose(1, 2).unflatten(-1, (8, 8))

    def decode(self, latents: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Latents -> an image, [N, 48, 16, 16]."""
        codes = F.pixel_shuffle(self.enter(latents), 2)
        return sketch_of(condition) + self.decoder(condition, codes)

    def loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        latents = self.encode(x, condition)
        codes = self.quantise(latents)
        near = self.look_up(codes)
        self._move(codes, latents.detach())
        drawn = self.decode(latents + (near - latents).detach(), condition)
        commitment = F.mse_loss(latents, near.detach())
        return 100 * F.mse_loss(drawn, x) + self.commitment * commitment

    @torch.no_grad()
    def _move(self, codes: torch.Tensor, latents: torch.Tensor) -> None:
        flat = latents.flatten(2).transpose(1, 2).flatten(0, 1)
        chosen = F.one_hot(codes.flatten(), self.codes).float()
        self.used.lerp_(chosen.sum(0), 1 - self.decay)
        self.total.lerp_(chosen.T @ flat, 1 - self.decay)
        idle = self.used < 0.05
        if idle.any():
            other = flat[torch.randint(len(flat), (int(idle.sum()),))]
            self.total[idle], self.used[idle] = other, 1.0
        self.book.copy_(self.total / self.used[:, None])
