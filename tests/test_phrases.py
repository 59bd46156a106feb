"""Noun phrases and the characters they stand at."""

import json
import random

import nltk
import pytest

from item_jax.files import write_json_lines
from item_sidecars import phrases
from item_sidecars.phrases import PhraseFinder, place_phrases, read_phrases

TAGS = {
    **dict.fromkeys(("a", "an", "the"), "DT"),
    **dict.fromkeys(("red", "big", "old"), "JJ"),
    **dict.fromkeys(("cats", "dogs", "skis"), "NNS"),
    **dict.fromkeys(("of", "on", "with", "in", "and"), "IN"),
    **dict.fromkeys(("rides", "riding", "running", "sleeping", "jumping"), "VBG"),
    **dict.fromkeys((".", "!", "?"), "."),
    ",": ",",
    "two": "CD",
}
NOUNS = ("man", "woman", "dog", "cat", "wave", "top", "surfboard", "ball", "t-shirt")


def tagger(words):
    """A tagger that looks up; what it does not know is a verb."""
    return [
        (w, "NN" if w in NOUNS or w.startswith("caf") else TAGS.get(w, "VB"))
        for w in words
    ]


def find(caption, **options):
    return [
        (p["phrase"], tuple(p["span"]))
        for p in PhraseFinder(tagger, **options)(caption)
    ]


@pytest.mark.parametrize(
    "caption, expected",
    [
        (
            "a man riding a wave on top of a surfboard",
            [("a man", 0), ("a wave", 13), ("top", 23), ("a surfboard", 30)],
        ),
        ("The big red ball", [("The big red ball", 0)]),
        # A phrase that occurs twice is there twice, each at its own place.
        ("a dog and a dog", [("a dog", 0), ("a dog", 10)]),
        # "man" is found as a word, not in "woman".
        ("woman and man", [("woman", 0), ("man", 10)]),
        # What GLIP's regular expression would choke on or lose.
        ("a red (old) ball", [("ball", 12)]),
        ("a t-shirt, a cat", [("a t-shirt", 0), ("a cat", 11)]),
        # No phrase at all.
        ("running and jumping", []),
        ("", []),
        (" ", []),
        ("...", []),
        # A dot inside ends the phrase, whether a space or the end follows.
        ("a dog. a cat.", [("a dog", 0), ("a cat", 7)]),
        ("a dog!  A cat? Dogs", [("a dog", 0), ("A cat", 8), ("Dogs", 15)]),
        # White space between the words is kept as it stands.
        ("a   big\tdog", [("a   big\tdog", 0)]),
        ("A café with cats", [("A café", 0), ("cats", 12)]),
        ('a "red" dog', [("dog", 8)]),
    ],
)
def test_phrases_have_their_places(caption, expected):
    assert find(caption) == [(p, (at, at + len(p))) for p, at in expected]


def test_spans_hold_on_hostile_captions():
    """Quotes and brackets of all kinds, at random: every span is its phrase."""
    finder = PhraseFinder(tagger)
    chance = random.Random(0)
    parts = [*("dog a cat \" '' `` ` « » “ ” ‘ ’ 's . ... -- ( ) [ & İ 🐕".split())]
    parts += ["\u2028", *" " * 8]
    found = 0
    for _ in range(2000):
        caption = "".join(chance.choices(parts, k=12))
        last = 0
        for phrase in finder(caption):
            start, end = phrase["span"]
            assert last <= start < end <= len(caption)
            assert caption[start:end] == phrase["phrase"] == phrase["phrase"].strip()
            last, found = end, found + 1
    assert found > 500


def test_the_stop_list_is_off_by_default():
    caption = "a wave on top of the old surfboard"
    assert "top" in [p for p, _ in find(caption)]
    kept = find(caption, stop_list=True)
    assert [p for p, _ in kept] == ["a wave", "the old surfboard"]


