"""The two networks that the generators are made of: a U-Net and a transformer."""

from __future__ import annotations

import math

import torch
from torch import nn

from layouts import CONDITION, GRID, PIXELS

TOKENS = 8  # tokens across and down
WAVES = 6  # of a code of time


class Block(nn.Module):
    """A pre-activation residual block."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class UNet(nn.Module):
    """From a condition and `inputs` more channels to an image, at 16x16 and 8x8."""

    def __init__(self, inputs: int, width: int = 48):
        super().__init__()
        given = CONDITION + inputs + 2
        self.enter = nn.Sequential(nn.Conv2d(given, width, 3, padding=1), Block(width))
        self.below = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            Block(2 * width),
            Block(2 * width),
            nn.Conv2d(2 * width, 4 * width, 1),
            nn.PixelShuffle(2),
        )
        self.leave = nn.Sequential(
            nn.Conv2d(2 * width, width, 1),
            Block(width),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, PIXELS, 3, padding=1),
        )
        self.direct = nn.Conv2d(given, PIXELS, 1)
        with torch.no_grad():  # it starts from nothing: what is added to a sketch
            for last in (self.direct, self.leave[-1]):
                last.weight.mul_(0.1)
                last.bias.zero_()
        ramp = torch.linspace(-1, 1, GRID)
        where = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"))
        self.register_buffer("where", where[None], persistent=False)

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        where = self.where.expand(len(parts[0]), -1, -1, -1)
        given = torch.cat([*parts, where], 1)
        near = self.enter(given)
        return self.direct(given) + self.leave(torch.cat([near, self.below(near)], 1))


class Transformer(nn.Module):
    """Over the 8x8 tokens of an image: states in, states out, given the condition."""

    def __init__(self, *, width: int = 128, layers: int = 4, causal: bool):
        super().__init__()
        self.read = nn.Conv2d(CONDITION, width, 3, stride=2, padding=1)
        self.place = nn.Parameter(torch.randn(TOKENS**2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width,
            nhead=4,
            dim_feedforward=4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        mask = nn.Transformer.generate_square_subsequent_mask(TOKENS**2)
        self.register_buffer("mask", mask if causal else None, persistent=False)

    def forward(self, states: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """float32 [N, 64, width] and a condition -> [N, 64, width]."""
        given = self.read(condition).flatten(2).transpose(1, 2)
        x = self.layers(
            states + given + self.place,
            mask=self.mask,
            is_causal=self.mask is not None,
        )
        return self.norm(x)


def time_code(t: torch.Tensor) -> torch.Tensor:
    """Times in [0, 1], [N] -> [N, 2 WAVES]."""
    turns = t[:, None] * math.pi * 2.0 ** torch.arange(-1, WAVES - 1)
    return torch.cat([turns.sin(), turns.cos()], 1)


def spread(code: torch.Tensor, side: int = GRID) -> torch.Tensor:
    """[N, C] -> [N, C, side, side]."""
    return code[..., None, None].expand(-1, -1, side, side)
