"""The numbers of the papers as one `ConfigDict`, each with its source.

"ITEM" is arXiv 2511.00427, "TIDY" its precursor. Where neither states a value the
comment says "not in the paper" and why the default is what it is.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns the end of an error message: what is allowed, and the closest name.

    Args:
      name: the name that was found.
      allowed: the names that exist.
    """
    allowed = [str(a) for a in allowed]
    close = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"allowed: {', '.join(allowed)}.{hint}"


LEAST = {
    "data.max_objects": 0,
    "embed.batch_size": 1,
    "embed.text_batch_size": 1,
    "embed.shard_size": 1,
    "embed.threads": 1,
    "embed.workers": 0,
    "head.hidden_dim": 1,
    "train.epochs": 1,
    "train.batch_size": 1,
    "train.seeds": 1,
    "train.checkpoint_every": 1,
    "evaluate.bootstrap": 0,
}
"""The least value of each count of a configuration."""


def default() -> ConfigDict:
    """Returns the paper's configuration, locked: an unknown field raises."""
    c = ConfigDict()
    c.seed = 0  # not in the paper
    c.tower = "ViT-L-14"  # ITEM IV-A; a short name, a Hugging Face id or a folder
    c.dtype = "float32"  # the reference; "bfloat16" is the fast mode of accelerators

    c.data = ConfigDict()
    c.data.records = ""  # records.jsonl made by `item-jax index`
    c.data.images = ""  # folder the keys of the records are relative to
    # Not in the paper. 0.3 suits the Grounding DINO family; GLIP's web demo uses 0.5.
    c.data.score_threshold = 0.3
    c.data.max_objects = 10  # not in the paper; the best by score are kept
    c.data.min_object_pixels = 8  # not in the paper; a smaller crop shows nothing

    c.views = ConfigDict()
    # ITEM IV-A: "center-cropped into 224x224"; "clip" resizes the short side first.
    c.views.geometry = "item"
    c.views.object_crop = "cover"  # not in the paper; or "pad"

    # Not in the paper: makes images alike in what headers tell (`item-jax audit`).
    c.neutralise = ConfigDict()
    c.neutralise.quality = 0  # of the JPEG every image becomes, 1..100; 0 for as it is
    c.neutralise.size = 0  # side of the square every image becomes; 0 for as it is

    c.perturb = ConfigDict()
    # ITEM Fig. 4: noise, blur, jpeg; noise-std, noise-ycbcr read its sigma otherwise.
    c.perturb.name = "none"
    c.perturb.severity = 0  # 1..3

    c.embed = ConfigDict()
    c.embed.batch_size = 256  # views a device batch; speed only
    c.embed.text_batch_size = 256  # texts a device batch; speed only
    c.embed.shard_size = 1024  # records a shard; what a kill can cost
    c.embed.mode = "jit"  # or "pmap": equal results
    c.embed.storage = "float32"  # or "float16": half the disk
    c.embed.threads = 8  # decoding threads, of each worker when there are some
    c.embed.workers = 0  # decoding processes; 0 decodes in the program's own
    c.embed.on_error = "report"  # or "stop" at the first image that fails

    c.misalignment = ConfigDict()
    c.misalignment.name = "item"  # ITEM Eqs. 3-6; "tidy" is TIDY Eqs. 2-4
    c.misalignment.w1 = 1.0  # ITEM IV-A; 0 is "only local"
    c.misalignment.w2 = 1.0  # ITEM IV-A; 0 is "only global"
    # Not in the paper, where 1/n is undefined: the whole image is the only object.
    c.misalignment.no_objects = "global"  # or "zero"

    c.head = ConfigDict()
    c.head.name = "mlp"  # ITEM III-C, "a simple two-layer MLP"; or "linear"
    c.head.hidden_dim = 512  # not in the paper

    c.train = ConfigDict()
    c.train.split = "train"  # records of this split; "" takes all
    c.train.generators = ()  # fakes (and their reals) of these only; () takes all
    c.train.epochs = 50  # ITEM IV-A
    c.train.batch_size = 128  # not in the paper; inferred from its printed cells
    c.train.learning_rate = 1e-3  # ITEM IV-A, AdamW
    c.train.weight_decay = 1e-3  # ITEM IV-A, AdamW on all parameters as in PyTorch
    c.train.seeds = 1  # heads trained side by side: seed, seed + 1, ...
    c.train.checkpoint_every = 10  # epochs

    c.evaluate = ConfigDict()
    c.evaluate.split = "test"
    c.evaluate.threshold = 0.5  # ITEM IV-A; fake when P(fake) > threshold, strictly
    c.evaluate.protocol = "full"  # or "unifd", "paper_compat": `item_jax.protocol`
    c.evaluate.bootstrap = 200  # resamples of the 95% intervals; 0 for none

    c.baselines = ("constant", "cosine", "image", "caption")
    c.lock()
    return c


def load(path: str | Path) -> ConfigDict:
    """Reads a run card: a Python file that defines `get_config()`.

    Args:
      path: the file, such as `configs/item_vitl14.py`; text after a colon is handed
        to `get_config` as its argument.

    Raises:
      ValueError: when the file is missing or defines no `get_config`.
    """
    path, _, argument = str(path).partition(":")
    if not Path(path).is_file():
        near = sorted(str(p) for p in Path(path).parent.glob("*.py"))
        raise ValueError(f"no config file {path!r}; {nearest(path, near)}")
    if not path.endswith(".py"):
        raise ValueError(f"a run card is a Python file, not {path!r}")
    spec = importlib.util.spec_from_file_location("item_jax_run_card", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ValueError("it defines no get_config()")
        return module.get_config(argument) if argument else module.get_config()
    except Exception as e:  # whatever somebody's own Python file may raise
        raise ValueError(f"run card {path}: {type(e).__name__}: {e}") from e


def override(config: ConfigDict, field: str, value: str) -> None:
    """Sets `config.field` from text, typed by the value that stands there.

    Args:
      config: changed in place.
      field: a dotted path such as `"train.epochs"`.
      value: text from a command line; tuples are comma separated.

    Raises:
      ValueError: for an unknown field (naming the nearest) or a value that does not
        fit the field's type.
    """
    names = leaves(config)
    if field not in names:
        raise ValueError(f"unknown config field {field!r}; {nearest(field, names)}")
    *groups, leaf = field.split(".")
    for group in groups:
        config = config[group]
    old = config[leaf]
    try:
        if isinstance(old, bool):
            new: Any = {"true": True, "1": True, "false": False, "0": False}[
                value.lower()
            ]
        elif isinstance(old, tuple):
            new = tuple(v.strip() for v in value.strip("()").split(",") if v.strip())
        else:
            new = type(old)(value)
    except (KeyError, ValueError) as e:
        kind = type(old).__name__
        raise ValueError(
            f"config field {field!r} takes a {kind} such as {old!r}, not {value!r}"
        ) from e
    config[leaf] = new


def check(config: ConfigDict) -> None:
    """Refuses numbers that are too small to mean anything.

    Raises:
      ValueError: naming the field and the least value.
    """
    fields = leaves(config)
    for name, least in LEAST.items():
        if fields[name] < least:
            raise ValueError(f"{name} is {fields[name]}; at least {least}")


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns every field as `{"dotted.name": value}`, in the order of definition."""
    out: dict[str, Any] = {}
    for name in config:
        value = config[name]
        if isinstance(value, ConfigDict):
            out |= leaves(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = value
    return out


def to_json(config: ConfigDict) -> dict[str, Any]:
    """Returns plain nested dictionaries that JSON can hold."""
    return json.loads(json.dumps(config.to_dict()))
