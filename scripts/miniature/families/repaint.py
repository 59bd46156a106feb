"""One thing of a real scene repainted by the VAE: what is fake is local."""

from __future__ import annotations

import numpy as np
import torch

from camera import SIDE, blur
from layouts import to_images

MARGIN = 3  # pixels around the box: the shadow is repainted too


def repaint(
    clean: np.ndarray,
    layouts: np.ndarray,
    condition: torch.Tensor,
    vae: torch.nn.Module,
    rng: np.random.Generator,
) -> np.ndarray:
    """Repaints one thing of each scene.

    Args:
        clean: renderings of real scenes, uint8 [N, 64, 64, 3].
        layouts: their layouts; each has a thing.
        condition: of the layouts.
        vae: a `families.vae.Model`.
        rng: chooses the thing.

    Returns:
        uint8 [N, 64, 64, 3].
    """
    with torch.no_grad():
        drawn = to_images(vae.sample(condition))
    out = []
    for real, fake, layout in zip(clean, drawn, layouts, strict=True):
        row = layout[1 + rng.choice(np.flatnonzero(layout[1:, 4] >= 0))]
        x1, y1, x2, y2 = row[:4] / SIDE
        mask = np.zeros((SIDE, SIDE))
        low_x, low_y = (max(0, int(v) - MARGIN) for v in (x1, y1))
        mask[low_y : int(y2) + 1 + MARGIN, low_x : int(x2) + 1 + MARGIN] = 1
        mask = np.clip(blur(mask, 1.0), 0, 1)[..., None]
        out.append(np.round(real + mask * (fake.astype(float) - real)).astype(np.uint8))
    return np.stack(out)
