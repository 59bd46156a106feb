"""Head training: 80,000 x 768, batch 128; ours against a PyTorch loop."""

from __future__ import annotations

import time

import jax
import numpy as np

from benchmarks.race import race
from item_jax import config as config_lib
from item_jax import train


def run(arguments):
    """Yields one head, and eight seeds at once."""
    gpu = jax.default_backend() == "gpu"
    rows = 4096 if arguments.quick else 80_000
    epochs = 50 if gpu and not arguments.quick else 2
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 768)).astype(np.float32)
    y = (x[:, :16].sum(1) + rng.normal(size=rows) > 0).astype(np.int32)
    c = config_lib.default()
    c.train.epochs = epochs

    def ours(seeds):
        # What a user waits for after compilation: first epoch to last.
        stamps = []
        train.fit(
            x, y, c, seeds=seeds, on_epoch=lambda e, loss: stamps.append(time.time())
        )

    peer = _torch_loop(x, y, c, "cuda" if gpu else "cpu")
    for count in (1, 8):
        seeds = list(range(count))
        contestants = {"ours": lambda s=seeds: ours(s), "torch": peer}
        result = race(contestants, 1 if gpu else min(arguments.rounds, 3))
        ours_seconds, torch_seconds = (
            result[k]["seconds"] * 50 / epochs for k in ("ours", "torch")
        )
        yield {
            "heads": count,
            "rows": rows,
            "epochs measured": epochs,
            "ours s / 50 epochs": ours_seconds,
            "torch s / 50 epochs": torch_seconds * count,
            "x torch": result["torch"]["ratio"] * count,
        }


def _torch_loop(x, y, c, device):
    import torch

    def program():
        net = torch.nn.Sequential(
            torch.nn.Linear(768, 512), torch.nn.ReLU(), torch.nn.Linear(512, 2)
        ).to(device)
        optimizer = torch.optim.AdamW(
            net.parameters(),
            lr=c.train.learning_rate,
            weight_decay=c.train.weight_decay,
        )
        data = torch.utils.data.TensorDataset(
            torch.from_numpy(x), torch.from_numpy(y).long()
        )
        loader = torch.utils.data.DataLoader(
            data, batch_size=c.train.batch_size, shuffle=True
        )
        for _ in range(c.train.epochs):
            for a, b in loader:
                loss = torch.nn.functional.cross_entropy(
                    net(a.to(device)), b.to(device)
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return float(loss.detach())

    return program
