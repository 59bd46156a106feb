"""Texts are cleaned as in the training of each model, and the setting is stored."""

from __future__ import annotations

import copy
import html
import json
import re
import string

import ftfy
import numpy as np
import pytest
import tiny_towers
from odd_texts import ODD_TEXTS
from PIL import Image
from transformers import CLIPTokenizer

from item_jax import config as config_lib
from item_jax import settings, testing
from item_jax.__main__ import main
from item_jax.cache import EmbeddingCache
from item_jax.datasets import miniature
from item_jax.fields import FIELDS
from item_jax.records import Record, write_records
from item_jax.towers.describe import describe
from item_jax.towers.text_cleaning import CLEANINGS, OPEN_CLIP_CLEANINGS
from item_jax.towers.towers import load_towers


def openai_rule(text: str) -> str:
    """What openai/CLIP's tokenizer does to a text before it looks for words."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip().lower()


def test_clip_gets_the_tokens_of_openai(tiny_clip):
    """Compared once by hand, with OpenAI's own tokenizer and vocabulary: all equal."""
    folder, _ = tiny_clip
    towers = load_towers(folder)
    assert towers.text_cleaning == "lower"
    tokenizer = CLIPTokenizer.from_pretrained(folder)

    def theirs(texts):
        rows = tokenizer(texts, truncation=True, max_length=77)["input_ids"]
        return [list(row) for row in rows]

    assert len(ODD_TEXTS) >= 50
    found, _ = towers.tokenize(ODD_TEXTS)
    assert found == theirs([openai_rule(text) for text in ODD_TEXTS])
    # transformers does not clean, so that `none` is another one.
    plain = load_towers(folder, text_cleaning="none")
    bare, _ = plain.tokenize(ODD_TEXTS)
    assert bare == theirs(list(ODD_TEXTS))
    differing = sum(a != b for a, b in zip(found, bare))
    assert differing >= 20
    assert plain.checkpoint_sha256 == towers.checkpoint_sha256


def test_texts_that_are_cleaned_alike_are_embedded_alike(tiny_clip):
    towers = load_towers(tiny_clip[0])
    pairs = [
        ("the child’s dog", "The child's dog"),
        ("\ufeffblack &amp;amp; white", "black & white"),
        ("schÃ¶n", "schön"),
        ("ｆｕｌｌ  width\n", "full width"),
    ]
    for odd, plain in pairs:
        a, b = towers.encode_text([odd, plain])
        np.testing.assert_allclose(a, b, atol=1e-6)
    a, b = load_towers(tiny_clip[0], text_cleaning="none").encode_text(pairs[0])
    assert np.abs(a - b).max() > 1e-3


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_open_clips_cleanings(text):
    basic = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    no_marks = basic.replace("_", " ")
    for mark in string.punctuation:
        no_marks = no_marks.replace(mark, "")
    assert {name: CLEANINGS[name](text) for name in OPEN_CLIP_CLEANINGS} == {
        "whitespace": " ".join(basic.split()),
        "whitespace_underscore": " ".join(basic.replace("_", " ").split()),
        "lower": " ".join(basic.split()).lower(),
        "canonicalize": " ".join(no_marks.lower().split()),
    }
    assert CLEANINGS["none"](text) == text
    assert CLEANINGS["lowercase"](text) == text.lower()


def test_texts_that_captioners_write_stay_as_they_are():
    for text in ("a dog on a sofa", "two people, one umbrella", "a red-brown bus no 7"):
        assert CLEANINGS["lower"](text) == text