PENN = {
    # What the real tagger says of a quote as it stands in a caption, and as the
    # tokenizer writes it.
    **{'"': "NN", "``": "``", "''": "''"},
    **dict.fromkeys(("a", "no"), "DT"),
    **dict.fromkeys(("sign", "parking", "pole", "dog", "t-shirt"), "NN"),
    **{"reads": "VBZ", "that": "WDT", "on": "IN", "man": "NN", "'s": "POS"},
    **{"two": "CD", "2": "CD", "dogs": "NNS", "wooden": "JJ", ".": "."},
}


@pytest.mark.parametrize(
    "caption, expected",
    [
        (
            'A sign that reads "No Parking" on a pole.',
            [("A sign", 0), ("No Parking", 19), ("a pole", 34)],
        ),
        ("A sign that reads ''no parking''", [("A sign", 0), ("no parking", 20)]),
        ('"A dog" on "a pole', [("A dog", 1), ("a pole", 12)]),
        # Hyphens, possessives and numbers.
        ("A man's t-shirt", [("A man", 0), ("t-shirt", 8)]),
        ("2 dogs on a wooden pole.", [("dogs", 2), ("a wooden pole", 10)]),
    ],
)
def test_quotes_are_no_nouns(caption, expected):
    """B3: GLIP finds `no parking`; a quote once was a phrase and took it along."""
    finder = PhraseFinder(lambda words: [(w, PENN[w]) for w in words])
    found = [(p["phrase"], p["span"][0]) for p in finder(caption)]
    assert found == expected


def test_the_tokens_are_glips():
    """Those of NLTK for the caption in lower case, whatever the spans are."""
    seen = []

    def spy(words):
        seen.extend(words)
        return [(w, "VB") for w in words]

    caption = 'A "red" sign, 3.5 m high: "Don\'t stop" -- the man\'s.'
    PhraseFinder(spy)(caption)
    assert seen == nltk.tokenize.NLTKWordTokenizer().tokenize(caption.lower())
    assert "``" in seen and "''" in seen


COCO = """\
A black-and-white photo of a man's bicycle parked near a fire hydrant.
Two dogs play with a worn-out tennis ball on the wet grass.
A street sign that says "Main St." hangs above the red traffic light.
The women's restroom has 3 sinks, two mirrors and a hand dryer.
A plate of half-eaten pizza sits beside a glass of iced tea.
A baseball player in a number 7 jersey swings his bat.
An old 1950's pick-up truck is parked in front of a brick building.
A child (in a yellow raincoat) holds the dog's leash.
A cake decorated with "Happy Birthday" and 25 lit candles.
The cat's tail is curled around a television set; the remote lies nearby.
A bus with "Out of Service" on its front drives down a busy city street.
People ride on top of an elephant's back through the shallow river.
"""


def test_phrases_are_those_of_glips_grammar():
    """GLIP's own steps, in NLTK's words, on captions as people write them.

    The tags are the same on both sides. GLIP puts spaces between its tokens; here a
    phrase is as it stands in the caption. So they are compared without spaces.
    """
    tokenizer = nltk.tokenize.NLTKWordTokenizer()

    def tag(words):
        small = {"'s": "POS", "a": "DT", "an": "DT", "the": "DT", "his": "PRP$"}
        small |= dict.fromkeys(("of", "on", "in", "with", "near", "above"), "IN")
        small |= dict.fromkeys(("red", "wet", "old", "yellow", "brick", "lit"), "JJ")
        small |= dict.fromkeys(("is", "has", "says", "sits", "hangs", "holds"), "VBZ")
        small |= {"``": "``", "''": "''", "and": "CC", "two": "CD", "that": "WDT"}
        return [
            (w, small.get(w, "CD" if w.isdigit() else "NN" if w[0].isalpha() else w))
            for w in words
        ]

    finder, chunker = PhraseFinder(tag), nltk.RegexpParser(phrases.GRAMMAR)
    count = 0
    for caption in COCO.splitlines():
        tree = chunker.parse(tag(tokenizer.tokenize(caption.lower())))
        theirs = [
            "".join(word for word, _ in part.leaves())
            for part in tree.subtrees(lambda part: part.label() == "NP")
        ]
        ours = ["".join(p["phrase"].lower().split()) for p in finder(caption)]
        assert ours == theirs, caption
        count += len(ours)
    assert count > 35


