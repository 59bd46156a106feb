"""Grounders: detectors that find the phrases of a caption, one file each.

An adapter is a module with

    DETECTORS              {name: Hub id of its default model, or ""}
    class Grounder(model, *, detector, dtype, local_rank):
        settings           what `run.json` says of it: id, revision, ...
        reader_threshold   the score from which its boxes are usually believed
        prepare(image)     uint8 [H, W, 3] -> what `ground` takes; in worker threads
        ground(prepared, captions, phrases)   lists of equal length ->
                           per image `(boxes [Q, 4], scores [Q, P])`, NumPy

Boxes are (x1, y1, x2, y2) in fractions of the image; P is how many phrases the image
has, `{"phrase", "span"}` each, and the score of a box for a phrase is the mean over the
phrase's tokens of the sigmoid of their logits, GLIP's "MEAN" (OWLv2, which knows
whole phrases only, has one logit for each). `prepare` touches no tokenizer: the fast
ones may not be used by two threads at once.
"""

from __future__ import annotations

import pkgutil
from types import ModuleType


def detectors() -> dict[str, ModuleType]:
    """Returns the detectors there are and the adapter of each."""
    import sidecar_models

    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = sidecar_models.adapter("grounders", info.name, "Grounder")
        found |= dict.fromkeys(module.DETECTORS, module)
    return found
