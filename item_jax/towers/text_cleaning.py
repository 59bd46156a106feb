"""How texts are cleaned before they are tokenised, as each family was trained.

open_clip and big_vision clean first what a web page does to a text. Of that step this
does what captions need: HTML entities and curly quotes become plain characters. What
else ftfy mends (mojibake, ligatures, control characters) is left as it is.
"""

from __future__ import annotations

import html
import string
from collections.abc import Callable

_PLAIN_QUOTES = str.maketrans(dict.fromkeys("‘’‚‛", "'") | dict.fromkeys("“”„‟", '"'))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _plain(text: str) -> str:
    # Twice, as openai/CLIP does it: pages say "&amp;quot;".
    return html.unescape(html.unescape(text.translate(_PLAIN_QUOTES)))


def _whitespace(text: str) -> str:
    return " ".join(_plain(text).split())


def _canonical(text: str) -> str:
    text = _plain(text).replace("_", " ").translate(_NO_PUNCTUATION)
    return " ".join(text.lower().split())


CLEANINGS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "lowercase": str.lower,
    # The names of open_clip's HFTokenizer.
    "whitespace": _whitespace,
    "lower": lambda text: _whitespace(text).lower(),
    "canonicalize": _canonical,
}
"""`none`, and `lowercase` (SigLIP 2); and as in open_clip: `whitespace`, one blank
between words; `lower`, that in lower case; `canonicalize`, that without punctuation
(SigLIP)."""
