import copy

import pytest

from item_jax import config as config_lib
from item_jax import settings


class Towers:
    name, family, dtype = "somewhere/clip", "clip_vit", "float32"
    embed_dim, image_size, checkpoint_sha256 = 32, 224, "abc"


@pytest.fixture
def stored():
    facts = {"captioner": {"id": "blip2", "revision": "1", "fingerprint": "x"}}
    return settings.embedding(Towers(), config_lib.default(), facts)


def changed(stored, field, value):
    new = copy.deepcopy(stored)
    *above, leaf = field.split(".")
    place = new
    for part in above:
        place = place[part]
    place[leaf] = value
    return new


def test_it_is_the_configurations_own_subtrees(stored):
    c = config_lib.default()
    for section in ("views", "neutralise", "perturb"):
        assert stored[section] == c[section].to_dict()
    kept = set(c.data) - {"records", "images", "error_maps"}
    assert stored["data"] == {name: c.data[name] for name in kept}
    settings.check({"embedding": stored}, "here")


@pytest.mark.parametrize(
    "field, value",
    [
        ("tower.checkpoint_sha256", "abd"),
        ("tower.embed_dim", 64),
        ("tower.image_size", 336),
        ("views.geometry", "clip"),
        ("views.object_crop", "pad"),
        ("neutralise.quality", 96),
        ("neutralise.size", 256),
    ],
)
def test_other_embeddings_are_refused_by_field(stored, field, value):
    with pytest.raises(
        ValueError, match=f"h was fitted on another kind.*{field}: h has"
    ):
        settings.compare(stored, changed(stored, field, value), what="h")
    assert settings.differences(stored, changed(stored, field, value))


@pytest.mark.parametrize(
    "field, value",
    [
        ("dtype", "bfloat16"),
        ("data.score_threshold", 0.5),
        ("data.max_objects", 3),
        ("data.min_object_pixels", 1),
        ("perturb.name", "blur"),
        ("captioner.revision", "2"),
    ],
)
def test_what_shifts_a_score_is_a_warning(stored, field, value):
    (warning,) = settings.compare(stored, changed(stored, field, value), what="h")
    assert warning.startswith(f"{field}: h has ") and repr(value) in warning
    assert settings.differences(stored, changed(stored, field, value))


@pytest.mark.parametrize(
    "field, value",
    [
        ("tower.name", "/elsewhere/clip"),
        ("captioner.fingerprint", "of other images"),
        ("data.max_pixels", 7),
    ],
)
def test_what_changes_no_score_is_not_compared(stored, field, value):
    assert settings.compare(stored, changed(stored, field, value), what="h") == []


def test_the_limit_of_pixels_is_the_same_within_a_cache(stored):
    """It decides which images fail; a detector may have another."""
    other = changed(stored, "data.max_pixels", 7)
    assert settings.differences(stored, other) == [
        "data.max_pixels was 89478485 and is 7"
    ]
    c = config_lib.default()
    c.data.max_pixels = 99
    settings.restore(other, c)
    assert c.data.max_pixels == 99


def test_an_unknown_captioner_is_a_warning(stored):
    (warning,) = settings.compare(stored, stored | {"captioner": None}, what="h")
    assert warning == (
        "captioner: h was fitted on captions of 'blip2', these are of none: its scores "
        "may be off"
    )
    other = changed(stored, "captioner.id", "llava")
    (warning,) = settings.compare(stored, other, what="h")
    assert "captions of 'blip2', these are of 'llava'" in warning
    assert settings.differences(stored, other)
    # A field that only one of the two recorded says nothing.
    short = stored | {"captioner": {"id": "blip2"}}
    assert settings.compare(stored, short, what="h") == []


def test_restore_takes_what_an_embedding_needs(stored):
    c = config_lib.default()
    new = changed(changed(stored, "views.geometry", "clip"), "data.max_objects", 3)
    settings.restore(changed(new, "perturb.name", "blur"), c)
    assert (c.views.geometry, c.data.max_objects, c.perturb.name) == ("clip", 3, "none")
