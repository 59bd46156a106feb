"""What captioners and grounders share: finding checkpoints, loading them, devices.

torch and transformers are imported when a model is loaded, not before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.metadata
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import item_jax
from item_jax import files, installed, signatures

DTYPES = ("auto", "float32", "float16", "bfloat16")
WEIGHTS = "model.safetensors"
VERSIONS = ("torch", "transformers", "pillow", "numpy", "nltk")


def versions() -> dict[str, str]:
    """Returns the installed versions that the rows depend on."""
    found = {"item-jax": item_jax.__version__}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model on disk or on the Hugging Face Hub.

    Attributes:
      source: a folder, or the id of a repository.
      revision: branch, tag or commit of a repository, or None.
      config: its transformers configuration.
      identity: what goes into `run.json`: "id" (repository, or name of the folder) and
        "revision" (commit, or digest of the folder's files).
    """

    source: str
    revision: str | None
    config: Any
    identity: dict[str, str]

    @classmethod
    def find(cls, model: str, types: Sequence[str] = ()) -> Checkpoint:
        """Reads the configuration of `FOLDER`, `ID` or `ID@REVISION`.

        Args:
          model: folder, Hub id, or ID@REVISION.
          types: the `model_type`s that are accepted; none accepts all.

        Raises:
          ValueError: when there is no such model, when it is of another type, or when
            the installed transformers does not know its class.
        """
        transformers = require("transformers", "captions and boxes")
        folder = Path(model).is_dir()
        source, _, revision = (model, "", "") if folder else model.partition("@")
        try:
            config = transformers.AutoConfig.from_pretrained(
                source, revision=revision or None
            )
        except Exception as e:  # whatever a damaged file provokes in transformers
            raise ValueError(
                f"model {model!r} cannot be read: {_fault(source) or _reason(e)} "
                f"(transformers "
                f"{transformers.__version__}; a model is a folder, a Hub id, or "
                f"ID@REVISION). {_remedy(source)}"
            ) from e
        if types and config.model_type not in types:
            raise ValueError(
                f"model {model!r} is of type {config.model_type!r}; this adapter takes "
                f"{', '.join(types)}"
            )
        if folder:
            identity = {
                "id": Path(source).resolve().name,
                "revision": files.folder_digest(source),
            }
        else:
            identity = {"id": source, "revision": _commit(source, revision or "main")}
        return cls(source, revision or None, config, identity)

    def load(self, cls: Any, **options: Any) -> Any:
        """Returns `cls.from_pretrained` of this checkpoint.

        Raises:
          ValueError: when a package is missing that it needs, or a file that is not
            there or damaged; with the remedy.
        """
        try:
            made = cls.from_pretrained(self.source, revision=self.revision, **options)
        except Exception as e:  # whatever a damaged file provokes in transformers
            what = f"the {_part(cls)} of model {self.source!r} cannot be loaded"
            lacking = installed.missing(("torchvision", "num2words"))
            if lacking and _needs_package(e):
                raise ValueError(
                    f"{what} without {' and '.join(lacking)}: {installed.CHAT}"
                ) from e
            reason = _fault(self.source) or _reason(e)
            raise ValueError(f"{what}: {reason}. {_remedy(self.source)}") from e
        self._check_vocabulary(getattr(made, "tokenizer", made))
        return made

    def _check_vocabulary(self, tokenizer: Any) -> None:
        """Refuses the empty tokenizer that transformers makes when files are missing.

        Raises:
          ValueError: when it knows less than half of the model's tokens.
        """
        if not hasattr(tokenizer, "get_vocab"):
            return
        known = len(tokenizer)
        text = getattr(self.config, "text_config", None)
        needed = getattr(text, "vocab_size", None) or 0
        if known < needed / 2:
            raise ValueError(
                f"the tokenizer of model {self.source!r} knows {known} of {needed} "
                "tokens: tokenizer.json, or what it has for it, is missing. "
                f"{_remedy(self.source)}"
            )

    def model(self, cls: Any, dtype: str, device: Any) -> Any:
        """Loads the weights, from safetensors only, ready to run.

        Args:
          cls: a transformers model class.
          dtype: "float32", "float16" or "bfloat16". Always given: by default
            transformers 5 uses that of the configuration, which means 14 GB of float32
            for blip2-opt-2.7b.
          device: a torch.device.

        Raises:
          ValueError: when the weights do not fit the device's memory, when some of them
            are missing, and as `load`.
        """
        torch = require("torch", "captions and boxes")
        self._check_memory(dtype, device)
        model, found = self.load(
            cls,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
        )
        # transformers would go on with random numbers in their place.
        missing = sorted(found["missing_keys"])
        if missing:
            raise ValueError(
                f"model {self.source!r} lacks {len(missing)} of its weights, such as "
                f"{missing[0]!r}. {_remedy(self.source)}"
            )
        return model.to(device).eval()

    def _check_memory(self, dtype: str, device: Any) -> None:
        """Refuses weights that cannot fit, before minutes of loading end in a kill."""
        stored = str(getattr(self.config, "dtype", None) or "float32")
        growth = _BYTES[dtype] / _BYTES.get(stored.split(".")[-1], 4)
        needed = self._stored_bytes() * growth
        found = memory(device)
        if found is not None and needed > found:
            raise ValueError(
                f"model {self.source!r} needs {needed / 2**30:.1f} GiB for its weights "
                f"in {dtype}, and this {device.type} has {found / 2**30:.1f} GiB: use "
                "a smaller model, another machine, or a 16-bit --dtype"
            )

    def _stored_bytes(self) -> int:
        """The size of the weights that will be loaded; 0 if it is not known yet.

        Large models on the Hub are in shards, so that their size is known before they
        are downloaded.
        """
        folder = Path(self.source)
        index: Path | None = folder / f"{WEIGHTS}.index.json"
        if not folder.is_dir():
            config = _cached(self.source, "config.json", self.revision)
            folder = config.parent if config else folder
            index = _fetched(self.source, f"{WEIGHTS}.index.json", self.revision)
        # As in transformers a whole file comes first, whatever lies beside it.
        if (folder / WEIGHTS).is_file():
            return (folder / WEIGHTS).stat().st_size
        if index is None or not index.is_file():
            return 0
        row = files.read_json(index)
        about, where = row.get("metadata"), row.get("weight_map")
        total = about.get("total_size", 0) if isinstance(about, dict) else 0
        shards = (
            {str(name) for name in where.values()} if isinstance(where, dict) else ()
        )
        there = [folder / name for name in shards if (folder / name).is_file()]
        sizes = sum(path.stat().st_size for path in there)
        return max(sizes, total if isinstance(total, int) else 0)

    def image_processor(self) -> Any:
        """Loads the image processor on Pillow: torchvision resizes differently."""
        transformers = require("transformers", "captions and boxes")
        # The switch was renamed between transformers 5.0 and 5.23.
        named = hasattr(transformers, "BlipImageProcessorPil")
        pillow = {"backend": "pil"} if named else {"use_fast": False}
        made = self.load(transformers.AutoImageProcessor, **pillow)
        # Its default is to guess, and to take 3 rows of pixels for 3 channels.
        made.input_data_format = ROWS_FIRST
        return made

    def tokenizer(self, **options: Any) -> Any:
        """Loads the tokenizer."""
        transformers = require("transformers", "captions and boxes")
        return self.load(transformers.AutoTokenizer, **options)


