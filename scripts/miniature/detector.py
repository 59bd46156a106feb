"""The detector: where the things of a picture are, and what each of them is.

A small network with a heat map of the centres, 16x16, trained on real scenes alone. It
is run behind the grounder seam (`grounder.py`), by `scripts/ground.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from camera import SIDE
from pace import Pace
from pools import Pool
from scenes import COLOURS, SHAPES, SIZES

CELL = 4
GRID = SIDE // CELL
COUNTS = (len(SHAPES), len(COLOURS), len(SIZES))
WIDTH, BLOCKS = 48, 4
PEAK = 0.1  # the lowest heat of a centre


class Detector(nn.Module):
    """Per cell of the grid: heat, box (distances to four edges, in cells), names."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(3, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, WIDTH, 3, stride=2, padding=1),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, WIDTH),
                nn.ReLU(),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            )
            for _ in range(BLOCKS)
        )
        self.leave = nn.Conv2d(WIDTH, 5 + sum(COUNTS), 1)
        with torch.no_grad():
            self.leave.bias[0] = -3.0  # few cells are centres

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """uint8 [N, 64, 64, 3] -> logits [N, 16, 16], edges [..., 4], three names."""
        x = self.enter(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
        for block in self.blocks:
            x = x + block(x)
        out = self.leave(x).permute(0, 2, 3, 1)
        return out[..., 0], F.softplus(out[..., 1:5]), *out[..., 5:].split(COUNTS, -1)

    @torch.no_grad()
    def find(self, images: np.ndarray) -> list[dict[str, np.ndarray]]:
        """Finds the things of each image, uint8 [N, 64, 64, 3].

        Returns:
            For each image `heat` [Q], `box` [Q, 4] (x1, y1, x2, y2 in [0, 1]), and
            probabilities `shape` [Q, 8], `colour` [Q, 12], `size` [Q, 3].
        """
        logits, edges, *names = self(torch.from_numpy(np.ascontiguousarray(images)))
        heat = logits.sigmoid()
        best = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
        found = []
        for i, peaks in enumerate((heat == best) & (heat > PEAK)):
            y, x = (a.float() for a in torch.nonzero(peaks, as_tuple=True))
            left, up, right, down = edges[i][peaks].T
            box = torch.stack([x - left, y - up, x + right, y + down], -1) + 0.5
            named = {
                name: logits[i][peaks].softmax(-1).numpy()
                for name, logits in zip(("shape", "colour", "size"), names, strict=True)
            }
            box = (box / GRID).clamp(0, 1).numpy()
            found.append({"heat": heat[i][peaks].numpy(), "box": box, **named})
        return found

    def save(self, folder: Path, facts: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {k: v.half() for k, v in self.state_dict().items()},
            folder / "model.safetensors",
        )
        (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Detector:
        model = cls()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.float().eval()


def targets(layouts: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Heat [N, 16, 16]; where to learn boxes and names, bool; edges; names."""
    place = torch.arange(GRID) + 0.5
    heat = torch.zeros(len(layouts), GRID, GRID)
    near = torch.full_like(heat, 1e9)
    edges = torch.zeros(*heat.shape, 4)
    names = torch.zeros(*heat.shape, 3, dtype=torch.long)
    for thing in range(1, layouts.shape[1]):
        rows = torch.from_numpy(layouts[:, thing].astype(np.float32))
        x1, y1, x2, y2 = (rows[:, :4] / SIDE / CELL).T[..., None, None]
        across, down = place[None, None, :], place[None, :, None]
        far = ((across - (x1 + x2) / 2) ** 2 + (down - (y1 + y2) / 2) ** 2).sqrt()
        far = torch.where(rows[:, 4, None, None] >= 0, far, 1e9)
        closest = far == far.amin((1, 2), keepdim=True)
        bump = torch.where(closest, 1.0, torch.exp(-(far**2) / 2))
        heat = torch.where(far < 1e8, torch.maximum(heat, bump), heat)
        own = far < near
        near = torch.where(own, far, near)
        sides = [across - x1, down - y1, x2 - across, y2 - down]
        sides = torch.stack([s.expand_as(heat) for s in sides], -1)
        edges = torch.where(own[..., None], sides, edges)
        named = rows[:, None, None, 4:7].long().clamp(min=0)
        names = torch.where(own[..., None], named, names)
    return heat, near < 1.5, edges, names


def train(
    pool: Pool, *, steps: int, minutes: float, seed: int, batch: int = 32
) -> tuple[Detector, dict]:
    """Trains on photographs with the boxes and names of their things.

    Returns:
        The detector, and facts about the run.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Detector()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    pace = Pace("detector", steps, minutes)
    for step, done in pace:
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - done)
        i = np.sort(rng.choice(len(pool), batch, replace=False))
        heat, near, edges, names = targets(pool.layouts[i])
        logits, found, *said = model(torch.from_numpy(pool.images[i]))
        # The focal loss of CenterNet (Zhou et al. 2019): cells beside a centre are
        # punished less.
        p = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
        centre = heat == 1
        loss = torch.where(
            centre,
            -((1 - p) ** 2) * p.log(),
            -((1 - heat) ** 4) * p**2 * (1 - p).log(),
        ).sum() / centre.sum().clamp(min=1)
        loss = loss + F.l1_loss(found[near], edges[near])
        for k, logits_of in enumerate(said):
            loss = loss + F.cross_entropy(logits_of[near], names[near][:, k])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            pace.bar.set_postfix(loss=f"{loss.item():.4f}")
    facts = {"parameters": sum(p.numel() for p in model.parameters()), **pace.facts()}
    return model.eval(), facts


def measure(model: Detector, pool: Pool) -> dict[str, float]:
    """Accuracy on scenes it has not seen.

    Returns:
        `found`, the share of things with a box of IoU 0.5 or more; `named`, the share
        whose box also has the right shape, colour and size; `mean_iou` of those found;
        `extra`, boxes without a thing, per scene.
    """
    ious: list[float] = []
    named = extra = 0
    for layout, found in zip(pool.layouts, model.find(pool.images), strict=True):
        free = list(range(len(found["heat"])))
        for row in layout[1:][layout[1:, 4] >= 0]:
            truth = row[:4] / SIDE / SIDE
            overlaps = {q: iou(truth, found["box"][q]) for q in free}
            best = max(overlaps, key=overlaps.__getitem__, default=None)
            ious.append(overlaps.get(best, 0.0))
            if ious[-1] >= 0.5:
                free.remove(best)
                said = [found[n][best].argmax() for n in ("shape", "colour", "size")]
                named += bool((np.array(said) == row[4:7]).all())
        extra += len(free)
    hits = [v for v in ious if v >= 0.5]
    return {
        "things": len(ious),
        "found": round(len(hits) / len(ious), 4),
        "named": round(named / len(ious), 4),
        "mean_iou": round(float(np.mean(hits)), 4),
        "extra": round(extra / len(pool), 4),
    }


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))
