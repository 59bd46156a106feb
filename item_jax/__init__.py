"""ITEM and TIDY in JAX: AI-generated images betray themselves by their captions.

The public names below are loaded when first used: `import item_jax` itself imports
neither JAX nor anything else that takes time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from item_jax.cache import EmbeddingCache as EmbeddingCache
    from item_jax.datasets.dataset import open_dataset as open_dataset
    from item_jax.detector import ItemDetector as ItemDetector
    from item_jax.embed import embed_records as embed_records
    from item_jax.embeddings import Embeddings as Embeddings
    from item_jax.evaluate import evaluate_methods as evaluate_methods
    from item_jax.fitted import FittedMethod as FittedMethod
    from item_jax.records import Object as Object
    from item_jax.records import Record as Record
    from item_jax.records import read_records as read_records
    from item_jax.records import write_records as write_records
    from item_jax.towers.towers import Towers as Towers
    from item_jax.towers.towers import load_towers as load_towers
    from item_jax.train import fit_method as fit_method
    from item_jax.training_data import training_set as training_set

__version__ = "0.2.0"

_PUBLIC = {
    "Record": "records",
    "Object": "records",
    "read_records": "records",
    "write_records": "records",
    "open_dataset": "datasets.dataset",
    "load_towers": "towers.towers",
    "Towers": "towers.towers",
    "Embeddings": "embeddings",
    "EmbeddingCache": "cache",
    "embed_records": "embed",
    "training_set": "training_data",
    "fit_method": "train",
    "FittedMethod": "fitted",
    "evaluate_methods": "evaluate",
    "ItemDetector": "detector",
}
_MODULES = (
    *("app", "audit", "cache", "calibration", "choices", "comparison", "config"),
    *("datasets", "detector", "early_stopping", "embed", "embeddings"),
    *("evaluate", "evidence", "experiments", "export", "fields", "figures"),
    *("files", "fitted", "gallery"),
    *("heads", "hub", "images", "join", "methods", "metrics"),
    *("misalignment", "model_card", "neutralise", "outside_scores"),
    *("perturb", "pipeline", "pixel_probe", "pixels", "plots"),
    *("protocol", "published", "records", "report", "report_tables"),
    *("results", "settings", "sharding", "shards", "sidecar_runs", "square_and_add"),
    *("state_dicts", "statistics", "tables", "testing", "thresholds", "torch_files"),
    *("towers", "train", "training_data", "training_loop", "views", "workdir"),
)
__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
        return getattr(module, name)
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
