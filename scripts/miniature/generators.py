"""Three small generative models of different families: a VAE, a GAN, a flow.

Each turns a layout (boxes with the names of what is in them, and the ground's names)
into a clean rendering. It draws the shape inside a box, the pattern, light and shadow
itself, and somewhat wrong, as generators do. All work on blocks of 4x4 pixels (pixel
unshuffle: 48 channels at 16x16), which makes them fast.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from camera import SIDE, to_uint8
from pace import Pace
from scenes import COLOURS, FRAME_UNIT, GROUNDS, SHAPES, SIZES

CELL = 4
GRID = SIDE // CELL
PIXELS = 3 * CELL * CELL  # channels of an image on the grid
NAMES = len(SHAPES) + len(COLOURS) + len(SIZES)
LAYOUT = len(GROUNDS) + len(COLOURS) + NAMES + 7 * CELL * CELL  # channels


def paint_layout(layouts: np.ndarray) -> torch.Tensor:
    """int16 [N, 5, 7] (see `scenes.Scene`) -> float32 [N, LAYOUT, 16, 16].

    The ground's names everywhere; a thing's names over its box; and, pixel by pixel,
    whether a box is there, where in it (from -1 to 1, across and down), and where in
    the period of the ground's pattern.
    """
    rows = torch.from_numpy(layouts.astype(np.int64))
    ground, things = rows[:, 0, 4:6], rows[:, 1:]
    there = (things[..., 4] >= 0).float()
    box = things[..., :4].float() / SIDE
    place = torch.arange(SIDE) + 0.5

    def along(low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, ...]:
        low, high = low[..., None], high[..., None]
        inside = ((place > low) & (place < high)).float()
        return inside, inside * ((place - low) / (high - low).clamp(min=1) * 2 - 1)

    x, u = along(box[..., 0], box[..., 2])
    y, v = along(box[..., 1], box[..., 3])
    x, u = (a * there[..., None] for a in (x, u))
    mask = y[..., :, None] * x[..., None, :]  # [N, 4, 64, 64]
    across, down = y[..., :, None] * u[..., None, :], v[..., :, None] * x[..., None, :]
    turn, wave, *phases = (rows[:, 0, :4].float() / FRAME_UNIT).T[..., None, None]
    c, s = wave * turn.cos(), wave * turn.sin()
    x, y = place - 0.5, place[:, None] - 0.5
    u, v = c * x + s * y + phases[0], c * y - s * x + phases[1]
    waves = [u.sin(), u.cos(), v.sin(), v.cos()]
    exact = torch.stack([*(m.sum(1) for m in (mask, across, down)), *waves], 1)
    names = [
        F.one_hot(things[..., 4 + i].clamp(min=0), n)
        for i, n in enumerate((len(SHAPES), len(COLOURS), len(SIZES)))
    ]
    coarse = F.avg_pool2d(mask, CELL)
    named = torch.einsum("nkc,nkyx->ncyx", torch.cat(names, -1).float(), coarse)
    kind = F.one_hot(ground[:, 0], len(GROUNDS))
    colour = F.one_hot(ground[:, 1], len(COLOURS))
    under = torch.cat([kind, colour], 1).float()[..., None, None]
    under = under.expand(-1, -1, GRID, GRID)
    # Names are rare (about one in ten): scaled to about unit variance they are learned
    # several times faster.
    return torch.cat([3 * under, 3 * named, F.pixel_unshuffle(exact, CELL)], 1)


def to_grid(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, 64, 64, 3] -> float32 [N, 48, 16, 16] in [-1, 1]."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.pixel_unshuffle(x, CELL)


def to_images(grid: torch.Tensor) -> np.ndarray:
    """The inverse of `to_grid`, clipped."""
    x = F.pixel_shuffle(grid, CELL).permute(0, 2, 3, 1).numpy()
    return to_uint8((x + 1) / 2)


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
    """Two scales, 16x16 and 8x8; the backbone of all three families."""

    def __init__(self, inputs: int, width: int = 48):
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(inputs + 2, width, 3, padding=1), Block(width)
        )
        self.below = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            Block(2 * width),
            Block(2 * width),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.leave = nn.Sequential(
            nn.Conv2d(2 * width, width, 1),
            Block(width),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, PIXELS, 3, padding=1),
        )
        self.direct = nn.Conv2d(inputs + 2, PIXELS, 1)
        ramp = torch.linspace(-1, 1, GRID)
        where = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"))
        self.register_buffer("where", where[None])

    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        where = self.where.expand(len(parts[0]), -1, -1, -1)
        given = torch.cat([*parts, where], 1)
        near = self.enter(given)
        return self.direct(given) + self.leave(torch.cat([near, self.below(near)], 1))


def _spread(code: torch.Tensor) -> torch.Tensor:
    """[N, C] -> [N, C, 16, 16]."""
    return code[..., None, None].expand(-1, -1, GRID, GRID)


class Vae(nn.Module):
    """A conditional VAE; samples are the decoder's mean at z from the prior."""

    code, sigma = 16, 0.15

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(PIXELS + LAYOUT, 48, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 16, 2 * self.code),
        )
        self.decoder = UNet(LAYOUT + self.code)

    def loss(self, x: torch.Tensor, layout: torch.Tensor, done: float):
        mean, log_var = self.encoder(torch.cat([x, layout], 1)).float().chunk(2, 1)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        error = F.mse_loss(self.decoder(layout, _spread(z)).float(), x)
        # While the code is expensive, the decoder learns to read the layout. Otherwise
        # the code would repeat the layout, and samples would contradict it.
        price = 10.0 ** max(0.0, 4 - 8 * done)
        return error / (2 * self.sigma**2) + price * kl / x[0].numel()

    def sample(self, layout: torch.Tensor) -> torch.Tensor:
        return self.decoder(layout, _spread(torch.randn(len(layout), self.code)))


