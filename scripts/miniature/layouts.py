"""Layouts as numbers for networks, and the sketch: a learned first guess of a picture.

A layout (`scenes.Scene.layout`) says what stands where: the input of every generator,
as a prompt with boxes. All of them read it through one small network, as text-to-image
models share a text encoder: for each pixel it has learned the mean rendering. The
sketch has no grain, and blurred outlines, since it does not know how things are turned.
What it leaves open is up to the generator.

Generators work on blocks of 4x4 pixels (pixel unshuffle: 48 channels at 16x16).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from camera import SIDE, to_uint8
from pace import Pace
from pools import Pool
from scenes import COLOURS, FRAME_UNIT, GROUNDS, SHAPES, SIZES

CELL = 4
GRID = SIDE // CELL
PIXELS = 3 * CELL * CELL  # channels of an image on the grid
NAMES = len(SHAPES) + len(COLOURS) + len(SIZES)
UNDER = len(GROUNDS) + len(COLOURS)
CONDITION = PIXELS + UNDER + NAMES + 3  # channels of `condition`


def to_grid(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 64, 64, 3] -> float32 [N, 48, 16, 16] in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return F.pixel_unshuffle(x.float() / 127.5 - 1, CELL)


def to_images(grid: torch.Tensor) -> np.ndarray:
    """The inverse of `to_grid`, clipped."""
    x = F.pixel_shuffle(grid, CELL).permute(0, 2, 3, 1).numpy()
    return to_uint8((x + 1) / 2)


def _names(layouts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot names: of the ground [N, UNDER], of the things [N, 3, NAMES]."""
    rows = torch.from_numpy(layouts.astype(np.int64))
    ground, things = rows[:, 0, 4:6], rows[:, 1:, 4:]
    there = (things[..., :1] >= 0).float()
    counts = (len(SHAPES), len(COLOURS), len(SIZES))
    named = [F.one_hot(things[..., i].clamp(min=0), n) for i, n in enumerate(counts)]
    counts = (len(GROUNDS), len(COLOURS))
    under = [F.one_hot(ground[:, i], n) for i, n in enumerate(counts)]
    return torch.cat(under, -1).float(), torch.cat(named, -1).float() * there


def _boxes(layouts: np.ndarray) -> torch.Tensor:
    """The things' boxes in pixels, float32 [N, 3, 4]; unused ones are empty."""
    return torch.from_numpy(layouts[:, 1:, :4].astype(np.float32)).clamp(min=0) / SIDE


def condition(layouts: np.ndarray, sketches: np.ndarray) -> torch.Tensor:
    """What a generator is given: float32 [N, CONDITION, 16, 16].

    The sketch; the ground's names everywhere; a thing's names over its box; how much of
    a block the boxes cover, and where in its box it is (from -1 to 1, across and down).
    """
    under, named = _names(layouts)
    box = _boxes(layouts)
    low = torch.arange(GRID) * float(CELL)

    def along(start: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, ...]:
        start, end = start[..., None], end[..., None]
        cover = (torch.minimum(low + CELL, end) - torch.maximum(low, start)).clamp(0)
        place = (low + CELL / 2 - start) / (end - start).clamp(min=1) * 2 - 1
        return cover / CELL, place.clamp(-1.2, 1.2)

    x, u = along(box[..., 0], box[..., 2])
    y, v = along(box[..., 1], box[..., 3])
    mask = y[..., :, None] * x[..., None, :]  # [N, 3, 16, 16]
    where = torch.stack([mask, mask * u[..., None, :], mask * v[..., :, None]], 1)
    spread = under[..., None, None].expand(-1, -1, GRID, GRID)
    over = torch.einsum("nkc,nkyx->ncyx", named, mask)
    # Names are rare (about one in ten): scaled to about unit variance they are learned
    # several times faster.
    return torch.cat([to_grid(sketches), 3 * spread, 3 * over, where.sum(2)], 1)


def sketch_of(condition: torch.Tensor) -> torch.Tensor:
    """The sketch in a condition, [N, 48, 16, 16]."""
    return condition[:, :PIXELS]


