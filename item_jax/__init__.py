"""ITEM and TIDY in JAX: AI-generated images betray themselves by their captions.

The public names below are loaded when first used: `import item_jax` itself imports
neither JAX nor anything else that takes time.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "Record": "records",
    "Object": "records",
    "read_records": "records",
    "write_records": "records",
    "load_towers": "towers.load",
    "Towers": "towers.load",
    "EmbeddingCache": "cache",
    "Embeddings": "cache",
    "embed_records": "embed",
    "train_heads": "train",
    "Head": "heads",
    "evaluate_heads": "evaluate",
    "ItemDetector": "detector",
}
_MODULES = (
    "audit",
    "baselines",
    "cache",
    "config",
    "datasets",
    "detector",
    "embed",
    "evaluate",
    "heads",
    "images",
    "join",
    "metrics",
    "misalignment",
    "neutralise",
    "perturb",
    "pipeline",
    "plots",
    "protocol",
    "records",
    "sharding",
    "towers",
    "train",
    "views",
)
__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str):
    if name in _PUBLIC:
        module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
        return getattr(module, name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
