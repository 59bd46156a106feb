"""GLIP-L, the grounder of the paper, from mmdet in an environment of its own.

mmdet needs transformers 4.53.3 and compiled operators, so GLIP cannot share an
environment with the captioners; `scripts/requirements-glip.txt` builds one for it. The
two environments exchange sidecar files.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata as metadata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from item_jax.files import folder_digest
from item_sidecars.grounders.grounding_dino import lower
from item_sidecars.models import device

MODELS = {"glip": ""}
CONFIG = "glip_atss_swin-l_fpn_dyhead_pretrain_mixeddata"  # GLIP-L, in mmdet
WEIGHTS = "glip_l_mmdet-abfe026b.pth"  # mmdet's name for them
NEEDS = ("torch", "mmengine", "mmcv.ops", "mmdet.apis", "transformers")


class Grounder:
    """GLIP. See `item_sidecars.grounders`.

    Args:
      model: the weights, a `.safetensors` or `.pth` file, for mmdet's GLIP-L; or a
        folder with such a file and a `config.json` in mmengine's form.
      name: "glip".
      dtype: "auto" or "float32".
      local_rank: which GPU of this machine.

    Raises:
      ValueError: when its environment is missing, with how to make it; when the weights
        are not only tensors, or not of this model.
    """

    reader_threshold = 0.5  # GLIPDemo.run_on_web_image of microsoft/GLIP

    def __init__(self, model: str, *, name: str, dtype: str, local_rank: int):
        if dtype not in ("auto", "float32"):
            raise ValueError(f"glip runs in float32, not in {dtype}")
        modules = environment()
        config, weights = files(model, modules)
        self._inferencer = make_inferencer(config, weights, device(local_rank), modules)
        self._tokenizer = self._inferencer.model.language_model.tokenizer
        self._longest = self._inferencer.model.language_model.max_tokens  # 256
        self.settings = {
            "id": Path(model).name,
            "revision": digest(model),
            "adapter": name,
            "dtype": "float32",
            "text": "caption",
            "score": "sqrt(mean of sigmoid over the phrase's tokens * centerness)",
            "mmdet": version("onedl-mmdetection"),
            "mmcv": version("onedl-mmcv"),
        }

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns the image in mmdet's channel order, uint8 [H, W, 3] BGR."""
        return np.ascontiguousarray(image[:, :, ::-1])

    def ground(
        self,
        prepared: list,
        captions: Sequence[str],
        phrases: Sequence[list[dict[str, Any]]],
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns boxes and scores per image; see `item_sidecars.grounders`."""
        return [self._one(*one) for one in zip(prepared, captions, phrases)]

    def _one(self, image, caption, phrases) -> tuple[np.ndarray, np.ndarray]:
        # One image a call: mmdet sizes a batch by the phrases of its first image.
        text = lower(caption)
        room = (
            self._longest - 4
        )  # [CLS], a dot that mmdet appends, [SEP], and one to spare
        inside = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]
        end = inside[room - 1][1] if len(inside) > room else len(text)
        known = [i for i, p in enumerate(phrases) if p["span"][1] <= end]
        if not known:
            return np.zeros((0, 4)), np.zeros((0, len(phrases)))
        asked = {
            "img": image,
            "text": text[:end],
            "custom_entities": False,
            "tokens_positive": [[list(phrases[i]["span"])] for i in known],
        }
        found = self._inferencer([asked], batch_size=1)["predictions"][0]
        height, width = image.shape[:2]
        boxes = np.asarray(found["bboxes"], np.float64).reshape(-1, 4)
        scores = np.zeros((len(boxes), len(phrases)))
        for row, (label, score) in enumerate(zip(found["labels"], found["scores"])):
            scores[row, known[label]] = score
        return boxes / [width, height, width, height], scores


def environment() -> dict[str, Any]:
    """Imports what GLIP needs.

    Raises:
      ValueError: naming what is missing and how to install it.
    """
    found = {}
    for name in NEEDS:
        try:
            found[name] = importlib.import_module(name)
        except Exception as e:  # compiled operators fail in many ways
            recipe = "scripts/requirements-glip.txt"
            raise ValueError(
                f"glip needs {name}, which cannot be imported ({type(e).__name__}: "
                f"{str(e).splitlines()[0] if str(e) else 'no reason given'}). It has "
                f"an environment of its own: {recipe} tells how to make it. "
                "--grounder mm-grounding-dino needs none"
            ) from e
    if found["transformers"].__version__.split(".")[0] != "4":
        raise ValueError(
            "glip needs transformers 4.53.3 in its own environment, here is "
            f"{found['transformers'].__version__}: mmdet's language model uses "
            "functions that version 5 removed"
        )
    return found


def files(model: str, modules: dict[str, Any]) -> tuple[Any, Path]:
    """Finds the configuration and the weights.

    Raises:
      ValueError: when there are none, or several weights.
    """
    place = Path(model)
    if place.is_dir():
        path = place / "config.json"
        weights = [*place.glob("*.safetensors"), *place.glob("*.pth")]
        if not path.is_file() or len(weights) != 1:
            raise ValueError(
                f"{place} should hold config.json and one file of weights, found "
                f"{sorted(p.name for p in place.iterdir())}"
            )
    elif model and place.is_file():
        package = Path(str(importlib.import_module("mmdet").__file__)).parent
        path, weights = package / ".mim/configs/glip" / f"{CONFIG}.py", [place]
    else:
        raise ValueError(
            f"no weights {model!r}: --model takes {WEIGHTS} of mmdet, or a folder with "
            "config.json and weights"
        )
    return modules["mmengine"].Config.fromfile(str(path)), weights[0]


def make_inferencer(config: Any, weights: Path, where: Any, modules: dict) -> Any:
    """Builds mmdet's `DetInferencer` and loads its weights."""
    # Without this key mmdet ignores the spans and looks for phrases itself.
    for transform in config.test_dataloader.dataset.pipeline:
        if isinstance(transform.get("scale"), list):  # JSON knows no tuples
            transform["scale"] = tuple(transform["scale"])
        if transform["type"].split(".")[-1] == "PackDetInputs":
            transform["meta_keys"] = (*transform["meta_keys"], "tokens_positive")
    config.model.backbone.init_cfg = None  # the weights below are complete
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that there are no weights yet
        inferencer = modules["mmdet.apis"].DetInferencer(
            model=config,
            weights=None,
            device=str(where),
            palette="random",
            show_progress=False,
        )
    fill(inferencer.model, read_weights(weights), weights)
    return inferencer


def read_weights(path: Path) -> dict[str, Any]:
    """Reads weights without running code from a pickle.

    Raises:
      ValueError: when the file holds more than tensors.
    """
    if path.suffix == ".safetensors":
        return importlib.import_module("safetensors.torch").load_file(path)
    torch = importlib.import_module("torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise ValueError(
            f"{path} holds more than tensors, or is damaged, and is not loaded. If you "
            "trust it, save its state_dict with safetensors once "
            f"({type(e).__name__})"
        ) from e
    return state.get("state_dict", state)


def fill(model: Any, state: dict[str, Any], path: Path) -> None:
    """Loads weights strictly: all of them and no others.

    Raises:
      ValueError: naming the difference.
    """
    missing, unexpected = model.load_state_dict(state, strict=False)
    # Older files hold buffers of position ids, which no longer exist.
    wrong = [n for n in unexpected if not n.endswith("position_ids")]
    lacking = [n for n in missing if not n.endswith("position_ids")]
    if lacking or wrong:
        raise ValueError(
            f"{path} does not fit the configuration: {len(lacking)} missing "
            f"{lacking[:3]}, {len(wrong)} unknown {wrong[:3]}"
        )


def digest(model: str) -> str:
    """Returns the digest of a folder or of one file of weights."""
    if Path(model).is_dir():
        return folder_digest(model)
    with open(model, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def version(name: str) -> str:
    """Returns the installed version of a distribution, or "unknown"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"
