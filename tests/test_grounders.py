"""The grounders: spans, scores and boxes, on hand-made numbers and tiny models."""

from pathlib import Path

import numpy as np
import pytest
import tiny_captioners
import tiny_grounders
import torch
import transformers
from PIL import Image

from item_jax import records
from item_sidecars import boxes, ground
from item_sidecars.grounders import grounding_dino
from item_sidecars.grounders.grounding_dino import detector_text, mean_over_tokens

ROOT = Path(__file__).parent.parent
DINOS = ("mm-grounding-dino", "grounding-dino")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def phrase(text, part, start=0):
    at = text.index(part, start)
    return {"phrase": part, "span": [at, at + len(part)]}


def make(model, detector, **changes):
    known = ground.grounders()[detector]
    options = {"name": detector, "dtype": "auto", "local_rank": 0} | changes
    return known.Grounder(str(model), **options)


def noise(count=2, height=40):
    rng = np.random.default_rng(1)
    return list(rng.integers(0, 256, (count, height, 50, 3), dtype=np.uint8))


def scores(grounder, captions, wanted, images=None):
    images = images or noise(len(captions))
    views = [grounder.prepare(image) for image in images]
    phrases = [[phrase(c, w) for w in words] for c, words in zip(captions, wanted)]
    return [s for _, s in grounder.ground(views, captions, phrases)]


# ----------------------------------------------------------------------------- boxes


def test_iou_by_hand():
    one = np.array([0, 0, 0.5, 0.5])
    others = np.array(
        [[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.5, 0.5, 1, 1], [0.2, 0.2, 0.2, 0.9]]
    )
    np.testing.assert_allclose(boxes.iou(one, others), [1, 1 / 3, 0, 0])
    assert boxes.iou(np.zeros(4), np.zeros((1, 4)))[0] == 0


def test_doubles_are_suppressed_per_phrase():
    two = [{"phrase": "a dog", "span": [0, 5]}, {"phrase": "a dog", "span": [10, 15]}]
    where = np.array([[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.51], [0.4, 0.4, 1, 1]])
    how = np.array([[0.9, 0.2], [0.8, 0.7], [0.3, 0.04]])
    found = boxes.candidates(where, how, two, (100, 100))
    # Of the doubles the better stays for either phrase; 0.04 is below the least score.
    assert [(o["span"][0], o["score"]) for o in found] == [
        (0, 0.9),
        (10, 0.7),
        (0, 0.3),
    ]
    assert found[1]["box"] == [0, 0, 0.5, 0.51]
    assert len(boxes.candidates(where, how, two, (100, 100), max_candidates=2)) == 2


def test_boxes_are_clipped_and_slivers_dropped():
    one = [{"phrase": "x", "span": [0, 1]}]
    where = np.array(
        [
            [-0.5, -0.5, 2, 2],
            [0.5, 0.5, 0.505, 0.9],  # half a pixel wide
            [0.9, 0.9, 0.2, 0.2],  # turned round
            [np.nan, 0, 1, 1],
            [1.2, 0, 1.5, 1],  # outside
        ]
    )
    how = np.array([[0.9], [0.8], [0.7], [0.6], [0.5]])
    found = boxes.candidates(where, how, one, (100, 100))
    assert [o["box"] for o in found] == [[0, 0, 1, 1]]
    nan = boxes.candidates(where[:1], np.array([[np.nan]]), one, (100, 100))
    assert nan == []
    for thing in found:
        records.object_from_json(thing)


# ---------------------------------------------------------------- text of the detector


def test_the_detector_text_keeps_every_character_in_place():
    text = detector_text("A man. A dog? İstanbul 3.5")
    assert text == "a man  a dog  İstanbul 3 5"
    assert len(text) == len("A man. A dog? İstanbul 3.5")
    assert "[sep]" in detector_text("a [SEP] b")  # no special token any more


