"""Captions, boxes and error maps with PyTorch models: the sidecars of `item_jax`.

    python -m item_sidecars.caption    images -> captions.jsonl
    python -m item_sidecars.ground     images and captions -> objects.jsonl
    python -m item_sidecars.reconstruct    images -> their error maps, for DIRE

`caption`, `ground` and `reconstruct` are the programs; `run` is the loop they share,
over shards on disk (`shards`), batches (`batches`) and processes (`ranks`). The models
are in `captioners` and `grounders`, one file each, and load through `models`; `phrases`
finds noun phrases, `boxes` selects what is stored.

Nothing here imports JAX. PyTorch, transformers and diffusers are imported when a model
is loaded.
"""

import sys

# `item_sidecars` is the folder `scripts/sidecars`. An installation maps the one to the
# other (pyproject.toml). In a checkout that is not installed, the programs of `scripts`
# import this file as `sidecars`, and these two lines give it its name.
if __name__ == "sidecars":
    sys.modules["item_sidecars"] = sys.modules[__name__]
