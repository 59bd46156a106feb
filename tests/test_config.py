from pathlib import Path

import pytest

from item_jax import config

CARDS = sorted((Path(__file__).parent.parent / "configs").glob("[!_]*.py"))


def test_the_numbers_of_the_paper():
    c = config.default()
    assert (c.train.epochs, c.train.learning_rate, c.train.weight_decay) == (
        50,
        1e-3,
        1e-3,
    )
    assert (c.misalignment.w1, c.misalignment.w2) == (1.0, 1.0)
    assert c.train.threshold == 0.5
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
    with pytest.raises(ValueError) as refused:
        config.override(c, "head.hiden_dim", "3")
    assert str(refused.value) == (
        "unknown config field 'head.hiden_dim'. Did you mean 'head.hidden_dim'? Fields "
        "of 'head': head.name, head.hidden_dim; `item-jax config` prints all"
    )
    with pytest.raises(ValueError, match="zzz'. `item-jax config` prints all"):
        config.override(c, "zzz", "3")
    with pytest.raises(AttributeError, match="locked"):
        c.train.epoch = 3


def test_overrides_are_typed():
    c = config.default()
    config.override(c, "train.epochs", "3")
    config.override(c, "misalignment.w2", "0")
    config.override(c, "train.generators", "gan,vae")
    config.override(c, "train.baselines", "()")
    assert c.train.epochs == 3 and c.misalignment.w2 == 0.0
    assert c.train.generators == ("gan", "vae") and c.train.baselines == ()
    with pytest.raises(ValueError, match="takes int values such as 50, not 'many'"):
        config.override(c, "train.epochs", "many")


def test_a_missing_card_names_its_neighbours(tmp_path):
    (tmp_path / "item.py").write_text("")
    with pytest.raises(ValueError, match="Did you mean .*item.py"):
        config.load(tmp_path / "itm.py")
    (tmp_path / "none.py").write_text("def get_config():\n    return None\n")
    with pytest.raises(ValueError, match="must return an edited config.default"):
        config.load(tmp_path / "none.py")
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


@pytest.mark.parametrize(
    "name", [n for n, f in config.FIELDS.items() if f.least is not None]
)
def test_numbers_out_of_range_are_refused(name):
    c, field = config.default(), config.FIELDS[name]
    config.check(c)
    config.override(c, name, "-1")
    with pytest.raises(ValueError, match=f"{name} is -1.*; at least {field.least:g}"):
        config.check(c)
    if field.most is not None:
        config.override(c, name, str(int(field.most) + 1))
        with pytest.raises(ValueError, match=f"; at most {field.most:g}"):
            config.check(c)


def test_numbers_that_are_not_finite_are_refused():
    for value in ("nan", "inf"):
        c = config.default()
        config.override(c, "misalignment.w1", value)
        with pytest.raises(ValueError, match=f"misalignment.w1 is {value}; a finite"):
            config.check(c)


@pytest.mark.parametrize("name", [n for n, f in config.FIELDS.items() if f.choices])
def test_choices_are_refused_with_the_nearest(name):
    c, field = config.default(), config.FIELDS[name]
    config.override(c, name, field.choices[-1][:-1])
    with pytest.raises(ValueError, match=f"Did you mean '{field.choices[-1]}'"):
        config.check(c)
    config.override(c, name, "somebody.elses:thing")
    if field.outside:
        config.check(c)
    else:
        with pytest.raises(ValueError, match="allowed: "):
            config.check(c)


def test_the_choices_are_those_of_the_tables():
    from item_jax import heads, misalignment, perturb, protocol, sharding, shards, views
    from item_jax.towers import towers

    tables = {
        "dtype": towers.DTYPES,
        "views.geometry": views.GEOMETRIES,
        "views.object_crop": views.CROPS,
        "perturb.name": perturb.NAMES,
        "embed.mode": sharding.MODES,
        "embed.storage": shards.STORAGE,
        "misalignment.name": misalignment.MISALIGNMENTS,
        "misalignment.no_objects": misalignment.NO_OBJECTS,
        "head.name": heads.HEADS,
        "evaluate.protocol": protocol.PROTOCOLS,
    }
    for name, table in tables.items():
        assert set(config.FIELDS[name].choices) == set(table), name


def test_every_field_is_used_and_explained():
    for name, field in config.FIELDS.items():
        assert field.meaning
        users = [c for c in config.READS if c != "config" and config._reads(c, name)]
        assert users, f"no command uses {name}"


def test_unused_overrides_name_the_command_that_uses_them():
    with pytest.raises(
        ValueError,
        match="evaluate does not use 'misalignment.w2'; train, fit and paper do",
    ):
        config.refuse_unused("evaluate", ["evaluate.split", "misalignment.w2"])
    with pytest.raises(ValueError, match="train does not use 'dtype'; embed, "):
        config.refuse_unused("train", ["dtype"])


def test_renamed_fields_say_so():
    c = config.default()
    with pytest.raises(ValueError, match="is now 'train.threshold'"):
        config.override(c, "evaluate.threshold", "0.9")
    with pytest.raises(ValueError, match="'evaluate.bootstrap' is gone: .* leave it"):
        config.override(c, "evaluate.bootstrap", "2000")


def test_shipped_cards_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # not by a file that lies here
    assert config.shipped_cards().keys() == {p.stem for p in CARDS}
    assert config.load("tidy_vitl14").misalignment.name == "tidy"
    (tmp_path / "setup.py").touch()
    with pytest.raises(ValueError, match="Did you mean 'item_vitl14'") as refused:
        config.load("item_vitl41")
    assert "setup.py" not in str(refused.value), "a name, not a file, was asked for"
