"""What a diffusion model cannot reconstruct (DIRE, ICCV 2023): PNGs, OUT/maps/KEY.

    {key, sha256, width, height, map, status, error}    OUT/reconstructions.jsonl

An image goes to noise by DDIM and back, and the map is |image - reconstruction|, 0 to
255. A map has the key of its image, so that `item-jax train --method dire
--config.data.error_maps=OUT` finds it; it is a PNG whatever its suffix, since JPEG
would change what is measured. `map` is the SHA-256 of the file. Stopped or killed, the
same command continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from item_jax import files, views
from item_sidecars import models, run
from item_sidecars.batches import Job, Step

STEPS = 20
"""There and back each; DIRE, `timestep_respacing ddim20`."""

GEOMETRY = "short_side"
"""How an image becomes a square, see `squared`. Maps say it, so that those of versions
that cut the middle at full size are not mixed with these."""

_PURPOSE = "reconstructions"

_EXAMPLES = """\
examples:
  python scripts/reconstruct.py --images data/images --out data/maps --model ./adm-256
  item-jax train --workdir run --method dire --config.data.error_maps=data/maps
"""


@dataclasses.dataclass(frozen=True)
class Reconstructor:
    """A diffusion model of pixels and its way to noise and back.

    Attributes:
      predict: (x, timestep) -> the noise in x, float32 `[B, 3, S, S]` both.
      alphas: the product of alphas at each of the timesteps that are visited, float64
        `[steps]`, decreasing.
      timesteps: those, increasing.
      size: S, pixels.
      settings: what the maps depend on, for `run.json`.
    """

    predict: Callable[[Any, int], Any]
    alphas: np.ndarray
    timesteps: np.ndarray
    size: int
    settings: dict[str, Any]

    def reconstruct(self, x: Any) -> Any:
        """Returns x after the way to noise and back, float32 `[B, 3, S, S]`.

        As DIRE's guided-diffusion walks it: each step reckons the clean image from the
        noise at the timestep that it leaves, cuts it to [-1, 1], and mixes it with the
        noise that this implies. The last step up leads to noise alone.
        """
        up = [*self.alphas[1:], 0.0]
        down = [1.0, *self.alphas[:-1]]
        for i in range(len(self.timesteps)):
            x = self._step(x, i, up[i])
        for i in reversed(range(len(self.timesteps))):
            x = self._step(x, i, down[i])
        return x

    def _step(self, x: Any, i: int, then: float) -> Any:
        now = float(self.alphas[i])
        noise = self.predict(x, int(self.timesteps[i]))
        clean = ((x - (1 - now) ** 0.5 * noise) / now**0.5).clamp(-1, 1)
        noise = (x - now**0.5 * clean) / (1 - now) ** 0.5
        return then**0.5 * clean + (1 - then) ** 0.5 * noise


class ReconstructStep(Step):
    """Images in, error maps out.

    Args:
      made: the model.
      folder: where the maps go.
    """

    stage = "reconstruct"
    output = "reconstructions.jsonl"
    columns = ("sha256", "width", "height")
    empty = {"map": None}
    words = False

    def __init__(self, made: Reconstructor, folder: Path):
        self.made, self.folder = made, folder

    def prepare(self, image: np.ndarray, job: Job | None) -> tuple[str | None, Any]:
        """Makes the model's input of uint8 [H, W, 3]: its key, float32 [3, S, S]."""
        return (job and job.key), squared(image, self.made.size)

    def process(self, prepared: list) -> list[dict[str, Any]]:
        """Writes the map of each image."""
        torch = models.require("torch", _PURPOSE)
        x = torch.stack([pixels for _, pixels in prepared])
        with torch.inference_mode():
            back = self.made.reconstruct(x).cpu()
        if not bool(torch.isfinite(back).all()):
            raise ValueError(
                "the reconstruction is not finite: this model overflows in this dtype; "
                "use --dtype float32"
            )
        maps = ((x - back).abs() * 127.5).clamp(0, 255).to(torch.uint8)
        return [
            self._written(key, pixels.permute(1, 2, 0).numpy())
            for (key, _), pixels in zip(prepared, maps)
        ]

    def _written(self, key: str | None, pixels: np.ndarray) -> dict[str, Any]:
        if key is None:  # the slot of an image that cannot be used
            return {"map": None}
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "PNG")
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(path, binary=True) as file:
            file.write(data.getvalue())
        return {"map": hashlib.sha256(data.getvalue()).hexdigest()}

    def canary(self, image: np.ndarray, word: str) -> str:
        """There is no word to look for.

        Raises:
          ValueError: always.
        """
        raise ValueError("a reconstruction has no words: leave --canary out")