def test_the_tagger_sees_lower_case():
    seen = []

    def spy(words):
        seen.extend(words)
        return tagger(words)

    PhraseFinder(spy)("A Man")
    assert seen == ["a", "man"]


@pytest.fixture
def perceptron(tmp_path, monkeypatch):
    """NLTK's own tagger with a vocabulary of three sentences, as data on disk."""
    model = nltk.tag.PerceptronTagger(load=False)
    sentences = [
        [("a", "DT"), ("man", "NN"), ("rides", "VBZ"), ("a", "DT"), ("wave", "NN")],
        [("the", "DT"), ("red", "JJ"), ("ball", "NN"), ("rolls", "VBZ")],
        [("a", "DT"), ("dog", "NN"), ("runs", "VBZ"), (".", ".")],
    ]
    model.train(sentences * 30, nr_iter=5)
    data = tmp_path / "nltk_data" / "taggers" / phrases.DATA
    data.mkdir(parents=True)
    learnt = {
        "weights": model.model.weights,
        "tagdict": model.tagdict,
        "classes": sorted(model.classes),
    }
    for name, value in learnt.items():
        (data / f"{phrases.DATA}.{name}.json").write_text(json.dumps(value))
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])


def test_nltk_itself_tags(perceptron):
    found = PhraseFinder()("A man rides the red wave.")
    assert [p["phrase"] for p in found] == ["A man", "the red wave"]


def test_missing_data_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(
        ValueError, match=r"nltk.downloader averaged_perceptron_tagger_eng"
    ):
        PhraseFinder()


# ------------------------------------------------------------------ phrases of a file


def test_phrases_from_a_file_are_placed(tmp_path):
    path = tmp_path / "phrases.jsonl"
    own = [{"phrase": "man", "span": [12, 15]}]
    write_json_lines(
        path,
        [
            {"key": "a", "phrases": ["man", "A woman"]},
            {"key": "b", "phrases": own, "objects": [], "status": "done"},
        ],
    )
    found = read_phrases(path)
    caption = "A woman or a man and a man"
    placed = place_phrases(caption, found["a"])
    # Not the "man" inside "woman".
    assert placed == [
        {"phrase": "man", "span": [13, 16]},
        {"phrase": "A woman", "span": [0, 7]},
    ]
    twice = place_phrases(caption, ["a man", "a man"])
    assert [p["span"] for p in twice] == [[11, 16], [21, 26]]
    assert place_phrases("the fat man rides", []) == []
    assert place_phrases("a 100% (old) dog", ["(old) dog"])[0]["span"] == [7, 16]
    with pytest.raises(ValueError, match="'a man' is not 3 times in"):
        place_phrases(caption, ["a man"] * 3)
    with pytest.raises(ValueError, match="'cat' is not in"):
        place_phrases("concatenate", ["cat"])
    with pytest.raises(ValueError, match="'' is not in"):
        place_phrases(caption, [""])
    for wrong in ({"phrase": "man", "span": [0, 3]}, {"phrase": "man"}, 3, None):
        with pytest.raises(ValueError, match="not a phrase of"):
            place_phrases(caption, [wrong])
    with pytest.raises(ValueError, match="not a phrase of"):
        place_phrases(caption, found["b"])


@pytest.mark.parametrize(
    "row, words",
    [
        ({"key": "a"}, "line 2: 'phrases' is missing"),
        ({"phrases": []}, "line 2: 'key' is missing"),
        ({"key": "x", "phrases": []}, "line 2: key 'x' is duplicated"),
    ],
)
def test_a_bad_file_of_phrases_is_named(tmp_path, row, words):
    path = tmp_path / "phrases.jsonl"
    write_json_lines(path, [{"key": "x", "phrases": []}, row])
    with pytest.raises(ValueError, match=words):
        read_phrases(path)
