"""Head training: 80,000 x 768, batch 128; ours against a PyTorch loop."""

from __future__ import annotations

import time

import jax
import numpy as np

from item_jax import config as config_lib
from item_jax import training_loop


def run(arguments):
    """Yields a row for one head and a row for eight seeds at once."""
    gpu = jax.default_backend() == "gpu"
    rows = 4096 if arguments.quick else 80_000
    epochs = 50 if gpu and not arguments.quick else 3
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 768)).astype(np.float32)
    y = (x[:, :16].sum(1) + rng.normal(size=rows) > 0).astype(np.int32)
    c = config_lib.default()
    c.train.epochs = epochs

    def ours(seeds) -> list[float]:
        stamps = [time.perf_counter()]
        training_loop.fit(
            x,
            y,
            c,
            seeds=seeds,
            on_epoch=lambda epoch, losses: stamps.append(time.perf_counter()),
        )
        return list(np.diff(stamps))

    peer = _torch_loop(x, y, c, "cuda" if gpu else "cpu")
    peer(1)  # warm up
    for count in (1, 8):
        mine, theirs = [], []
        for _ in range(1 if gpu else min(arguments.rounds, 3)):
            mine.append(ours(list(range(count))))
            start = time.perf_counter()
            peer(epochs)
            theirs.append((time.perf_counter() - start) / epochs)
        # The first epoch includes the compilation, which a run of 50 pays once.
        first, later = np.median(mine, axis=0)[0], np.median(np.array(mine)[:, 1:])
        ours_seconds = first + 49 * later
        torch_seconds = 50 * np.median(theirs) * count
        yield {
            "heads": count,
            "rows": rows,
            "epochs measured": epochs,
            "compile and first epoch s": float(first),
            "later epochs s": float(later),
            "ours s / 50 epochs": float(ours_seconds),
            "torch s / 50 epochs": float(torch_seconds),
            "x torch": float(torch_seconds / ours_seconds),
        }


def _torch_loop(x, y, c, device):
    import torch

    def program(epochs):
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
        for _ in range(epochs):
            for a, b in loader:
                loss = torch.nn.functional.cross_entropy(
                    net(a.to(device)), b.to(device)
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return float(loss.detach())

    return program
