"""What is installed beside the package, and what does not work together.

Nothing of it is imported here.
"""

from __future__ import annotations

import importlib.metadata as metadata
import importlib.util
import subprocess
import sys
from collections.abc import Sequence

TORCH = "pip install 'item-jax[torch]'"
CHAT = "pip install 'item-jax[chat]'"
DIFFUSION = "pip install 'item-jax[diffusion]'"


def version(name: str) -> str | None:
    """Returns the installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def missing(names: Sequence[str]) -> list[str]:
    """Returns the modules of `names` that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def pair_fault() -> str | None:
    """Tries whether torchvision can be imported, in a process of its own: seconds.

    Returns:
      What is wrong, with the command that mends it; None when nothing is, or when torch
      or torchvision is not installed.
    """
    if missing(("torch", "torchvision")):
        return None
    words = [sys.executable, "-c", "import torchvision"]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return pair_message(lines[-1])


def pair_message(reason: str) -> str:
    """Says that torch and torchvision do not fit, and how to mend it.

    Args:
      reason: why torchvision cannot be imported.
    """
    return (
        f"torchvision {version('torchvision')} does not work beside torch "
        f"{version('torch')} ({reason}), and transformers loads it where it is "
        "installed. The two are released in pairs, built for one device. Install them "
        "together, with the --index-url that torch came from if there was one:\n"
        "  pip install --force-reinstall torch torchvision\n"
        "or do without the chat models that need it:\n"
        "  pip uninstall torchvision"
    )
