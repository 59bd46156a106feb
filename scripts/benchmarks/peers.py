"""Other ways to run the towers: PyTorch, eager and compiled; ONNX Runtime on CPU."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch


class Tower(torch.nn.Module):
    """One tower of a Hugging Face CLIPModel, normalisation included as in ours.

    Views (B, S, S, 3) uint8 or tokens (B, 77) int64 -> embeddings (B, D) float32.
    """

    def __init__(self, model, which: str, config):
        super().__init__()
        self.model = model  # as a submodule, so that its weights are exported
        self.which = which
        self.encode = getattr(model, f"get_{which}_features")
        for name in ("image_mean", "image_std"):
            value = torch.tensor(getattr(config, name), device=model.device)
            self.register_buffer(name, value.view(1, 3, 1, 1))

    def forward(self, x):
        if self.which == "text":
            return self.encode(input_ids=x).pooler_output.float()
        x = x.permute(0, 3, 1, 2).float() / 255
        x = ((x - self.image_mean) / self.image_std).to(self.model.dtype)
        return self.encode(pixel_values=x).pooler_output.float()


def peers(
    model, which: str, config, x: np.ndarray, *, quick: bool
) -> dict[str, Callable[[], np.ndarray]]:
    """Returns name -> function that embeds `x`; ONNX Runtime if it is installed.

    Args:
      model: a CLIPModel, on its device and in its dtype.
      which: "image" or "text".
      config: our configuration of the same model.
      x: views (B, S, S, 3) uint8 or tokens (B, 77) int32.
      quick: only PyTorch eager, which needs no preparation.
    """
    # The embedding layer of PyTorch needs int64.
    x = torch.from_numpy(x if which == "image" else x.astype(np.int64))
    tower = Tower(model, which, config).eval()
    found = {"eager": in_torch(tower, x)}
    if quick:
        return found
    torch._dynamo.reset()  # or a second size makes it compile for changing shapes
    found["compiled"] = in_torch(torch.compile(tower, dynamic=False), x)
    packages = ("onnx", "onnxscript", "onnxruntime")
    installed = all(importlib.util.find_spec(name) for name in packages)
    if installed and jax.default_backend() == "cpu" and model.dtype == torch.float32:
        found["onnxruntime"] = in_onnxruntime(tower, x)
    return found


def in_torch(tower, x: torch.Tensor) -> Callable[[], np.ndarray]:
    """Returns a function that runs `tower` on `x`, which is on its device already."""
    x = x.to(next(tower.parameters()).device)

    def run():
        with torch.inference_mode():
            return tower(x).cpu().numpy()

    return run


def in_onnxruntime(tower: Tower, x: torch.Tensor) -> Callable[[], np.ndarray]:
    """Returns a function that runs `tower`, exported to ONNX for this `x`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    # Its threads would go on spinning and slow down the next contestant.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tower.onnx"
        torch.onnx.export(tower, (x,), path, verbose=False)
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]
