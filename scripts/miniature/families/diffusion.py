"""DDPM on pixels (Ho et al. 2020) with the cosine schedule, sampled by DDIM.

The network predicts the clean image, as what is to be added to the sketch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from backbones import WAVES, UNet, spread, time_code
from layouts import GRID, PIXELS, sketch_of


def schedule(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of image and noise at times in [0, 1], [N] -> [N, 1, 1, 1] each."""
    angle = t[:, None, None, None] * (math.pi / 2)
    return angle.cos(), angle.sin()


def ddim(denoise, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """Samples from noise by DDIM without further noise (Song et al. 2021).

    Args:
        denoise: (x, t [N]) -> the clean image.
        noise: the start.
        steps: how many.
    """
    x = noise
    for step in range(steps, 0, -1):
        t, after = (torch.full((len(x),), s / steps) for s in (step, step - 1))
        (a, b), (c, d) = schedule(t), schedule(after)
        clean = denoise(x, t)
        x = c * clean + d * (x - a * clean) / b
    return x


class Model(nn.Module):
    steps = 25

    def __init__(self):
        super().__init__()
        self.unet = UNet(PIXELS + 2 * WAVES, width=56)

    def _clean(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor):
        return sketch_of(condition) + self.unet(condition, x, spread(time_code(t)))

    def loss(self, x: torch.Tensor, condition: torch.Tensor, done: float):
        noise, t = torch.randn_like(x), torch.rand(len(x))
        a, b = schedule(t)
        return F.mse_loss(self._clean(a * x + b * noise, t, condition), x)

    def sample(self, condition: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(condition), PIXELS, GRID, GRID)
        return ddim(lambda x, t: self._clean(x, t, condition), noise, self.steps)