def test_a_file_of_open_clip_may_name_its_cleaning(tiny_clip, tmp_path):
    folder = testing.open_clip_twin(tiny_clip[0], tmp_path / "open_clip")
    assert load_towers(folder).text_cleaning == "lower"
    before = load_towers(folder).checkpoint_sha256
    path = folder / "open_clip_config.json"
    raw = json.loads(path.read_text())
    raw["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    path.write_text(json.dumps(raw))
    towers = load_towers(folder)
    assert towers.text_cleaning == "canonicalize"
    assert towers.checkpoint_sha256 == before  # stored beside it
    assert ("texts cleaned", "canonicalize") in describe(folder).facts
    for wrong, said in (({"clean": "washed"}, "'washed'"), ({"mask": 1}, "'mask': 1")):
        raw["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = wrong
        path.write_text(json.dumps(raw))
        with pytest.raises(ValueError, match=f"tokenizer_kwargs.*{said}"):
            load_towers(folder)


@pytest.mark.parametrize(
    "save, cleaning",
    [
        (lambda folder: tiny_towers.save_siglip(folder, 2), "lowercase"),
        (tiny_towers.save_metaclip_2, "none"),
    ],
)
def test_each_family_has_its_own(tmp_path, save, cleaning):
    save(tmp_path)
    assert load_towers(tmp_path).text_cleaning == cleaning
    towers = load_towers(tmp_path, text_cleaning="lower")
    assert towers.text_cleaning == "lower"


def test_an_unknown_cleaning_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="text_cleaning 'clean'; .*canonicalize"):
        load_towers(tiny_clip[0], text_cleaning="clean")


# ---- Stored with every embedding ----------------------------------------------------


def stored(towers):
    return settings.embedding(towers, config_lib.default(), {})


def test_the_cleaning_is_stored_and_compared(tiny_clip):
    cleaned = stored(load_towers(tiny_clip[0]))
    bare = stored(load_towers(tiny_clip[0], text_cleaning="none"))
    assert cleaned["texts"] == {"clean": "lower"}
    settings.check({"embedding": cleaned}, "here")
    (warning,) = settings.compare(bare, cleaned, what="h")
    assert warning == "texts.clean: h has 'none', found 'lower'"
    assert settings.differences(bare, cleaned) == [
        "texts.clean was 'none' and is 'lower'"
    ]
    c = config_lib.default()
    settings.restore(bare, c)
    assert c.texts.clean == "none"
    with pytest.raises(ValueError, match="embedding.texts.clean"):
        settings.check({"embedding": cleaned | {"texts": {"clean": 3}}}, "here")


def test_embeddings_of_an_older_version_were_not_cleaned(tiny_clip):
    """A method of then goes on with its own texts, and says so beside new ones."""
    new = stored(load_towers(tiny_clip[0]))
    old = copy.deepcopy(new)
    del old["texts"]
    settings.check({"embedding": old}, "here")
    assert settings.text_cleaning(old) == "none"
    assert settings.compare(old, old, what="h") == []
    assert settings.compare(old, new, what="h") == [
        "texts.clean: h has 'none', found 'lower'"
    ]
    # Of SigLIP it is not known.
    old["tower"]["family"] = "general_vit"
    assert settings.text_cleaning(old) == ""
    assert settings.compare(old, new, what="h")


def test_the_field_reaches_the_towers(tiny_clip, tmp_path):
    """`item-jax embed` stores what it did, and other texts are another cache."""
    assert set(FIELDS["texts.clean"].choices) == {"", *CLEANINGS}
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (40, 40), (9, 99, 200)).save(images / "a.png")
    record = Record(key="a.png", caption="the child’s &amp; the dog")
    write_records(tmp_path / "records.jsonl", [record])

    def run(cleaning: str, cache: str) -> tuple[int, EmbeddingCache]:
        words = ["embed", "--workdir", tmp_path, "--cache", cache]
        words += [f"--config.data.images={images}", f"--config.tower={tiny_clip[0]}"]
        words += [f"--config.texts.clean={cleaning}"] if cleaning else []
        status = main(list(map(str, words)))
        return status, EmbeddingCache(tmp_path / "caches" / cache)

    status, cleaned = run("", "cleaned")
    assert status == 0 and cleaned.embedding["texts"] == {"clean": "lower"}
    status, bare = run("none", "bare")
    assert status == 0 and bare.embedding["texts"] == {"clean": "none"}
    a, b = (next(iter(cache))[0].text_emb for cache in (cleaned, bare))
    assert np.abs(a - b).max() > 1e-3
    assert run("none", "cleaned")[0] == 2


def test_the_texts_of_the_miniature_keep_their_tokens(tmp_path):
    """So its embeddings are what they were before texts were cleaned."""
    world = miniature.unpack(tmp_path)
    clip = world / "clip"
    cleaned, bare = load_towers(clip), load_towers(clip, text_cleaning="none")
    texts = set()
    for mode in miniature.TEXTS:
        captions, objects = miniature.text_files(world, mode)
        for path in (captions, objects):
            for line in path.read_text().splitlines():
                row = json.loads(line)
                texts |= {row["caption"]} if row.get("caption") else set()
                texts |= {o["phrase"] for o in row.get("objects", ())}
    assert len(texts) > 100
    assert cleaned.tokenize(sorted(texts))[0] == bare.tokenize(sorted(texts))[0]
