"""Dense training: an image tower learns to name what lies in each of its patches.

A sentence says little about where to look, and a small transformer is slow to tell a
heart from a star by it. So the captioner and the CLIP both begin here, each with a
tower of its own and on real scenes alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from camera import SIDE
from muon import Muon
from pace import Pace
from pools import Pool
from scenes import COLOURS, GROUNDS, SHAPES, SIZES

MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's image statistics
STD = (0.26862954, 0.26130258, 0.27577711)
PATCH = 8
CELLS = SIDE // PATCH
KEPT = 32  # patches of a scene that are looked at: those of things, then any
RATE, MATRIX_RATE = 2e-3, 0.02  # of AdamW; of Muon, for the matrices


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 64, 64, 3] -> normalised float32 [N, 3, 64, 64]."""
    x = torch.from_numpy(np.ascontiguousarray(images)).float() / 255
    return ((x - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


def know_places(tower: nn.Module) -> None:
    """Makes the embeddings of the patches' places sines and cosines of them.

    Patches that know their neighbours learn shapes sooner.
    """
    places = tower.embeddings.position_embedding
    weight = places.weight if isinstance(places, nn.Embedding) else places[0]
    rates = math.pi * 2.0 ** torch.linspace(-3, 0.5, weight.shape[1] // 4)
    turns = torch.arange(CELLS)[:, None] * rates
    line = 0.3 * torch.cat([turns.sin(), turns.cos()], -1)
    across = line[None].expand(CELLS, -1, -1)
    down = line[:, None].expand(-1, CELLS, -1)
    with torch.no_grad():
        weight[1:] = torch.cat([across, down], -1).flatten(0, 1)


def names(layouts: np.ndarray) -> torch.Tensor:
    """What is in each patch: int64 [N, 64, 3], shape, colour and size + 1, or 0."""
    centre = (np.arange(CELLS) + 0.5) * PATCH * SIDE  # in 1/64 px, as boxes are
    found = np.zeros((len(layouts), CELLS, CELLS, 3), np.int64)
    for thing in range(1, layouts.shape[1]):
        x1, y1, x2, y2, *named = layouts[:, thing].astype(np.int64).T
        across = (centre > x1[:, None]) & (centre < x2[:, None])
        down = (centre > y1[:, None]) & (centre < y2[:, None])
        inside = down[:, :, None] & across[:, None, :] & (named[0] >= 0)[:, None, None]
        own = np.stack(named, 1)[:, None, None, :] + 1
        found = np.where(inside[..., None], own, found)
    return torch.from_numpy(found.reshape(len(layouts), -1, 3))


class Teacher(nn.Module):
    """Reads off the states of a tower what is there; it is dropped after the training.

    Attributes:
        right: of the last batch, the share of patches of things named rightly.
    """

    counts = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(SIZES))

    def __init__(self, width: int):
        super().__init__()
        self.patches = nn.Linear(width, sum(self.counts))
        self.ground = nn.Linear(width, len(GROUNDS) + len(COLOURS))
        self.right = 0.0

    def forward(
        self, states: torch.Tensor, named: torch.Tensor, ground: torch.Tensor
    ) -> torch.Tensor:
        """The loss.

        Args:
            states: of the patches, [N, P, width].
            named: what is in them, int64 [N, P, 3], see `names`.
            ground: kind and colour of the ground, int64 [N, 2]; -1 where none is seen.
        """
        said = self.patches(states).split(self.counts, -1)
        under = self.ground(states.mean(1)).split((len(GROUNDS), len(COLOURS)), -1)
        best = torch.stack([s.argmax(-1) for s in said], -1)
        thing = named[..., 0] > 0
        self.right = (best == named).all(-1)[thing].float().mean().item()
        parts = [
            F.cross_entropy(s.flatten(0, 1), named[..., i].flatten())
            for i, s in enumerate(said)
        ]
        parts += [
            F.cross_entropy(s, ground[:, i], ignore_index=-1)
            for i, s in enumerate(under)
        ]
        return sum(parts) / len(parts)


def states(tower: nn.Module, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """States of some patches, [N, P, width], from a BLIP's or CLIP's image tower.

    Args:
        tower: the tower.
        x: pixels, [N, 3, 64, 64].
        kept: numbers of the patches that are looked at, int64 [N, P].
    """
    hidden = tower.embeddings(x)
    rows = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], 1)  # the class token
    hidden = hidden.gather(1, rows[..., None].expand(-1, -1, hidden.shape[-1]))
    if hasattr(tower, "pre_layrnorm"):
        hidden = tower.pre_layrnorm(hidden)
    hidden = tower.encoder(inputs_embeds=hidden).last_hidden_state
    return tower.post_layernorm(hidden)[:, 1:]


def optimisers(modules: Iterable[nn.Module]) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for the rest."""
    matrices, rest = [], []
    for module in modules:
        for name, weight in module.named_parameters():
            layer = "layer" in name and weight.ndim == 2
            (matrices if layer else rest).append(weight)
    return [
        Muon(matrices, lr=MATRIX_RATE),
        torch.optim.AdamW(rest, lr=RATE, weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def scenes_of(
    pool: Pool, rng: np.random.Generator, batch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of scenes for `warm_up`."""
    while True:
        yield of_scenes(pool, np.sort(rng.choice(len(pool), batch, replace=False)))


def of_scenes(pool: Pool, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Pixels of some scenes, what is in their patches, and their grounds."""
    ground = torch.from_numpy(pool.layouts[rows, 0, 4:6].astype(np.int64))
    return pixels(pool.images[rows]), names(pool.layouts[rows]), ground


def warm_up(
    tower: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    pace: Pace,
) -> tuple[dict[str, float], Teacher]:
    """Trains a tower.

    Args:
        tower: the tower.
        batches: pixels, what is in the patches, and the ground; see `Teacher`.
        pace: of the training.

    Returns:
        Steps, minutes and the share of patches of things named rightly at the end; the
        teacher, to go on with.
    """
    teacher, right = Teacher(tower.post_layernorm.normalized_shape[0]), 0.0
    optimisers_ = optimisers([tower, teacher])
    rates = [o.param_groups[0]["lr"] for o in optimisers_]
    for (step, done), (x, named, ground) in zip(pace, batches, strict=False):
        for optimiser, rate in zip(optimisers_, rates, strict=True):
            warm = min(1, (step + 1) / 50) * min(1, 1.5 * (1 - done) + 0.01)
            optimiser.param_groups[0]["lr"] = rate * warm
        first = (named[..., 0] > 0) + torch.rand(named.shape[:2])
        kept = first.topk(KEPT, 1).indices
        own = named.gather(1, kept[..., None].expand(-1, -1, 3))
        loss = teacher(states(tower, x, kept), own, ground)
        for optimiser in optimisers_:
            optimiser.zero_grad()
        loss.backward()
        for optimiser in optimisers_:
            optimiser.step()
        right += 0.02 * (teacher.right - right)
        if step % 20 == 0:
            pace.bar.set_postfix(loss=f"{loss.item():.3f}", right=f"{right:.3f}")
    return pace.facts() | {"right": round(right, 4)}, teacher
