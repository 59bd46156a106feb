"""Writes networks of timm with random weights, and what timm makes of a picture.

    python tests/network_reference.py FOLDER

For each name `NAME.safetensors` and `NAME.npz` with `x` and its `features`, the means
over places before the last layer. Run in the environment of the fixture `references`.
"""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

SIZES = {"swin_tiny_patch4_window7_224": 224, "tv_resnet50": 96, "legacy_xception": 107}


def main(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, size in SIZES.items():
        torch.manual_seed(0)
        # timm's names of torchvision's own weights are those of its `resnet50`.
        net = timm.create_model(name.removeprefix("tv_"), pretrained=False).eval()
        with torch.no_grad():
            for key, tensor in net.state_dict().items():
                if key.endswith(("running_mean", "bias", "bias_table", "bn3.weight")):
                    tensor.add_(torch.randn(tensor.shape, generator=generator) / 10)
            x = torch.randn(1, 3, size, size, generator=generator)
            features = net.forward_head(net.forward_features(x), pre_logits=True)
        tensors = {k: v.contiguous() for k, v in net.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors")
        np.savez(
            folder / f"{name}.npz",
            x=x.permute(0, 2, 3, 1).numpy(),
            features=features.numpy(),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
