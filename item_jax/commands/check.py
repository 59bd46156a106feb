"""`item-jax check`."""

from __future__ import annotations

import argparse
import importlib.metadata as metadata
import platform
import shutil

from item_jax import __version__
from item_jax.commands import say

HELP = "Print versions, devices and free disk space."
EXAMPLE = "item-jax check"
OPTIONS = ()

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("transformers", "tensorflow-datasets", "numpy", "pillow", "scikit-learn"),
)


def run(arguments: argparse.Namespace) -> int:
    import jax

    say(f"item-jax {__version__}, Python {platform.python_version()}")
    for name in PACKAGES:
        try:
            say(f"  {name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            say(f"  {name} is missing: pip install {name}")
    devices = jax.devices()
    say(f"{len(devices)} x {devices[0].device_kind} ({jax.default_backend()})")
    say(f"{shutil.disk_usage('.').free / 2**30:.1f} GiB of disk free here")
    return 0