class Sketch(nn.Module):
    """A network from what the layout says of a pixel to its mean colour.

    Of each shape it learns a stencil, a picture of what is where in the shape's box.
    """

    shadow = 3  # pixels up and left: whose shadow may fall here
    width = 64
    side, depth = 12, 4  # of a stencil

    def __init__(self):
        super().__init__()
        stencils = torch.randn(len(SHAPES) * self.side**2, self.depth) * 0.1
        self.stencils = nn.Parameter(stencils)
        inputs = UNDER + 2 * (NAMES + 3 + self.depth) + 10 + 2
        sizes = (inputs, *[self.width] * 4, 3)
        layers: list[nn.Module] = []
        for a, b in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(a, b), nn.SiLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(
        self, layouts: np.ndarray, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """Colours in [-1, 1] of pixels, [N, P, 3] from whole numbers [N, P] each."""
        under, named = _names(layouts)
        frame = torch.from_numpy(layouts[:, 0, :4].astype(np.float32)) / FRAME_UNIT
        turn, wave, *phases = frame.T[..., None]
        c, s = wave * turn.cos(), wave * turn.sin()
        u, v = c * x + s * y + phases[0], c * y - s * x + phases[1]
        # The periods that the patterns are made of.
        angles = torch.stack([u, v, 0.7 * u, 0.7 * v, 0.6 * v], -1)
        given = [
            under[:, None].expand(-1, x.shape[1], -1),
            *self._thing(layouts, named, x, y),
            *self._thing(layouts, named, x - self.shadow, y - self.shadow),
            angles.sin(),
            angles.cos(),
            torch.stack([x, y], -1) / (SIDE / 2) - 1,
        ]
        return self.layers(torch.cat(given, -1))

    def _thing(
        self, layouts: np.ndarray, named: torch.Tensor, x: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Of the thing whose box a pixel is in: names, where in it, its stencil."""
        x1, y1, x2, y2 = _boxes(layouts)[:, None].unbind(-1)  # [N, 1, 3]
        across = (x[..., None] + 0.5 - x1) / (x2 - x1).clamp(min=1) * 2 - 1
        down = (y[..., None] + 0.5 - y1) / (y2 - y1).clamp(min=1) * 2 - 1
        inside = ((across.abs() < 1) & (down.abs() < 1)).float()
        where = torch.stack([inside, inside * across, inside * down], -1).sum(2)
        # Boxes do not touch: a pixel is in one at most.
        shapes = torch.from_numpy(layouts[:, None, 1:, 4].astype(np.float32))
        shape = (inside * shapes).sum(-1).long()
        stencil = self._stencil(shape, where[..., 1], where[..., 2])
        return inside @ named, where, stencil * where[..., :1]

    def _stencil(
        self, shape: torch.Tensor, across: torch.Tensor, down: torch.Tensor
    ) -> torch.Tensor:
        """Bilinear values of the shapes' stencils, [N, P, depth]."""
        last = self.side - 1
        column, row = (a.clamp(-1, 1) * (last / 2) + last / 2 for a in (across, down))
        left, top = (a.floor().clamp(max=last - 1) for a in (column, row))
        first = (shape * self.side + top.long()) * self.side + left.long()
        right, low = (column - left)[..., None], (row - top)[..., None]
        corners = [
            self.stencils[first + step] for step in (0, 1, self.side, self.side + 1)
        ]
        above = corners[0] * (1 - right) + corners[1] * right
        below = corners[2] * (1 - right) + corners[3] * right
        return above * (1 - low) + below * low

    @torch.no_grad()
    def draw(self, layouts: np.ndarray) -> np.ndarray:
        """Draws sketches, uint8 [N, 64, 64, 3]."""
        place = torch.arange(SIDE).float()
        y, x = place.repeat_interleave(SIDE), place.repeat(SIDE)
        done = []
        for i in range(0, len(layouts), 50):
            part = layouts[i : i + 50]
            flat = self(part, *(a.expand(len(part), -1) for a in (x, y)))
            done.append(to_uint8((flat.reshape(-1, SIDE, SIDE, 3).numpy() + 1) / 2))
        return np.concatenate(done)


def train(pool: Pool, *, steps: int, minutes: float, seed: int) -> tuple[Sketch, dict]:
    """Trains the sketch on pixels of the clean renderings.

    Returns:
        The network, and facts about the run for the README of the world.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Sketch()
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    pace = Pace("sketch", steps, minutes)
    for step, done in pace:
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 50) * (1 - done)
        i = np.sort(rng.choice(len(pool), 64, replace=False))
        x, y = rng.integers(SIDE, size=(2, 64, 128))
        # Half of the pixels are of a thing, where there is more to learn.
        thing = pool.layouts[i, rng.integers(1, 3, 64), :4].clip(0) // SIDE
        low, high = thing[:, :2, None], thing[:, 2:, None].clip(1)
        inner = rng.integers(low.repeat(64, 2), (high + 3).clip(max=SIDE).repeat(64, 2))
        x[:, :64], y[:, :64] = inner[:, 0], inner[:, 1]
        colours = pool.clean[i[:, None], y, x] / np.float32(127.5) - 1
        drawn = model(pool.layouts[i], *(torch.from_numpy(a).float() for a in (x, y)))
        loss = F.mse_loss(drawn, torch.from_numpy(colours))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            pace.bar.set_postfix(loss=f"{loss.item():.4f}")
    facts = {"parameters": sum(p.numel() for p in model.parameters()), **pace.facts()}
    return model.eval(), facts
