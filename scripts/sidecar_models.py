"""What the adapters of captioners and grounders share: finding and loading models.

Only what runs a model imports torch and transformers, and only when it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import item_jax

DTYPES = ("auto", "float32", "float16", "bfloat16")
VERSIONS = ("torch", "transformers", "pillow", "numpy", "nltk")


def adapter(package: str, name: str, wanted: str) -> ModuleType:
    """Finds an adapter by name: a file of `package`, or any importable module.

    Args:
      package: "captioners" or "grounders".
      name: of the file without its suffix, `-` for `_`, or of a module of your own.
      wanted: the class it must define.

    Raises:
      ValueError: naming the adapters there are and the nearest.
    """
    names = adapters(package)
    known = name.replace("_", "-") in names
    place = package + "." + name.replace("-", "_") if known else name
    try:
        found = importlib.util.find_spec(place) if place.strip(".") == place else None
    except ModuleNotFoundError:
        found = None
    module = importlib.import_module(place) if found else None
    if not hasattr(module, wanted):
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"no adapter {name!r} in {package}; allowed: {', '.join(names)}, or a "
            f"module of your own that defines {wanted}{hint}"
        )
    return module


def adapters(package: str) -> list[str]:
    """Returns the names of the adapters of a package."""
    folders = importlib.import_module(package).__path__
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(folders))


def versions() -> dict[str, str]:
    """Returns the installed versions that rows depend on."""
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
      identity: what `run.json` says of it: id, and the commit or the digest of a
        folder's files.
    """

    source: str
    revision: str | None
    config: Any
    identity: dict[str, str]

    @classmethod
    def find(cls, model: str, types: Sequence[str] = ()) -> Checkpoint:
        """Reads the configuration of `FOLDER`, `ID` or `ID@REVISION`.

        Args:
          model: which.
          types: the `model_type`s that are taken; none takes all.

        Raises:
          ValueError: when there is no such model, it is of another type, or its class
            is not known to the installed transformers.
        """
        transformers = require("transformers", "captions and boxes")
        folder = Path(model).is_dir()
        source, _, revision = (model, "", "") if folder else model.partition("@")
        try:
            config = transformers.AutoConfig.from_pretrained(
                source, revision=revision or None
            )
        except (OSError, ValueError, KeyError) as e:
            reason = str(e).strip().splitlines()[0] if str(e).strip() else repr(e)
            raise ValueError(
                f"model {model!r} cannot be read: {reason} (transformers "
                f"{transformers.__version__}; a model is a folder, a Hub id, or "
                "ID@REVISION; with HF_HUB_OFFLINE=1 only what was downloaded before)"
            ) from e
        if types and config.model_type not in types:
            raise ValueError(
                f"model {model!r} is of type {config.model_type!r}; this adapter takes "
                f"{', '.join(types)}"
            )
        if folder:
            identity = {
                "id": Path(source).resolve().name,
                "revision": folder_digest(source),
            }
        else:
            identity = {"id": source, "revision": _commit(source, revision or "main")}
        return cls(source, revision or None, config, identity)

    def load(self, cls: Any, **options: Any) -> Any:
        """Returns `cls.from_pretrained` of this checkpoint."""
        return cls.from_pretrained(self.source, revision=self.revision, **options)

    def model(self, cls: Any, dtype: str, device: Any) -> Any:
        """Loads weights, from safetensors alone, ready to run.

        transformers 5 takes dtype "auto" from the configuration when none is given,
        which is 14 GB of float32 for blip2-opt-2.7b; so it is always given.
        """
        torch = require("torch", "captions and boxes")
        model = self.load(cls, dtype=getattr(torch, dtype), use_safetensors=True)
        return model.to(device).eval()

    def image_processor(self) -> Any:
        """Loads the image processor on Pillow: torchvision resizes differently."""
        transformers = require("transformers", "captions and boxes")
        # The switch was renamed between transformers 5.0 and 5.23.
        named = hasattr(transformers, "BlipImageProcessorPil")
        pillow = {"backend": "pil"} if named else {"use_fast": False}
        return self.load(transformers.AutoImageProcessor, **pillow)

    def tokenizer(self, **options: Any) -> Any:
        """Loads the tokenizer."""
        transformers = require("transformers", "captions and boxes")
        return self.load(transformers.AutoTokenizer, **options)


def _commit(repository: str, revision: str) -> str:
    """The commit that a branch or tag stood at when it was downloaded.

    From the place of the file in the download cache: transformers 5.23 no longer
    writes it into the configuration.
    """
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, "config.json", revision=revision)
    return Path(path).parent.name if isinstance(path, str) else revision


def folder_digest(folder: str | Path) -> str:
    """Returns a digest of a checkpoint's files: names, sizes, and their content.

    Of a file above 4 MiB only the first and the last MiB count: eight processes that
    start together need not read all of 7 GB eight times to tell two models apart.
    """
    state = hashlib.sha256()
    for path in sorted(p for p in Path(folder).iterdir() if p.is_file()):
        size = path.stat().st_size
        state.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as f:
            if size <= 4 << 20:
                state.update(f.read())
            else:
                state.update(f.read(1 << 20))
                f.seek(-(1 << 20), os.SEEK_END)
                state.update(f.read())
    return state.hexdigest()


def require(name: str, purpose: str) -> ModuleType:
    """Imports a library of the sidecars.

    Raises:
      ValueError: saying how to install it.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ValueError(
            f"{purpose} need {name}, which cannot be imported ({e}); install it with: "
            "pip install 'item-jax[torch]'"
        ) from e


def precision(dtype: str, device: Any, fast: str = "float16") -> str:
    """Returns what dtype "auto" means: `fast` on a GPU, float32 on a CPU."""
    return dtype if dtype != "auto" else fast if device.type == "cuda" else "float32"


def device(local_rank: int) -> Any:
    """Returns the GPU of this process, or the CPU."""
    torch = require("torch", "captions and boxes")
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def canonical(text: str) -> str:
    """Returns a caption on one line, its runs of white space single spaces."""
    return " ".join(text.split())
