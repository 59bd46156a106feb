"""How texts are cleaned before they are tokenised, as each family was trained.

openai/CLIP and open_clip clean in the same way first: ftfy mends what web pages do to a
text (mojibake, curly quotes, ligatures, full-width letters, control characters), and
HTML entities are resolved twice, since pages say "&amp;quot;".
"""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Iterable

from item_jax import files

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _basic(text: str) -> str:
    import ftfy  # takes 40 ms, which a command that embeds nothing need not wait for

    return html.unescape(html.unescape(ftfy.fix_text(text)))


def _whitespace(text: str) -> str:
    return " ".join(_basic(text).split())


def _canonical(text: str) -> str:
    text = _basic(text).replace("_", " ").translate(_NO_PUNCTUATION)
    return " ".join(text.lower().split())


CLEANINGS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "lowercase": str.lower,
    # The names of open_clip's tokenizers.
    "whitespace": _whitespace,
    "whitespace_underscore": lambda text: " ".join(
        _basic(text).replace("_", " ").split()
    ),
    "lower": lambda text: _whitespace(text).lower(),
    "canonicalize": _canonical,
}
"""`none`, and `lowercase` (SigLIP 2); and as in open_clip: `whitespace`, one blank
between words; `whitespace_underscore`, a blank for each underscore too; `lower`,
`whitespace` in lower case (CLIP); `canonicalize`, that without punctuation (SigLIP)."""

OPEN_CLIP_CLEANINGS = ("whitespace", "whitespace_underscore", "lower", "canonicalize")
"""What `tokenizer_kwargs.clean` of an open_clip configuration may be."""


def checked(texts: Iterable[str]) -> list[str]:
    """Returns texts as a list.

    Raises:
      ValueError: for a single text, which iterates too; for what is no text, or none
        that Unicode has.
    """
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"texts are a list of strings, found a single one; pass [{texts!r:.60}]"
        )
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"texts are a list of strings; number {i} is {text!r:.60}, of type "
                f"{type(text).__name__}"
            )
        try:
            text.encode()
        except UnicodeEncodeError as e:
            raise ValueError(
                f"text number {i} is not valid Unicode, it has a lone surrogate at "
                f"{e.start}: {files.printable(text[:60])}"
            ) from e
    return texts
