"""Compares `scripts/reconstruct.py` with the schedulers of diffusers.

    python tests/diffusers_reference.py FOLDER

Builds a tiny pipeline of random weights and pictures in FOLDER, runs the program, and
prints how far its maps are from those that unmodified schedulers give. Run in the
environment of the fixture `references`.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMPipeline, DDIMScheduler, UNet2DModel
from PIL import Image

from item_sidecars import reconstruct

STEPS, SIZE = 5, 16
PROGRAM = Path(__file__).parent.parent / "scripts" / "reconstruct.py"


def build(folder: Path) -> Path:
    """A pipeline with a learned variance, as ADM's has."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=SIZE,
        out_channels=6,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        resnet_time_scale_shift="scale_shift",
    )
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(folder / "model")
    rng = np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        path = folder / "images" / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder / "model"


def noise_of(unet, alphas, x, timestep):
    """The noise in x that its clean image, cut to [-1, 1], implies."""
    with torch.no_grad():
        noise = unet(x, timestep).sample[:, :3]
    now = alphas[timestep]
    clean = ((x - (1 - now) ** 0.5 * noise) / now**0.5).clamp(-1, 1)
    return (x - now**0.5 * clean) / (1 - now) ** 0.5


def expected(model: Path, x: torch.Tensor) -> torch.Tensor:
    """The reconstruction of x by the schedulers' own steps."""
    unet = UNet2DModel.from_pretrained(model, subfolder="unet").eval()
    options = {"clip_sample": False, "set_alpha_to_one": True}
    up = DDIMInverseScheduler(**options)
    down = DDIMScheduler(clip_sample=True, set_alpha_to_one=True)
    up.set_timesteps(STEPS)
    down.set_timesteps(STEPS)
    alphas = down.alphas_cumprod
    timesteps = down.timesteps.tolist()[::-1]
    for now, then in zip(timesteps, timesteps[1:]):
        noise = noise_of(unet, alphas, x, now)
        x = up.step(noise, then, x).prev_sample
    # The last step up leads to noise alone, which no timestep of diffusers has.
    x = noise_of(unet, alphas, x, timesteps[-1])
    for now in timesteps[::-1]:
        with torch.no_grad():
            noise = unet(x, now).sample[:, :3]
        x = down.step(noise, now, x, use_clipped_model_output=True).prev_sample
    return x


def main(folder: Path) -> None:
    model, out = build(folder), folder / "maps"
    words = ["--images", str(folder / "images"), "--out", str(out)]
    words += ["--model", str(model), "--steps", str(STEPS), "--batch-size", "4"]
    subprocess.run([sys.executable, str(PROGRAM), *words], check=True)
    away, largest = 0.0, 0.0
    for path in sorted((folder / "images").rglob("*.png")):
        x = reconstruct.squared(np.asarray(Image.open(path)), SIZE)[None]
        wanted = ((x - expected(model, x)).abs() * 127.5).clamp(0, 255)[0]
        key = path.relative_to(folder / "images")
        found = np.asarray(Image.open(out / "maps" / key)).astype(float)
        # Cut to whole numbers, not rounded.
        away = max(away, abs(found - wanted.permute(1, 2, 0).numpy()).max())
        largest = max(largest, found.max())
    rows = (out / "reconstructions.jsonl").read_text().splitlines()
    print(json.dumps({"away": away, "largest": largest, "rows": len(rows)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