def test_scores_are_means_over_the_tokens_of_a_phrase():
    """One query hot on the tokens of phrase 2; substrings and repeats apart."""
    #        [CLS]   woman   and      man      and      man       .       [SEP]
    tokens = [(0, 0), (0, 5), (6, 9), (10, 13), (14, 17), (18, 21), (22, 23), (0, 0)]
    text = "woman and man and man ."
    three = [phrase(text, "woman"), phrase(text, "man", 6), phrase(text, "man", 14)]
    probabilities = np.zeros((2, 256))
    probabilities[0, 3] = 0.8
    probabilities[1, [4, 5]] = 0.2, 0.6
    both = [*three, {"phrase": "and man", "span": [14, 21]}]
    expected = [[0, 0.8, 0, 0], [0, 0, 0.6, 0.4]]
    np.testing.assert_allclose(mean_over_tokens(probabilities, tokens, both), expected)
    # The token that a phrase touches is not its own.
    touching = [phrase("t-shirt", "t"), phrase("t-shirt", "shirt")]
    apart = mean_over_tokens(np.eye(3), [(0, 1), (1, 2), (2, 7)], touching)
    np.testing.assert_array_equal(apart, [[1, 0], [0, 0], [0, 1]])
    # A phrase behind the end of a text that was cut has no token, and no score.
    assert not mean_over_tokens(probabilities, tokens[:2], both)[:, 1:].any()
    assert mean_over_tokens(probabilities, tokens, []).shape == (2, 0)


@pytest.mark.parametrize("detector", DINOS)
def test_a_caption_without_a_dot_does_not_depend_on_its_batch(
    checkpoints, detector, monkeypatch
):
    """Trap: without a last dot tokens see each other only when the row is padded."""
    grounder = make(checkpoints(detector), detector)
    short, long = "a man rides", "the red dog and two cats sleeping on a couch"
    (alone,) = scores(grounder, [short], [["a man"]])
    beside = scores(grounder, [short, long], [["a man"], ["a couch"]])[0]
    np.testing.assert_allclose(alone, beside, atol=1e-4)
    monkeypatch.setattr(grounder, "_text", detector_text)  # no dot
    (alone,) = scores(grounder, [short], [["a man"]])
    beside = scores(grounder, [short, long], [["a man"], ["a couch"]])[0]
    assert np.abs(alone - beside).max() > 1e-3


@pytest.mark.parametrize("detector", DINOS)
def test_an_inner_dot_does_not_cut_the_caption(checkpoints, detector, monkeypatch):
    """Trap: parts between dots do not see each other."""
    grounder = make(checkpoints(detector), detector)
    for dotted in ("a man. a dog", "a man? a dog"):
        plain = dotted.replace(".", " ").replace("?", " ")
        (one,) = scores(grounder, [dotted], [["a dog"]])
        (other,) = scores(grounder, [plain], [["a dog"]])
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(grounding_dino, "_DELIMITERS", "")
    (one,) = scores(grounder, ["a man. a dog"], [["a dog"]])
    (other,) = scores(grounder, ["a man  a dog"], [["a dog"]])
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("detector", DINOS)
def test_two_captions_stay_two_rows(checkpoints, detector):
    """Trap: transformers' processor merges texts without dots into one."""
    model = checkpoints(detector)
    processor = transformers.AutoProcessor.from_pretrained(model)
    texts = ["a cat on the couch", "two dogs"]
    merged = processor(
        images=[Image.fromarray(i) for i in noise()], text=texts, return_tensors="pt"
    )
    assert merged["input_ids"].shape[0] == 1  # what we must not do
    grounder = make(model, detector)
    one, other = scores(grounder, texts, [["a cat"], ["two dogs"]])
    assert one.shape == other.shape == (10, 1)
    (alone,) = scores(grounder, texts[1:], [["two dogs"]], images=noise()[1:])
    np.testing.assert_allclose(other, alone, atol=1e-4)


@pytest.mark.parametrize("detector", DINOS)
def test_a_long_caption_keeps_its_last_dot(checkpoints, detector):
    """Cut at the model's 64 tokens (256 of the released ones), phrases too."""
    grounder = make(checkpoints(detector), detector)
    text = "a dog " * 40
    ids = grounder._tokenizer(grounder._text(text))["input_ids"]
    assert len(ids) == 64
    assert ids[-2:] == [tiny_captioners.DOT, tiny_captioners.SEP]
    wanted = [phrase(text, "a dog"), phrase(text, "a dog", 200)]
    view = grounder.prepare(noise(1)[0])
    ((_, found),) = grounder.ground([view], [text], [wanted])
    assert (found[:, 0] > 0).all() and not found[:, 1].any()