class Gan(nn.Module):
    """A conditional GAN: hinge loss, a patch critic, a little L1 for stability."""

    noise, l1 = 16, 25.0

    def __init__(self):
        super().__init__()
        self.generator = UNet(LAYOUT + self.noise)
        norm = nn.utils.parametrizations.spectral_norm
        self.critic = nn.Sequential(
            norm(nn.Conv2d(PIXELS + LAYOUT, 64, 3, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(64, 64, 3, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(64, 96, 4, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(96, 96, 3, padding=1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(96, 1, 1)),
        )

    def loss(self, x: torch.Tensor, layout: torch.Tensor, done: float):
        fake = self.sample(layout)
        score = self.critic(torch.cat([fake, layout], 1)).float()
        return self.l1 * F.l1_loss(fake.float(), x) - score.mean()

    def critic_loss(self, x: torch.Tensor, layout: torch.Tensor, done: float):
        with torch.no_grad():
            fake = self.sample(layout)
        pairs = [torch.cat([image, layout], 1) for image in (x, fake)]
        real, fake = self.critic(torch.cat(pairs)).float().chunk(2)
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def sample(self, layout: torch.Tensor) -> torch.Tensor:
        noise = _spread(torch.randn(len(layout), self.noise))
        return torch.tanh(self.generator(layout, noise))


class Flow(nn.Module):
    """Flow matching on straight paths from noise; Euler steps to sample."""

    steps, waves = 20, 4

    def __init__(self):
        super().__init__()
        self.velocity = UNet(PIXELS + LAYOUT + 2 * self.waves)

    def _at(
        self, x: torch.Tensor, t: torch.Tensor, layout: torch.Tensor
    ) -> torch.Tensor:
        turns = t[:, None] * math.pi * 2.0 ** torch.arange(-1, self.waves - 1)
        time_code = torch.cat([turns.sin(), turns.cos()], 1)
        return self.velocity(x, layout, _spread(time_code))

    def loss(self, x: torch.Tensor, layout: torch.Tensor, done: float):
        noise = torch.randn_like(x)
        t = torch.sigmoid(torch.randn(len(x)))
        path = noise + t[:, None, None, None] * (x - noise)
        return F.mse_loss(self._at(path, t, layout).float(), x - noise)

    def sample(self, layout: torch.Tensor) -> torch.Tensor:
        x = torch.randn(len(layout), PIXELS, GRID, GRID)
        for step in range(self.steps):
            t = torch.full((len(layout),), step / self.steps)
            x = x + self._at(x, t, layout).float() / self.steps
        return x


# Each family has `loss(images, layout, done)`, where done is the finished share of the
# training, and `sample(layout)`; a GAN also has a `critic` and its `critic_loss`.
FAMILIES = {"vae": Vae, "gan": Gan, "flow": Flow}


def train(family: str, pool, *, steps: int, minutes: float, seed: int, batch: int = 64):
    """Trains one family on the pool's clean renderings.

    Returns:
        The model with its weights averaged over the last steps, and facts about the run
        for the README of the world.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = FAMILIES[family]()
    average = copy.deepcopy(model)
    critic = list(model.critic.parameters()) if family == "gan" else []
    drawing = [p for p in model.parameters() if not any(p is q for q in critic)]
    betas = (0.5, 0.99) if critic else (0.9, 0.99)
    rates = [1e-3, 4e-4] if critic else [2e-3]
    optimisers = [
        torch.optim.Adam(weights, lr=rate, betas=betas)
        for weights, rate in zip([drawing, critic], rates, strict=False)
    ]
    pace = Pace(family, steps, minutes)
    for step, done in pace:
        for optimiser, rate in zip(optimisers, rates, strict=True):
            warm = min(1, (step + 1) / 50) * min(1, 2 * (1 - done))
            optimiser.param_groups[0]["lr"] = rate * warm
        i = rng.choice(len(pool.layouts), batch, replace=False)
        x, layout = to_grid(pool.clean[i]), paint_layout(pool.layouts[i])
        losses = [model.critic_loss, model.loss] if critic else [model.loss]
        for loss_of, optimiser in zip(losses, optimisers[::-1], strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(x, layout, done)
            model.zero_grad()
            loss.backward()
            optimiser.step()
        keep = min(0.99, step / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(
                average.state_dict().values(), model.state_dict().values(), strict=True
            ):
                slow.lerp_(fast, 1 - keep)
        if step % 50 == 0:
            pace.bar.set_postfix(loss=f"{loss.item():.4f}")
    facts = {"parameters": sum(p.numel() for p in drawing), **pace.facts()}
    return average.eval(), facts


@torch.no_grad()
def draw(model: nn.Module, layouts: np.ndarray, *, seed: int) -> np.ndarray:
    """Draws clean fakes of the given layouts: uint8 [N, 64, 64, 3]."""
    torch.manual_seed(seed)
    parts = [
        to_images(model.sample(paint_layout(layouts[i : i + 100])))
        for i in range(0, len(layouts), 100)
    ]
    return np.concatenate(parts)
