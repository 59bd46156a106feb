"""Extracts the caption from a chat model's answer.

Chat models think aloud, introduce what they are about to say, and format it. None of
that is a caption, and the first line of an answer is often nothing else:

    <think>The user wants ...</think>
    Sure! Here is a caption:

    **"A dog runs."**
"""

from __future__ import annotations

import re

from item_sidecars.models import canonical

_NAMES = "think|thinking|thought|reasoning|reflection"
# Kimi-VL writes its marks with triangles.
_OPEN = re.compile(rf"<(?:{_NAMES})>|◁think▷", re.IGNORECASE)
_CLOSE = re.compile(rf"</(?:{_NAMES})>|◁/think▷", re.IGNORECASE)

_QUOTES = "\"'`“”‘’*_"
_TAG = re.compile(r"</?(?:answer|caption|response)>|<\|[^|<>]*\|>", re.IGNORECASE)
_MARKDOWN = re.compile(r"^(?:#{1,6}\s+|>\s*|[-*•]\s+|\d{1,2}[.)]\s+)+")
# "Caption", "**Image caption:**", "Caption 1", "One-sentence caption: A dog."
_LABEL = re.compile(
    r"^(?:(?:image|one-sentence|short|suggested|final|possible|the)\s+)*"
    r"(?:caption|captions|description|answer|output|title)(?:\s+\d+)?\s*(?::|$)\W*",
    re.IGNORECASE,
)
_POLITE = re.compile(
    r"^(?:(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|got it|great|"
    r"no problem|understood|happy to help|with pleasure)(?:[.!:,]+|$)\s*)?"
    r"(?:i(?:['’](?:d|ll)| can| will| would) [^.!:]{0,60}\bhelp\b[^.!:]{0,40}"
    r"[.!:]+\s*)?",
    re.IGNORECASE,
)
# "Here is a one-sentence caption for the input image: A dog." It ends in a colon.
_PREAMBLE = re.compile(
    r"^(?:here(?:'s|’s| is| are)|this is|below is|the following is|a possible|"
    r"one possible)\b[^:]{0,120}\b(?:caption|captions|description|sentence|answer)\b"
    r"[^:]{0,80}:\W*",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"^(?:i['’]?m (?:sorry|unable|not able)|i am (?:sorry|unable|not able)|sorry\b|"
    r"i (?:can['’]?t|cannot|can not|do not|don['’]t) |as an ai\b|unfortunately, i )",
    re.IGNORECASE,
)
# A sentence ends before a capital, but not after Mr., St. and other short words.
_SENTENCE_END = re.compile(rf"(?<=\w\w\w[.!?])[{_QUOTES}]*\s+(?=[{_QUOTES}]*[A-Z])")


def is_reasoning_open(prompt: str) -> bool:
    """Whether a prompt ends inside of reasoning, as some chat templates let it."""
    opened = [m.end() for m in _OPEN.finditer(prompt)]
    closed = [m.end() for m in _CLOSE.finditer(prompt)]
    return bool(opened) and opened[-1] > max(closed, default=0)


def without_reasoning(answer: str, *, is_open: bool = False) -> str:
    """Returns what follows the reasoning of an answer; "" if it never ends.

    Args:
      answer: of the model.
      is_open: whether the prompt has opened the reasoning, so that the answer only
        closes it.
    """
    closed = [m.end() for m in _CLOSE.finditer(answer)]
    rest = answer[closed[-1] :] if closed else answer
    opened = _OPEN.search(rest)
    if opened:
        return rest[: opened.start()]
    return "" if is_open and not closed else rest


def first_sentence(answer: str, *, is_open: bool = False) -> str:
    """Returns the first sentence of an answer that could be a caption.

    Reasoning, introductions ("Sure! Here is a caption:"), labels and headings
    ("# Caption"), quotation marks and Markdown are left out.

    Args:
      answer: of a chat model.
      is_open: as in `without_reasoning`.

    Returns:
      One line without quotation marks around it; "" for an answer without a caption,
      such as one that is all reasoning, or a refusal.
    """
    for line in without_reasoning(answer, is_open=is_open).splitlines():
        if line.lstrip().startswith("```"):
            continue
        text = _bare(_TAG.sub(" ", line))
        for pattern in (_POLITE, _PREAMBLE, _LABEL):
            text = _bare(pattern.sub("", text, count=1))
        if _REFUSAL.match(text):
            return ""
        if re.search(r"\w", text):
            return _SENTENCE_END.split(text)[0].strip(_QUOTES + " ")
    return ""


def _bare(text: str) -> str:
    """One line without Markdown, and without quotation marks around it."""
    text = _MARKDOWN.sub("", canonical(text))
    # Two marks that belong to words inside stay: `"Stop" reads a sign`.
    return text.strip(_QUOTES + " ")
