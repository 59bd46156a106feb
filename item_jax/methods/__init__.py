"""Methods, one file each: ITEM and TIDY among trivial baselines and rivals.

A method is a module (or any object) with

    NEEDS                      names of the arrays it reads, of `embeddings.ARRAYS`, of
                               `embeddings.OUTPUTS`, `part.outputs["block_tokens"]`, and
                               "pixels" if it reads images, `part.image(i)`,
                               "error_maps" for what a diffusion model could not
                               reconstruct, `part.error_map(i)`
    fit(parts, config)         -> state: nested dictionaries of arrays and JSON values
    score(state, part)         -> P(fake), `[n]` in [0, 1]

and, where it makes sense,

    SETTINGS                   config sections or fields that its fit depends on
    DEFAULTS                   config fields whose default it changes, as published
    FIXES                      config fields it sets itself: {"head.name": "linear"}
    fit_seeds(parts, config, seeds, *, checkpoints, on_epoch)
                               -> a state per seed; without it, it is fitted once
    VALIDATES                  True if held-out images judge its training; its
                               `fit_seeds` then takes `validation=`, parts as well, and
                               holds some training images out where there are none
    START                      the weights that its authors started from, in words; its
                               `fit_seeds` then takes `start=`
    from_weights(tensors)      -> state: of weights that its authors, or their code,
                               saved; with PUBLISHED and SKIPPED, see
                               `item_jax.published`
    check(state)               raises ValueError for a state that cannot be scored

`parts` are the labelled `Embeddings` of the training set, `part` some others. A method
is fitted once, saved as a folder (`item_jax.fitted`), and scored on any cache. It is
found by its file name here, or as `package.module[:name]`; a module may have the method
as its `METHOD` instead of being it.
"""

from __future__ import annotations

from typing import Any

from item_jax import choices
from item_jax.embeddings import ARRAYS, OUTPUTS

PIXELS, ERROR_MAPS = "pixels", "error_maps"


def names() -> list[str]:
    """Returns the names of the methods that come with the package."""
    return choices.modules(__name__)


def reads_pixels(method: Any) -> bool:
    """Whether a method, or something that scores like one, reads images or maps."""
    return bool({PIXELS, ERROR_MAPS} & set(getattr(method, "NEEDS", ())))


def reads_error_maps(method: Any) -> bool:
    """Whether a method, or something that scores like one, reads error maps."""
    return ERROR_MAPS in getattr(method, "NEEDS", ())


def get(name: Any) -> Any:
    """Returns a method.

    Args:
      name: of a file here, `package.module[:name]`, or a method itself.

    Raises:
      ValueError: for an unknown name, with the nearest one, or something that is not a
        method, with what it lacks.
    """
    found = choices.resolve(
        "method", name, __name__, needs=("NEEDS", "fit", "score"), inside="METHOD"
    )
    allowed = (*ARRAYS, *OUTPUTS, PIXELS, ERROR_MAPS)
    for need in found.NEEDS:
        choices.check(f"NEEDS of method {name!r}:", need, allowed)
    return found