@pytest.mark.parametrize("detector", tiny_grounders.GROUNDERS)
def test_pictures_of_any_size_share_a_batch(checkpoints, detector):
    """Boxes and scores do not depend on the neighbours."""
    grounder = make(checkpoints(detector), detector)
    images = [*noise(1, 40), *noise(1, 90), *noise(1, 23), *noise(2, 40)]
    captions = ["a dog", "a man and a dog", "running", "a cat", "two cats on a couch"]
    wanted = [
        [phrase("a dog", "a dog")],
        [phrase("a man and a dog", "a man"), phrase("a man and a dog", "a dog")],
        [],  # no phrase at all keeps its slot
        [phrase("a cat", "a cat")],
        [phrase("two cats on a couch", "a couch")],
    ]
    together = grounder.ground([grounder.prepare(i) for i in images], captions, wanted)
    for image, text, own, (where, how) in zip(images, captions, wanted, together):
        ((alone, score),) = grounder.ground([grounder.prepare(image)], [text], [own])
        assert how.shape == (len(where), len(own)) == score.shape
        np.testing.assert_allclose(how, score, atol=1e-4)
        np.testing.assert_allclose(where, alone, atol=1e-4)


def test_owlv2_boxes_are_fractions_of_the_picture(checkpoints):
    """Its boxes are of the padded square: compare with transformers' own pixels."""
    model = checkpoints("owlv2")
    grounder = make(model, "owlv2")
    image = noise(1, 30)[0]  # 50 wide, 30 high
    text = "a dog and a cat"
    own = [phrase(text, "a dog"), phrase(text, "a cat")]
    ((where, how),) = grounder.ground([grounder.prepare(image)], [text], [own])
    processor = transformers.AutoProcessor.from_pretrained(model)
    inputs = processor(
        text=[["a dog", "a cat"]], images=Image.fromarray(image), return_tensors="pt"
    )
    with torch.inference_mode():
        out = grounder._model(**inputs)
    result = processor.image_processor.post_process_object_detection(
        out, threshold=-1, target_sizes=[(30, 50)]
    )[0]
    pixels = where * [50, 30, 50, 30]
    np.testing.assert_allclose(result["boxes"], pixels, atol=1e-3)
    np.testing.assert_allclose(result["scores"], how.max(1), atol=1e-5)
    assert where[:, 3].max() > 1  # reaches into the padding; clipped when stored


def test_dino_scores_are_those_of_the_given_phrases(checkpoints):
    """Against transformers' own processor and a mean taken by hand."""
    model = checkpoints("grounding-dino")
    grounder = make(model, "grounding-dino")
    image, text = noise(1)[0], "A man rides the red wave"
    own = [phrase(text, "A man"), phrase(text, "the red wave")]
    ((where, how),) = grounder.ground([grounder.prepare(image)], [text], [own])
    processor = transformers.AutoProcessor.from_pretrained(model)
    inputs = processor(
        images=Image.fromarray(image), text=text.lower() + " .", return_tensors="pt"
    )
    with torch.inference_mode():
        out = grounder._model(**inputs)
    tokens = out.logits[0].sigmoid().numpy()
    # [CLS] a man rides the red wave . [SEP]
    expected = np.stack([tokens[:, 1:3].mean(1), tokens[:, 4:7].mean(1)], 1)
    np.testing.assert_allclose(how, expected, atol=1e-5)
    centre = out.pred_boxes[0].numpy()
    np.testing.assert_allclose(
        (where[:, :2] + where[:, 2:]) / 2, centre[:, :2], atol=1e-5
    )
    np.testing.assert_allclose(where[:, 2:] - where[:, :2], centre[:, 2:], atol=1e-5)


@pytest.mark.parametrize("detector", DINOS)
def test_half_precision_runs_or_says_what_it_needs(checkpoints, detector):
    model = checkpoints(detector)
    if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23):
        with pytest.raises(ValueError, match=r"transformers >= 5.23.*--dtype float32"):
            make(model, detector, dtype="bfloat16")
        return
    grounder = make(model, detector, dtype="bfloat16")
    (found,) = scores(grounder, ["a dog"], [["a dog"]])
    assert np.isfinite(found).all()


def test_the_model_must_be_of_the_detector(checkpoints):
    with pytest.raises(ValueError, match="of type 'owlv2'; this adapter takes ground"):
        make(checkpoints("owlv2"), "grounding-dino")
    with pytest.raises(ValueError, match="of type 'grounding-dino'.*mm-grounding-dino"):
        make(checkpoints("grounding-dino"), "llmdet")