ROWS_FIRST = "channels_last"
"""What transformers calls the layout [H, W, 3]."""


def pixels_of(processor: Any, image: np.ndarray) -> Any:
    """Returns what an image processor makes of one image.

    Args:
      processor: of `Checkpoint.image_processor`.
      image: uint8 [H, W, 3]; also one that is 1, 3 or 4 pixels high or wide.

    Returns:
      float32 [3, h, w], a torch.Tensor.
    """
    made = processor(image, input_data_format=ROWS_FIRST, return_tensors="pt")
    return made["pixel_values"][0]


_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def memory(device: Any) -> int | None:
    """Returns the bytes that are free on a GPU, or that a machine has; None unknown."""
    if device.type == "cuda":
        return require("torch", "captions and boxes").cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _cached(repository: str, name: str, revision: str | None) -> Path | None:
    """Returns where the download cache has a file of a repository, or None."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, name, revision=revision or "main")
    return Path(path) if isinstance(path, str) else None


def _fetched(repository: str, name: str, revision: str | None) -> Path | None:
    """Returns a file of a repository, downloaded if need be; None if it has none."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    path = try_to_load_from_cache(repository, name, revision=revision or "main")
    if path is None:  # neither there nor known not to exist
        with contextlib.suppress(Exception):  # the download of the weights will tell
            path = hf_hub_download(repository, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _commit(repository: str, revision: str) -> str:
    """Returns the commit that a branch or tag pointed to when it was downloaded.

    It is read off the path in the download cache: transformers 5.23 no longer writes it
    into the configuration.
    """
    path = _cached(repository, "config.json", revision)
    return path.parent.name if path else revision


def require(name: str, purpose: str) -> ModuleType:
    """Imports a library that only the sidecars need.

    Args:
      name: of the module.
      purpose: what needs it, in the plural, for the message.

    Raises:
      ValueError: with the command that installs it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if name == "transformers":
        _check_torchvision()
    try:
        return importlib.import_module(name)
    except ImportError as e:
        command = installed.DIFFUSION if name == "diffusers" else installed.TORCH
        raise ValueError(
            f"{purpose} need {name}, which cannot be imported ({e}); install it with: "
            f"{command}"
        ) from e


def _check_torchvision() -> None:
    """Refuses a torchvision that does not fit torch: transformers would name neither.

    Raises:
      ValueError: with the command that mends it.
    """
    if installed.missing(("torchvision",)):
        return
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as e:
        raise ValueError(installed.pair_message(_reason(e))) from e


def _part(cls: Any) -> str:
    """What a class of transformers loads, in a word."""
    for part in ("Tokenizer", "ImageProcessor", "Processor"):
        if cls.__name__.endswith(part):
            return {"ImageProcessor": "image processor"}.get(part, part.lower())
    return "weights"


def _needs_package(error: Exception) -> bool:
    """Whether a processor failed for want of a package.

    Without torchvision the processors of some chat models fail with an AttributeError
    in transformers 5.0 to 5.23, with an ImportError since.
    """
    text = str(error)
    return isinstance(error, ImportError) or "VIDEO_PROCESSOR" in text


def _reason(error: Exception) -> str:
    """The message of an error on one line, its beginning when it is long."""
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


def _fault(source: str) -> str:
    """Which file of a folder was not downloaded whole, "" if none looks so."""
    if not Path(source).is_dir():
        return ""
    for path in sorted(Path(source).iterdir()):
        if path.suffix in (".json", ".safetensors", ".model") and path.is_file():
            if fault := signatures.download_fault(path):
                return f"{path.name} {fault}"
    return ""


def _remedy(source: str) -> str:
    """What to do when files of a checkpoint are missing or damaged."""
    if Path(source).is_dir():
        return "If the folder is incomplete or damaged, download or copy it again"
    return (
        f"`hf download {source}` completes what was downloaded; where there is no "
        "network, run it elsewhere and give the folder that it prints"
    )


def precision(dtype: str, device: Any, fast: str = "float16") -> str:
    """Returns a dtype; "auto" means `fast` on a GPU and float32 on a CPU.

    Args:
      dtype: of the command line, one of `DTYPES`.
      device: a torch.device.
      fast: the model's own. float16 suits BLIP, BLIP-2 with OPT and LLaVA, which were
        released in it; in other models it overflows (Gemma 3 says nothing, Qwen2.5-VL
        "!!!"), see `released_dtype`.
    """
    if dtype != "auto":
        return dtype
    return fast if device.type == "cuda" else "float32"


def released_dtype(config: Any) -> str:
    """Returns the 16-bit dtype that suits a checkpoint: its own, or bfloat16.

    Args:
      config: of transformers. Only a model that was released in float16 runs in it.
    """
    texts = [config, getattr(config, "text_config", None)]
    found = {str(getattr(c, "dtype", None)).removeprefix("torch.") for c in texts if c}
    return "float16" if "float16" in found and "bfloat16" not in found else "bfloat16"


def device(local_rank: int) -> Any:
    """Returns the GPU of this process, or the CPU."""
    torch = require("torch", "captions and boxes")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def canonical(text: str) -> str:
    """Returns a caption on one line, with single spaces between its words."""
    return " ".join(text.split())
