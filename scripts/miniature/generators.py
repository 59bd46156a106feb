"""Trains and runs the generative families (`families/`)."""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import layouts
from families import NEEDS_CODES, repaint
from layouts import Sketch, condition, to_grid, to_images
from pace import Pace
from pools import Pool

AVERAGE = 0.995  # of the weights, over steps
RATES = {"gan": (1e-3, 5e-4), "autoregressive": (1e-3,), "masked": (1e-3,)}
RATE = (2e-3,)


def make(family: str, vq: nn.Module | None = None) -> nn.Module:
    """Returns an untrained model; those that draw in codes need the VQ-VAE."""
    model = import_module(f"families.{family}").Model
    return model(vq) if family in NEEDS_CODES else model()


def load(family: str, workdir: Path) -> nn.Module:
    """Loads a trained model, with the VQ-VAE where it draws in codes."""
    vq = load("vqvae", workdir) if family in NEEDS_CODES else None
    model = make(family, vq)
    model.load_state_dict(load_file(workdir / family / "model.safetensors"))
    return model.eval()


def load_sketch(workdir: Path) -> Sketch:
    model = Sketch()
    model.load_state_dict(load_file(workdir / "sketch" / "model.safetensors"))
    return model.eval()


def save(model: nn.Module, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def train(
    family: str,
    pool: Pool,
    sketches: np.ndarray,
    vq: nn.Module | None = None,
    *,
    steps: int,
    minutes: float,
    seed: int,
    batch: int = 16,
) -> tuple[nn.Module, dict]:
    """Trains one family, or the VQ-VAE, on clean renderings.

    Args:
        family: a module of `families/`.
        pool: the scenes.
        sketches: of the first of them, uint8 [N, 64, 64, 3]; those are used.
        vq: the VQ-VAE, for families that draw in codes.
        steps, minutes, seed: see `pace.Pace`.
        batch: scenes per step.

    Returns:
        The model with its weights averaged over the last steps, and facts about the run
        for the README of the world.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = make(family, vq)
    average = copy.deepcopy(model)
    critic = list(model.critic.parameters()) if hasattr(model, "critic") else []
    drawing = [p for p in model.parameters() if not any(p is q for q in critic)]
    betas = (0.5, 0.99) if critic else (0.9, 0.99)
    rates = RATES.get(family, RATE)
    optimisers = [
        torch.optim.Adam(weights, lr=rate, betas=betas)
        for weights, rate in zip((drawing, critic), rates, strict=False)
    ]
    losses = [model.critic_loss, model.loss] if critic else [model.loss]
    pace = Pace(family, steps, minutes)
    for step, done in pace:
        for optimiser, rate in zip(optimisers, rates, strict=True):
            warm = min(1, (step + 1) / 50) * min(1, 1.7 * (1 - done) + 0.01)
            optimiser.param_groups[0]["lr"] = rate * warm
        i = np.sort(rng.choice(len(sketches), batch, replace=False))
        x, given = to_grid(pool.clean[i]), condition(pool.layouts[i], sketches[i])
        for loss_of, optimiser in zip(losses, optimisers[::-1], strict=True):
            loss = loss_of(x, given, done)
            model.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], 1.0)
            optimiser.step()
        keep = min(AVERAGE, step / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(
                average.state_dict().values(), model.state_dict().values(), strict=True
            ):
                slow.lerp_(fast, 1 - keep)
        if step % 50 == 0:
            pace.bar.set_postfix(loss=f"{loss.item():.4f}")
    facts = {"parameters": sum(p.numel() for p in drawing), **pace.facts()}
    return (model if family == "vqvae" else average).eval(), facts


@torch.no_grad()
def draw(
    family: str, workdir: Path, pool: Pool, *, seed: int, sketch: Sketch | None = None
) -> np.ndarray:
    """Draws clean fakes of a pool's layouts: uint8 [N, 64, 64, 3].

    Args:
        family: a name of `families.FAMILIES`.
        workdir: the working folder, with the trained models.
        pool: scenes; `repaint` takes their renderings, the others the layouts alone.
        seed: of the noise.
        sketch: the trained one; by default that of the working folder.
    """
    torch.manual_seed(seed)
    sketches = (sketch or load_sketch(workdir)).draw(pool.layouts)
    given = condition(pool.layouts, sketches)
    if family == "repaint":
        rng = np.random.default_rng(seed)
        vae = load("vae", workdir)
        return repaint.repaint(pool.clean, pool.layouts, given, vae, rng)
    model = load(family, workdir)
    return np.concatenate([to_images(model.sample(part)) for part in given.split(100)])


def train_sketch(pool: Pool, workdir: Path, count: int, **how) -> dict:
    """Trains the sketch and draws those of the first scenes, `train.npy`."""
    model, facts = layouts.train(pool, **how)
    save(model, workdir / "sketch")
    np.save(workdir / "sketch" / "train.npy", model.draw(pool.layouts[:count]))
    return facts