def squared(image: np.ndarray, size: int) -> Any:
    """Returns an image as the model takes it, float32 [3, size, size] in [-1, 1].

    As the loader of DIRE's guided-diffusion (`center_crop_arr`): halved with a box
    filter while the short side is at least twice `size`, the short side resized to
    `size` (bicubic, in Pillow, on uint8), the middle square. Of a picture so oblong
    that the resized one would exceed `views.MAX_PIXELS`, the ends are cut off first.

    Args:
      image: uint8 [H, W, 3].
      size: side of the square in pixels.
    """
    torch = models.require("torch", _PURPOSE)
    picture = Image.fromarray(views.ends_off(image, size))
    while min(picture.size) >= 2 * size:
        half = (picture.width // 2, picture.height // 2)
        picture = picture.resize(half, Image.Resampling.BOX)
    scale = size / min(picture.size)
    whole = (round(picture.width * scale), round(picture.height * scale))
    x = np.asarray(picture.resize(whole, Image.Resampling.BICUBIC))
    top, left = (x.shape[0] - size) // 2, (x.shape[1] - size) // 2
    x = x[top : top + size, left : left + size].astype(np.float32) / 127.5 - 1
    return torch.from_numpy(x.transpose(2, 0, 1).copy())


def load(model: str, steps: int, dtype: str, local_rank: int) -> Reconstructor:
    """Loads a diffusers pipeline of an unconditional model of pixels.

    Args:
      model: folder, Hub id, or ID@REVISION; weights in safetensors.
      steps: timesteps that are visited.
      dtype: see `models.precision`.
      local_rank: number of this process on its machine.

    Raises:
      ValueError: when there is no such model, or it is of another kind.
    """
    torch = models.require("torch", _PURPOSE)
    diffusers = models.require("diffusers", _PURPOSE)
    folder = Path(model).is_dir()
    source, _, revision = (model, "", "") if folder else model.partition("@")
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            source, revision=revision or None, use_safetensors=True
        )
    except Exception as e:  # whatever a damaged file provokes in diffusers
        raise ValueError(
            f"model {model!r} cannot be read by diffusers {diffusers.__version__}: "
            f"{' '.join(str(e).split())[:300]}. A model is a folder, a Hub id or "
            "ID@REVISION of a pipeline with unet, scheduler and safetensors"
        ) from e
    unet, scheduler = getattr(pipeline, "unet", None), pipeline.scheduler
    if not isinstance(unet, diffusers.UNet2DModel):
        raise ValueError(
            f"model {model!r} has {type(unet).__name__}, not UNet2DModel: DIRE needs "
            "an unconditional model of pixels, such as ADM at 256"
        )
    c = unet.config
    if c.num_class_embeds or c.in_channels != 3 or c.out_channels not in (3, 6):
        raise ValueError(
            f"model {model!r} takes {c.in_channels} channels, gives {c.out_channels} "
            f"and knows {c.num_class_embeds or 0} classes; 3, 3 (or 6, with a "
            "variance) and no classes are needed"
        )
    kind = scheduler.config.prediction_type
    if kind != "epsilon":
        raise ValueError(f"model {model!r} predicts {kind!r}; only 'epsilon' is known")
    if not 2 <= steps <= scheduler.config.num_train_timesteps:
        raise ValueError(
            f"--steps {steps}; allowed: 2 to {scheduler.config.num_train_timesteps}"
        )
    device = models.device(local_rank)
    dtype = models.precision(dtype, device)
    unet = unet.to(device, getattr(torch, dtype)).eval()

    def predict(x: Any, timestep: int) -> Any:
        out = unet(x.to(device, unet.dtype), timestep).sample.float().cpu()
        return out[:, :3]  # the others are of the variance

    apart = scheduler.config.num_train_timesteps // steps
    timesteps = np.arange(steps) * apart
    identity = (
        {"id": Path(source).resolve().name, "revision": files.folder_digest(source)}
        if folder
        else {"id": source, "revision": revision or "main"}
    )
    return Reconstructor(
        predict,
        np.asarray(scheduler.alphas_cumprod, np.float64)[timesteps],
        timesteps,
        int(c.sample_size),
        {
            **identity,
            "steps": steps,
            "size": int(c.sample_size),
            "geometry": GEOMETRY,
            "dtype": dtype,
            "diffusers": diffusers.__version__,
        },
    )


def reconstruct(arguments: argparse.Namespace) -> int:
    """Runs one rank, or merges; returns the exit status.

    Args:
      arguments: of `parser`.

    Raises:
      ValueError: for arguments that do not fit together, or to the run in --out.
    """
    if arguments.merge:
        return run.merge(ReconstructStep, arguments)
    if arguments.out.resolve().is_relative_to(Path(arguments.images).resolve()):
        raise ValueError(
            f"--out {arguments.out} is inside --images, where the next run would take "
            "the maps for images"
        )
    place = run.find_ranks(arguments)
    jobs = run.list_images(arguments.images)
    made = load(arguments.model, arguments.steps, arguments.dtype, place.local)
    step = ReconstructStep(made, arguments.out / "maps")
    return run.run(step, jobs, arguments, place, {"reconstructor": made.settings})


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    p = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--images", required=True, help="folder the keys are relative to")
    p.add_argument(
        "--model",
        required=True,
        help="diffusers pipeline of an unconditional model of pixels: folder, Hub id "
        "or ID@REVISION; DIRE's is ADM at 256, without classes, of ImageNet",
    )
    p.add_argument(
        "--steps", type=run.positive, default=STEPS, help="default: %(default)s, DIRE's"
    )
    run.add_flags(p, batch_size=16)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The program: parses the command line, runs, returns the exit status."""
    return run.guarded(reconstruct, parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
