"""Noun phrases of a caption, with the exact characters they stand at.

GLIP's rule: NLTK's tokens and part-of-speech tags, and one chunk grammar. But where
GLIP looks its phrases up in the caption again with a regular expression (and so finds
"man" in "woman", mistakes a phrase that occurs twice, and loses one with a bracket in
it), here the tokens' own positions are kept.

    phrases = PhraseFinder()("A man rides a wave.")
    # [{"phrase": "A man", "span": [0, 5]}, {"phrase": "a wave", "span": [12, 18]}]
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from item_jax import records
from sidecar_models import require

# predictor_glip.py of microsoft/GLIP: a determiner, adjectives, nouns.
GRAMMAR = "NP: {<DT>?<JJ.*>*<NN.*>+}"

# Nouns that name a place or the picture itself, which the grammar cannot tell from
# things: "on top of", "a picture of". Only for --stop-list; GLIP keeps them.
STOP_LIST = frozenset(
    "top front side back middle group picture photo image view background".split()
)

_SENTENCES = re.compile(r"\S.*?(?:[.!?]+(?=\s|$)|$)", re.DOTALL)

DATA = "averaged_perceptron_tagger_eng"

Phrase = dict[str, Any]
Tagger = Callable[[Sequence[str]], Sequence[tuple[str, str]]]


class PhraseFinder:
    """Finds the noun phrases of captions.

    Args:
      tagger: words -> `(word, Penn Treebank tag)` each; NLTK's perceptron by default.
      stop_list: whether phrases whose last word is on `STOP_LIST` are left out.

    Raises:
      ValueError: when nltk or the tagger's data are missing, with the command that
        gets them.
    """

    def __init__(self, tagger: Tagger | None = None, *, stop_list: bool = False):
        nltk = require("nltk", "noun phrases")
        self._tokenizer = nltk.tokenize.NLTKWordTokenizer()
        self._chunker = nltk.RegexpParser(GRAMMAR)
        self._tagger = tagger or _perceptron(nltk)
        self._stop_list = STOP_LIST if stop_list else frozenset()

    def __call__(self, caption: str) -> list[Phrase]:
        """Returns `{"phrase", "span"}` in the order they stand in the caption.

        `span` is `[start, end)` in characters: `caption[start:end] == phrase`. A phrase
        that occurs twice is there twice.
        """
        spans = self._tokens(caption)
        if not spans:
            return []
        # GLIP tags the caption in lower case.
        tagged = self._tagger([caption[a:b].lower() for a, b in spans])
        found, place = [], 0
        for part in self._chunker.parse(list(tagged)):
            length = 1 if isinstance(part, tuple) else len(part)
            own = spans[place : place + length]
            place += length
            if not isinstance(part, tuple):
                found.append(phrase_at(caption, own[0][0], own[-1][1]))
        return [p for p in found if _last_word(p) not in self._stop_list]

    def _tokens(self, caption: str) -> list[tuple[int, int]]:
        """Spans of the tokens. The tokenizer expects one sentence at a time: it would
        leave the dot of an inner one in its last word."""
        spans = []
        for sentence in _SENTENCES.finditer(caption):
            start = sentence.start()
            own = self._tokenizer.span_tokenize(sentence.group())
            spans += [(start + a, start + b) for a, b in own]
        return spans


def phrase_at(caption: str, start: int, end: int) -> Phrase:
    """Returns the phrase that stands at these characters."""
    return {"phrase": caption[start:end], "span": [start, end]}


def _last_word(phrase: Phrase) -> str:
    return phrase["phrase"].lower().split()[-1]


def _perceptron(nltk) -> Tagger:
    try:
        # Once: nltk.pos_tag would read its data for every caption.
        return nltk.tag.PerceptronTagger(lang="eng").tag
    except LookupError as e:
        raise ValueError(
            f"NLTK's tagger data {DATA!r} are missing. Get them once, before the run:\n"
            f"  python -m nltk.downloader {DATA}\n"
            "(with -d FOLDER and NLTK_DATA=FOLDER to put them elsewhere), or give "
            "phrases of your own with --phrases FILE"
        ) from e


def read_phrases(path: str | Path) -> dict[str, list[Any]]:
    """Reads phrases from JSON lines `{key, phrases}`.

    An `objects.jsonl` is such a file, so that a second detector gets the spans of the
    first. A phrase is `{"phrase", "span"}` or a text.

    Raises:
      ValueError: naming the line that is wrong or whose key stands there twice.
    """
    found: dict[str, list[Any]] = {}
    for number, row in records.read_json_lines(path):
        key, phrases = row.get("key"), row.get("phrases")
        if not isinstance(key, str) or not isinstance(phrases, list):
            raise ValueError(f"{path}, line {number}: needs key and phrases: {row}")
        key = records.normalise_key(key)
        if key in found:
            raise ValueError(f"{path}, line {number}: key {key!r} stands there twice")
        found[key] = phrases
    return found


def place_phrases(caption: str, phrases: Sequence[Any]) -> list[Phrase]:
    """Gives phrases from a file their places in a caption.

    Args:
      caption: the text.
      phrases: `{"phrase", "span"}` as they are; a text is found as whole words, the
        n-th time it is asked for at its n-th occurrence.

    Raises:
      ValueError: for a phrase that is not in the caption, or not at its span.
    """
    placed, used = [], {}
    for phrase in phrases:
        if isinstance(phrase, str):
            pattern = (
                rf"(?<!\w){re.escape(phrase)}(?!\w)" if phrase.strip() else r"(?!)"
            )
            places = list(re.finditer(pattern, caption, re.IGNORECASE))
            turn = used.get(phrase.lower(), 0)
            used[phrase.lower()] = turn + 1
            if turn >= len(places):
                times = f" {turn + 1} times" if turn else ""
                raise ValueError(f"phrase {phrase!r} is not{times} in {caption!r}")
            placed.append(phrase_at(caption, *places[turn].span()))
            continue
        try:
            start, end = phrase["span"]
            fits = 0 <= start < end and caption[start:end] == phrase["phrase"]
        except (TypeError, KeyError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"{phrase} is not a phrase of {caption!r} with its span")
        placed.append(phrase_at(caption, start, end))
    return placed
