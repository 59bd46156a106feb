"""Noun phrases of a caption, with their exact character spans.

GLIP's rule: NLTK's tokens and part-of-speech tags, and one chunk grammar. GLIP then
searches the caption for each phrase with a regular expression, and so finds "man" in
"woman", confuses the occurrences of a repeated phrase, and loses a phrase with a
bracket. Here the positions of the tokens are kept instead.

    phrases = PhraseFinder()("A man rides a wave.")
    # [{"phrase": "A man", "span": [0, 5]}, {"phrase": "a wave", "span": [12, 18]}]
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from item_jax import files, records
from item_sidecars.models import require

# predictor_glip.py of microsoft/GLIP: a determiner, adjectives, nouns.
GRAMMAR = "NP: {<DT>?<JJ.*>*<NN.*>+}"

# Nouns that name a place or the image itself, which the grammar cannot tell from
# things: "on top of", "a picture of". Used with --stop-list only; GLIP keeps them.
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
      tagger: words -> a `(word, Penn Treebank tag)` for each; NLTK's perceptron by
        default.
      stop_list: whether to omit phrases whose last word is in `STOP_LIST`.

    Raises:
      ValueError: when nltk or the data of its tagger are missing, with the command that
        installs them.
    """

    def __init__(self, tagger: Tagger | None = None, *, stop_list: bool = False):
        nltk = require("nltk", "noun phrases")
        self._tokenizer = nltk.tokenize.NLTKWordTokenizer()
        self._chunker = nltk.RegexpParser(GRAMMAR)
        self._tagger = tagger or _perceptron(nltk)
        self._stop_list = STOP_LIST if stop_list else frozenset()

    def __call__(self, caption: str) -> list[Phrase]:
        """Returns `{"phrase", "span"}` for each phrase, in reading order.

        `span` is `[start, end)` in characters: `caption[start:end] == phrase`. A phrase
        that occurs twice is returned twice.
        """
        words, spans = self._tokens(caption)
        if not spans:
            return []
        tagged = self._tagger(words)
        found, place = [], 0
        for part in self._chunker.parse(list(tagged)):
            length = 1 if isinstance(part, tuple) else len(part)
            own = spans[place : place + length]
            place += length
            if not isinstance(part, tuple):
                found.append(phrase_at(caption, own[0][0], own[-1][1]))
        return [p for p in found if _last_word(p) not in self._stop_list]

    def _tokens(self, caption: str) -> tuple[list[str], list[tuple[int, int]]]:
        """Returns the tokens as GLIP tags them, in lower case, and their spans.

        A double quote is tagged as the tokenizer writes it, `` or ''. As it stands in
        the caption the tagger takes it for a noun, so that it would become a phrase and
        take the noun beside it along.

        The tokenizer expects one sentence at a time: it splits a final dot off the last
        word of its input only.
        """
        words: list[str] = []
        spans: list[tuple[int, int]] = []
        for sentence in _SENTENCES.finditer(caption):
            start, text = sentence.start(), sentence.group()
            own = [
                (start + a, start + b) for a, b in self._tokenizer.span_tokenize(text)
            ]
            said = self._tokenizer.tokenize(text)
            if len(said) != len(own):  # quotes that the two read differently
                said = [caption[a:b] for a, b in own]
            words += [word.lower() for word in said]
            spans += own
        return words, spans


def phrase_at(caption: str, start: int, end: int) -> Phrase:
    """Returns the phrase at `caption[start:end]`."""
    return {"phrase": caption[start:end], "span": [start, end]}


def _last_word(phrase: Phrase) -> str:
    return phrase["phrase"].lower().split()[-1]


def _perceptron(nltk) -> Tagger:
    try:
        # Made once: nltk.pos_tag reads its data for every caption.
        return nltk.tag.PerceptronTagger(lang="eng").tag
    except LookupError as e:
        raise ValueError(
            f"the data {DATA!r} of NLTK's tagger are missing. Install them once:\n"
            f"  python -m nltk.downloader {DATA}\n"
            "(-d FOLDER with NLTK_DATA=FOLDER for another place), or give phrases of "
            "your own with --phrases FILE"
        ) from e


def read_phrases(path: str | Path) -> dict[str, list[Any]]:
    """Reads phrases from JSON lines `{key, phrases}`.

    An `objects.jsonl` is such a file, so that a second grounder can use the spans of
    the first. A phrase is `{"phrase", "span"}` or a string.

    Returns:
      The phrases by key.

    Raises:
      ValueError: naming file and line, for a row without key or phrases, or with a key
        that an earlier row has.
    """
    found: dict[str, list[Any]] = {}
    for number, row in files.read_json_lines(path):
        where = f"{path}, line {number}"
        key = records.normalise_key(files.field(row, "key", str, where))
        if key in found:
            raise ValueError(f"{where}: key {key!r} is duplicated")
        found[key] = files.field(row, "phrases", list, where)
    return found


def place_phrases(caption: str, phrases: Sequence[Any]) -> list[Phrase]:
    """Finds the spans of given phrases in a caption.

    Args:
      caption: the text.
      phrases: each a `{"phrase", "span"}`, which is checked, or a string, which is
        searched for as whole words; the n-th equal string is its n-th occurrence.

    Raises:
      ValueError: for a phrase that is not in the caption, or not at its span.
    """
    placed: list[Phrase] = []
    used: dict[str, int] = {}
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
            start, end = (operator.index(i) for i in phrase["span"])
            fits = 0 <= start < end and caption[start:end] == phrase["phrase"]
        except (TypeError, KeyError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"{phrase!r} is not a phrase of {caption!r} with its span")
        placed.append(phrase_at(caption, start, end))
    return placed
