import pytest

from item_jax.workdir import Workdir


def test_plain_and_named_places_stand_beside_each_other(tmp_path):
    w = Workdir(tmp_path)
    assert w.cache() == tmp_path / "embeddings"
    assert w.cache("jpeg2") == tmp_path / "caches/jpeg2"
    assert w.method() == tmp_path / "head"
    assert w.method("tidy") == tmp_path / "methods/tidy"
    assert w.results() == tmp_path / "results"
    assert w.results("jpeg2") == tmp_path / "results/jpeg2"


def test_the_plain_method_comes_first(tmp_path):
    w = Workdir(tmp_path)
    for name in ("tidy", "cosine", "head"):
        w.method(name).mkdir(parents=True)
        (w.method(name) / "config.json").touch()
    for name in (".hidden", "a.0f.partial"):
        (tmp_path / "methods" / name).mkdir()
    (tmp_path / "methods/broken").symlink_to("nowhere")
    assert list(w.methods()) == ["head", "broken", "cosine", "tidy"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "paper", "-x", ".x"])
def test_names_that_are_no_folder_names(tmp_path, name):
    w = Workdir(tmp_path)
    with pytest.raises(ValueError, match="allowed: letters, digits"):
        w.method(name)
