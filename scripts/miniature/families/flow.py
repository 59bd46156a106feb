"""Flow matching (Lipman et al. 2023) on straight paths from noise; Euler steps.

The network predicts where a path ends; the velocity is what is left of the way over
what is left of the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from backbones import WAVES, UNet, spread, time_code
from layouts import GRID, PIXELS, sketch_of


class Model(nn.Module):
    steps = 20

    def __init__(self):
        super().__init__()
        self.unet = UNet(PIXELS + 2 * WAVES)

    def _end(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor):
        return sketch_of(condition) + self.unet(condition, x, spread(time_code(t)))

    def loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        noise = torch.randn_like(x)
        t = torch.sigmoid(torch.randn(len(x)))
        path = noise + t[:, None, None, None] * (x - noise)
        return F.mse_loss(self._end(path, t, condition), x)

    def sample(self, condition: torch.Tensor) -> torch.Tensor:
        x = torch.randn(len(condition), PIXELS, GRID, GRID)
        for step in range(self.steps):
            t = torch.full((len(condition),), step / self.steps)
            x = x + (self._end(x, t, condition) - x) / (self.steps - step)
        return x
