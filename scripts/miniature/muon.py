"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal, on a CPU.

PyTorch's own computes in bfloat16, which processors without such units emulate at a
hundredth of the speed.
"""

from __future__ import annotations

import torch

TERMS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, from the author's page


class Muon(torch.optim.Optimizer):
    """For the matrices of hidden layers; Nesterov momentum, decoupled weight decay."""

    def __init__(self, matrices, lr: float, momentum=0.95, weight_decay=0.01):
        super().__init__(
            matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                sums = self.state[weight].setdefault("sums", torch.zeros_like(weight))
                sums.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(sums, group["momentum"])
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                tall = max(1, weight.shape[0] / weight.shape[1]) ** 0.5
                weight.sub_(orthogonal(ahead), alpha=group["lr"] * tall)


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """A matrix with the same singular vectors and singular values of about 1."""
    a, b, c = TERMS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
