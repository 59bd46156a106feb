"""Says of a checkpoint which family reads it, its sizes, and whether it would load.

    python scripts/describe_checkpoint.py openai/clip-vit-base-patch32
    python scripts/describe_checkpoint.py my/checkpoint --load

Reads configuration and tokenizer; with --load the weights too, every tensor checked.
Exits with 1 if the checkpoint would be refused, and says why.

    python scripts/describe_checkpoint.py --open-clip

counts which of open_clip's pretrained tags have a configuration that a family reads,
where open_clip_torch is installed. No weights are read: that a family computes what
open_clip does is for the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from item_jax.towers.checkpoint import open_checkpoint
from item_jax.towers.describe import describe
from item_jax.towers.families import read_config


def print_description(source: str, arguments: argparse.Namespace) -> int:
    """Prints what is known of a checkpoint; returns the exit status."""
    found = describe(
        source,
        revision=arguments.revision,
        family=arguments.family,
        load=arguments.load,
    )
    width = max(len(name) for name, _ in found.facts)
    for name, value in found.facts:
        print(f"{name:{width}}  {value}")
    print(
        f"{'would load':{width}}  {'no: ' + found.refused if found.refused else 'yes'}"
    )
    return 1 if found.refused else 0


def open_clip_config(model: str, tag: dict[str, Any]) -> dict[str, Any]:
    """The `open_clip_config.json` of a pretrained tag, as open_clip would save it."""
    import open_clip

    config = open_clip.get_model_config(model)
    quick = tag.get("quick_gelu", config.get("quick_gelu", False))
    preprocess = {k: tag[k] for k in ("mean", "std", "interpolation", "resize_mode")}
    return {"model_cfg": config | {"quick_gelu": quick}, "preprocess_cfg": preprocess}


def count_open_clip() -> int:
    """Prints each pretrained tag with its family or the reason, and the counts."""
    try:
        from open_clip.pretrained import _PRETRAINED
    except ImportError as e:
        sys.exit(f"open_clip cannot be imported ({e}): pip install open_clip_torch")
    counts: dict[str, int] = {}
    for model, tags in _PRETRAINED.items():
        for name, tag in tags.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "open_clip_config.json"
                path.write_text(json.dumps(open_clip_config(model, tag)))
                try:
                    family, reason = read_config(open_checkpoint(folder))[0], ""
                except ValueError as e:
                    family, reason = "none", str(e).removeprefix(f"{folder}: ")
            counts[family] = counts.get(family, 0) + 1
            print(f"{model:32} {name:28} {family:12} {reason.partition(';')[0]}")
    total = sum(counts.values())
    read = total - counts.get("none", 0)
    by_family = ", ".join(f"{k} {v}" for k, v in sorted(counts.items()))
    print(f"\n{read} of {total} tags are read ({by_family})")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", nargs="?", help="folder, repository id or short name")
    parser.add_argument("--revision", help="branch, tag or commit of a repository")
    parser.add_argument(
        "--family", default="", help="who reads it; default: any of ours"
    )
    parser.add_argument("--load", action="store_true", help="load the weights too")
    parser.add_argument(
        "--open-clip", action="store_true", help="count open_clip's pretrained tags"
    )
    arguments = parser.parse_args()
    if arguments.open_clip:
        if arguments.source or arguments.load or arguments.family or arguments.revision:
            parser.error("--open-clip takes no checkpoint and no other option")
        return count_open_clip()
    if not arguments.source:
        parser.error("name a checkpoint, or --open-clip")
    return print_description(arguments.source, arguments)


if __name__ == "__main__":
    sys.exit(main())
