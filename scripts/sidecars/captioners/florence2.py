"""Florence-2: florence-community/Florence-2-base and -large.

The repositories of microsoft/* need code from the Hub, which is never run here.
"""

from __future__ import annotations

from item_sidecars.captioners import _prompted

MODEL_TYPES = ("florence2",)


class Captioner(_prompted.Captioner):
    """Florence-2, asked for its task `<CAPTION>`. See `item_sidecars.captioners`.

    `--prompt "<DETAILED_CAPTION>"` and `"<MORE_DETAILED_CAPTION>"` are its other ones.

    Raises:
      ValueError: for a model of another type.
    """

    name = "florence2"
    types = MODEL_TYPES
    prompt = "<CAPTION>"
    limits = {"max_new_tokens": 64}
