"""Names of ours, modules of somebody else's."""

import sys
from types import SimpleNamespace

import pytest

from item_jax import choices

TABLE = {"item": 1, "tidy": 2}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A package `theirs` on the import path."""
    package = tmp_path / "theirs"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ideas.py").write_text(
        "def squared(x):\n    return x * x\n\nNEEDS = ('text',)\n"
        "class Many:\n    one = 1\n"
    )
    (package / "broken.py").write_text("import no_such_module_of_theirs\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [n for n in sys.modules if n.split(".")[0] == "theirs"]:
        del sys.modules[name]


def test_nearest():
    assert choices.nearest("itme", TABLE) == "allowed: item, tidy. Did you mean 'item'?"
    assert choices.nearest("zzz", TABLE) == "allowed: item, tidy."
    assert choices.nearest("a", []) == "allowed: none."
    assert choices.nearest(3, [1, 30]) == "allowed: 1, 30. Did you mean '30'?"


def test_check():
    assert choices.check("thing", "item", TABLE) == "item"
    with pytest.raises(
        ValueError, match="unknown thing 'tdy'; allowed: item, tidy.*y'"
    ):
        choices.check("thing", "tdy", TABLE)
    with pytest.raises(ValueError, match="unknown thing 'x'"):
        choices.check("thing", "x", iter(["item"]))


def test_modules_of_a_package():
    found = choices.modules("item_jax.datasets.benchmarks")
    assert found == sorted(found) and "genimage" in found
    assert not [name for name in found if name.startswith("_")]


def test_a_name_of_a_table_and_the_thing_itself():
    assert choices.resolve("method", "tidy", TABLE) == 2
    assert choices.resolve("method", len, TABLE) is len
    genimage = choices.resolve("family", "genimage", "item_jax.datasets.benchmarks")
    assert genimage.BENCHMARK.name == "genimage"


def test_modules_from_outside(outside):
    squared = choices.resolve("method", "theirs.ideas:squared", TABLE)
    assert squared(3) == 9
    assert choices.resolve("method", "theirs.ideas", TABLE).squared is squared
    found = choices.resolve("method", "theirs.ideas", TABLE, attribute="squared")
    assert found is squared
    assert choices.resolve("method", "theirs.ideas:Many.one", TABLE) == 1
    assert choices.resolve("method", "theirs", TABLE).__name__ == "theirs"
    assert choices.importable("theirs.ideas") and not choices.importable("theirs.x")


def test_a_module_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "beside_me.py").write_text("value = 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    assert choices.resolve("method", "beside_me:value", TABLE) == 7
    assert sys.path[-1] == "", "last, where it shadows nothing"
    del sys.modules["beside_me"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("itme", "unknown method 'itme'; allowed: item, tidy. Did you mean 'item'"),
        ("zzz", r"A module of your own is given as package.module or package.*:name"),
        (":x", "unknown method ':x'"),
        ("", "unknown method ''"),
        ("theirs.nothing", "tried to import theirs.nothing: ModuleNotFoundError"),
        (
            "theirs.broken:x",
            "tried to import theirs.broken: .*no_such_module_of_theirs",
        ),
        ("theirs.ideas:sqared", "theirs.ideas has no 'sqared'.*mean 'squared'"),
    ],
)
def test_what_does_not_exist_says_what_was_tried(outside, name, words):
    with pytest.raises(ValueError, match=words):
        choices.resolve("method", name, TABLE)


def test_what_it_needs_is_checked(outside):
    needs = ("NEEDS", "fit")
    with pytest.raises(
        ValueError, match="'theirs.ideas' lacks fit; a method has NEEDS"
    ):
        choices.resolve("method", "theirs.ideas", TABLE, needs=needs)
    thing = SimpleNamespace(fit=1)
    with pytest.raises(ValueError, match="lacks NEEDS"):
        choices.resolve("method", thing, TABLE, needs=needs)
    assert choices.resolve("method", thing, TABLE, needs=("fit",)) is thing
