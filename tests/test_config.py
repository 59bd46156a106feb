from pathlib import Path

import pytest

from item_jax import config

CARDS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def test_the_numbers_of_the_paper():
    c = config.default()
    assert (c.train.epochs, c.train.learning_rate, c.train.weight_decay) == (
        50,
        1e-3,
        1e-3,
    )
    assert (c.misalignment.w1, c.misalignment.w2) == (1.0, 1.0)
    assert c.evaluate.threshold == 0.5
    assert c.tower == "ViT-L-14"


@pytest.mark.parametrize("card", CARDS, ids=lambda p: p.stem)
def test_every_run_card_loads(card, tmp_path):
    argument = f":{tmp_path}" if card.stem == "miniature" else ""
    c = config.load(f"{card}{argument}")
    assert config.leaves(c).keys() == config.leaves(config.default()).keys()


def test_an_unknown_field_names_the_nearest():
    c = config.default()
    with pytest.raises(ValueError, match="Did you mean 'train.epochs'"):
        config.override(c, "train.epoch", "3")
    with pytest.raises(AttributeError, match="locked"):
        c.train.epoch = 3


def test_overrides_are_typed():
    c = config.default()
    config.override(c, "train.epochs", "3")
    config.override(c, "misalignment.w2", "0")
    config.override(c, "train.generators", "gan,vae")
    config.override(c, "baselines", "()")
    assert c.train.epochs == 3 and c.misalignment.w2 == 0.0
    assert c.train.generators == ("gan", "vae") and c.baselines == ()
    with pytest.raises(ValueError, match="takes a int such as 3, not 'many'"):
        config.override(c, "train.epochs", "many")


def test_a_missing_card_names_its_neighbours(tmp_path):
    (tmp_path / "item.py").write_text("")
    with pytest.raises(ValueError, match="Did you mean .*item.py"):
        config.load(tmp_path / "itm.py")
    with pytest.raises(ValueError, match="defines no get_config"):
        config.load(tmp_path / "item.py")
    (tmp_path / "item.jsonl").write_text("")
    with pytest.raises(ValueError, match="a run card is a Python file"):
        config.load(tmp_path / "item.jsonl")
    (tmp_path / "item.py").write_text(
        "from item_jax import config\n"
        "def get_config():\n    config.default().train.epoch = 3\n"
    )
    with pytest.raises(ValueError, match="run card .*item.py: AttributeError"):
        config.load(tmp_path / "item.py")


@pytest.mark.parametrize("name", config.LEAST)
def test_too_small_is_refused(name):
    c = config.default()
    config.check(c)
    config.override(c, name, "-1")
    with pytest.raises(ValueError, match=f"{name} is -1; at least"):
        config.check(c)
