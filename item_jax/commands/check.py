"""`item-jax check`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from pathlib import Path

from item_jax import __version__, installed
from item_jax.commands import say

HELP = "Print what is installed for what, what is missing, devices and disk space."
EXAMPLE = "item-jax check"
OPTIONS = ()

# What for, the distributions, and the command that installs them.
PURPOSES = (
    (
        "embedding, training, scoring",
        ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers")
        + ("numpy", "pillow", "scikit-learn", "matplotlib"),
        "pip install item-jax",
    ),
    (
        "packs (build-dataset)",
        ("tensorflow-datasets", "array-record", "grain"),
        "pip install item-jax",
    ),
    ("packs on gs://", ("gcsfs",), "pip install 'item-jax[gcs]'"),
    ("a page (app)", ("gradio",), "pip install 'item-jax[demo]'"),
    (
        "programs (export --onnx)",
        ("flatbuffers", "jax2onnx", "onnx", "onnxruntime"),
        "pip install 'item-jax[export]'",
    ),
    ("an NVIDIA GPU", ("jax-cuda12-plugin",), "pip install 'item-jax[cuda]'"),
    ("a TPU", ("libtpu",), "pip install 'item-jax[tpu]'"),
    (
        "captions (--caption-with)",
        ("torch", "transformers", "jinja2"),
        "pip install 'item-jax[torch]'",
    ),
    (
        "chat models that need it (Qwen-VL, SmolVLM, InternVL)",
        ("torch", "torchvision", "num2words"),
        "pip install 'item-jax[chat]'",
    ),
    (
        "objects (--ground-with)",
        ("torch", "transformers", "nltk"),
        "pip install 'item-jax[torch]'",
    ),
    (
        "error maps (scripts/reconstruct.py)",
        ("torch", "diffusers"),
        installed.DIFFUSION,
    ),
    (
        "TensorBoard (train --tensorboard)",
        ("tensorboardX",),
        "pip install 'item-jax[tensorboard]'",
    ),
    ("shell completion", ("shtab",), "pip install 'item-jax[completion]'"),
)

TAGGER = "averaged_perceptron_tagger_eng"


def run(arguments: argparse.Namespace) -> int:
    import jax

    from item_jax.sidecar_runs import default_cache

    say(f"item-jax {__version__}, Python {platform.python_version()}")
    fault = installed.pair_fault()
    for purpose, names, command in PURPOSES:
        found = {name: installed.version(name) for name in names}
        missing = [name for name, v in found.items() if v is None]
        state = f"missing {', '.join(missing)}: {command}" if missing else "ready"
        if fault and "torch" in names and not missing:
            state = "not ready, see torchvision below"
        say(f"{purpose}: {state}")
        here = [f"{name} {v}" for name, v in found.items() if v is not None]
        if here:
            say(f"  {', '.join(here)}")
    say(f"noun phrases of captions: {_tagger()}")
    if fault:
        say(fault)
    devices = jax.devices()
    say(f"JAX: {len(devices)} x {devices[0].device_kind} ({jax.default_backend()})")
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        say("  there is an NVIDIA driver: pip install 'item-jax[cuda]' would use it")
    torch = installed.version("torch")
    if torch is not None:
        cpu = "+cpu" in torch
        say(f"PyTorch: {'this build uses the CPU only' if cpu else 'uses CUDA GPUs'}")
    say(f"captions and boxes are kept in {default_cache()}")
    say(f"{shutil.disk_usage('.').free / 2**30:.1f} GiB of disk free here")
    return 0


def _tagger() -> str:
    """Whether the data of NLTK's tagger are where it looks, without importing it."""
    roots = [str(Path.home()), *(f"{sys.prefix}{p}" for p in ("", "/share", "/lib"))]
    roots += ["/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib"]
    given = os.environ.get("NLTK_DATA", "").split(os.pathsep)
    for place in (*filter(None, given), *(f"{root}/nltk_data" for root in roots)):
        tagger = Path(place) / "taggers"
        if (tagger / TAGGER).is_dir() or (tagger / f"{TAGGER}.zip").is_file():
            return f"ready ({tagger})"
    return f"missing data: python -m nltk.downloader {TAGGER}"
