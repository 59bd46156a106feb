"""The judge: a small network that names a thing it sees, for the quality gate.

It is independent of all that the miniature ships: trained on real scenes of its own,
it has seen neither a fake, nor the CLIP, nor the captioner. It looks at a window of
fixed size around the middle of a box, so that it reads the size off the pixels too.
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
from scenes import COLOURS, SHAPES, SIZES, names_in

WINDOW = 40  # pixels
COUNTS = (len(SHAPES), len(COLOURS), len(SIZES))


def windows(images: np.ndarray, objects: list) -> tuple[np.ndarray, np.ndarray]:
    """Cuts out the things: uint8 [M, 40, 40, 3], and their names, int64 [M, 3].

    Args:
        images: uint8 [N, 64, 64, 3].
        objects: for each image, pairs of phrase and box (in [0, 1]).
    """
    cut, names = [], []
    edge = WINDOW // 2
    for image, own in zip(images, objects, strict=True):
        padded = np.pad(image, ((edge, edge), (edge, edge), (0, 0)), "edge")
        for phrase, (x1, y1, x2, y2) in own:
            x, y = round((x1 + x2) / 2 * SIDE), round((y1 + y2) / 2 * SIDE)
            cut.append(padded[y : y + WINDOW, x : x + WINDOW])
            names.append(names_in(phrase))
    return np.stack(cut), np.array(names, np.int64)


class Judge(nn.Module):
    """Logits of shape, colour and size, [M, 8], [M, 12] and [M, 3]."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in ((3, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.layers = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(96 * (WINDOW // 8) ** 2, 128),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(128, sum(COUNTS)),
        )

    def forward(self, cut: np.ndarray) -> tuple[torch.Tensor, ...]:
        x = torch.from_numpy(np.ascontiguousarray(cut)).permute(0, 3, 1, 2)
        return self.layers(x.float() / 127.5 - 1).split(COUNTS, -1)

    @torch.no_grad()
    def accuracy(self, images: np.ndarray, objects: list) -> dict[str, float]:
        """The share of things that it names as their phrases do; see `windows`."""
        cut, names = windows(images, objects)
        said = np.concatenate(
            [
                torch.stack([s.argmax(-1) for s in self(cut[i : i + 500])], -1).numpy()
                for i in range(0, len(cut), 500)
            ]
        )
        right = said == names
        return {
            "things": len(names),
            **{
                name: round(float(right[:, i].mean()), 4)
                for i, name in enumerate(("shape", "colour", "size"))
            },
            "phrase": round(float(right.all(1).mean()), 4),
        }

    def save(self, folder: Path, facts: dict) -> None:
        """Saves the weights in float16, and facts about the run."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.half() for k, v in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Judge:
        model = cls()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.float().eval()


def train(pool: Pool, *, steps: int, minutes: float, seed: int) -> tuple[Judge, dict]:
    """Trains the judge on photographs of real scenes.

    Returns:
        The judge, and facts about the run.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    cut, names = windows(pool.images, pool.things())
    model = Judge().train()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    pace = Pace("judge", steps, minutes)
    for step, done in pace:
        optimiser.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1 - done)
        i = rng.choice(len(cut), 64, replace=False)
        moved = np.roll(cut[i], rng.integers(-2, 3, 2), axis=(1, 2))
        truth = torch.from_numpy(names[i])
        loss = sum(F.cross_entropy(s, truth[:, k]) for k, s in enumerate(model(moved)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 50 == 0:
            pace.bar.set_postfix(loss=f"{loss.item():.4f}")
    facts = {"parameters": sum(p.numel() for p in model.parameters()), **pace.facts()}
    return model.eval(), facts
