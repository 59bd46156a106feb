"""LLaVA with a `processor_config.json` of an older revision."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_captioners

from item_sidecars import caption

FIELDS = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
MODELS = ("llava", "llava_next")


@pytest.fixture(params=MODELS)
def model(request, tmp_path):
    return tiny_captioners.CAPTIONERS[request.param](tmp_path)


def make(model):
    words = ["--images", ".", "--out", "out", "--model", str(model)]
    return caption.load_captioner(caption.parser().parse_args(words))


def edit(path, *removed, **changes):
    raw = json.loads(path.read_text())
    raw = {k: v for k, v in (raw | changes).items() if k not in removed}
    path.write_text(json.dumps(raw))


def said(captioner):
    rng = np.random.default_rng(1)
    images = list(rng.integers(0, 256, (3, 40, 50, 3), dtype=np.uint8))
    return captioner.caption([captioner.prepare(image) for image in images])


@pytest.mark.parametrize("removed", [*((f,) for f in FIELDS), FIELDS])
def test_what_is_lacking_is_taken_from_the_model(model, removed):
    whole = make(model)
    assert "processor" not in whole.settings
    edit(model / "processor_config.json", *removed)
    with pytest.warns(UserWarning, match=f"of an older revision; set.*{removed[0]}"):
        older = make(model)
    assert older.settings["processor"].keys() == set(removed)
    assert said(older) == said(whole)


def test_a_count_that_the_model_contradicts_is_set_too(model):
    """transformers writes 0 where nobody said otherwise."""
    whole = said(make(model))
    edit(model / "processor_config.json", num_additional_image_tokens=0)
    with pytest.warns(UserWarning, match="num_additional_image_tokens 1"):
        assert said(make(model)) == whole


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"patch_size": 7}, "has patch_size 7, but the model's config.json needs 14"),
        ({"vision_feature_select_strategy": "full"}, "'full', .* needs 'default'"),
        ({"num_additional_image_tokens": 3}, "tokens 3, .* needs 1: .*`hf download`"),
    ],
)
def test_what_contradicts_the_model_is_refused(model, changes, words):
    edit(model / "processor_config.json", **changes)
    with pytest.raises(ValueError, match=f"processor_config.json of model .*{words}"):
        make(model)


def test_a_tokenizer_without_the_image_token_is_refused(model):
    edit(model / "config.json", image_token_index=7)
    with pytest.raises(ValueError, match="has '<image>' as token 4, .* needs 7: they"):
        make(model)


def test_no_chat_template_names_the_remedy(model):
    for path in model.glob("chat_template*"):
        path.unlink()
    edit(model / "processor_config.json", "chat_template")
    with pytest.raises(ValueError, match="no chat template.*`hf download ID`"):
        make(model)
