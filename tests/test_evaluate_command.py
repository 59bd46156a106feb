"""What `item-jax evaluate` does with methods and scores that are broken or odd."""

import json
import os
import shutil

import pytest

from item_jax import files, results
from item_jax.__main__ import main
from item_jax.fitted import load_seeds

DONE = 1
"""Not 0: an image of the study has no embedding."""


@pytest.fixture
def study(evaluated, tmp_path, monkeypatch):
    """A workdir with a head and two baselines, which a test may break."""
    monkeypatch.setattr("item_jax.figures.save", lambda found, folder: [])
    path = tmp_path / "w"
    shutil.copytree(evaluated.path, path)
    shutil.rmtree(path / "results")
    return path


def evaluate(study, *words):
    return main(["evaluate", "--workdir", str(study), *words])


def missing(folder):
    (folder / "config.json").unlink()
    return "config.json is missing"


def dangling(folder):
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "moved")
    return "it is a link to nothing (" + str(folder.parent / "moved")


def dangling_file(folder):
    missing(folder)
    (folder / "config.json").symlink_to("gone.json")
    return "config.json is a link to nothing (gone.json)"


def loop(folder):
    shutil.rmtree(folder)
    folder.symlink_to(folder.name)
    return "it is a link to a loop"


def a_folder(folder):
    missing(folder)
    (folder / "config.json").mkdir()
    return "config.json is a folder"


def a_pipe(folder):
    missing(folder)
    os.mkfifo(folder / "config.json")
    return "config.json is not a regular file"


def a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")
    return "it is not a folder"


def a_bad_seed(folder):
    (folder / "seed-1").mkdir()
    return "seed-1: config.json is missing"


def seed_nowhere(folder):
    (folder / "seed-1").symlink_to("gone")
    return "seed-1: it is a link to nothing (gone)"


def seed_unnumbered(folder):
    (folder / "seed-old").mkdir()
    return "seed-old: expected seed-NUMBER"


def no_weights(folder):
    if not (folder / "weights.safetensors").exists():
        pytest.skip("it has none")
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").mkdir()
    return "weights.safetensors is a folder"


BREAK = [
    *(missing, dangling, dangling_file, loop, a_folder, a_pipe, a_file, a_bad_seed),
    *(seed_nowhere, seed_unnumbered, no_weights),
]


@pytest.mark.parametrize("damage", BREAK)
def test_a_broken_head_is_said_and_no_other_takes_its_place(study, damage, capsys):
    words = damage(study / "head")
    assert evaluate(study) == 2
    said = capsys.readouterr().err
    assert words in said and str(study / "head") in said and "--methods" in said
    assert not (study / "results").exists()
    assert evaluate(study, "--methods=cosine,constant") == DONE, "asked for, they are"


@pytest.mark.parametrize("damage", BREAK)
def test_another_broken_method_is_left_out_with_its_reason(study, damage, capsys):
    words = damage(study / "methods/cosine")
    assert evaluate(study) == DONE
    said = " ".join(capsys.readouterr().out.split())
    found = json.loads((study / "results/results.json").read_text())
    assert list(found["methods"]) == ["head", "constant"]
    (why,) = (w for w in found["warnings"] if w.startswith("left out: cosine: "))
    assert words in why and str(study / "methods/cosine") in why
    assert "warning: left out: cosine: " in said
    assert evaluate(study, "--methods=head,cosine") == 2, "it was asked for"
    assert words in capsys.readouterr().err


def test_what_is_no_method_is_none(study):
    (study / "methods/.cache").mkdir()
    (study / "methods/cosine.0f.partial").mkdir()
    assert evaluate(study) == DONE
    found = json.loads((study / "results/results.json").read_text())
    assert list(found["methods"]) == ["head", "cosine", "constant"]
    assert not [w for w in found["warnings"] if "left out" in w]


def test_what_calls_everything_real_does_not_come_first(study):
    shutil.rmtree(study / "head")
    assert evaluate(study) == DONE
    found = json.loads((study / "results/results.json").read_text())
    assert list(found["methods"]) == ["cosine", "constant"]
    assert found["method"] == "cosine"


def test_two_methods_of_one_name_are_refused(study, capsys):
    shutil.copytree(study / "head", study / "other/head")
    assert evaluate(study, f"--methods=head,{study / 'other/head'}") == 2
    assert "have the same name" in capsys.readouterr().err


def test_a_seed_that_is_gone_is_a_warning(study):
    for folder in (study / "head", study / "head/seed-1"):
        if folder.name == "seed-1":
            one = load_seeds(study / "head")[0]
            one.config["training"]["seed"] = 1
            one.save(folder)
        config = json.loads((folder / "config.json").read_text())
        config["training"]["settings"]["train"]["seeds"] = 3
        (folder / "config.json").write_text(json.dumps(config))
    assert evaluate(study) == DONE
    found = json.loads((study / "results/results.json").read_text())
    said = "head was fitted with 3 seeds, of which 2 are here"
    assert any(said in w for w in found["warnings"])


def test_report_goes_on_without_a_broken_method(study, capsys):
    assert evaluate(study) == DONE
    words = dangling(study / "methods/cosine")
    report = ["report", "--workdir", str(study), "--pictures", "3"]
    assert main(report) == 0
    assert "no evidence of cosine: " in (said := capsys.readouterr().out)
    assert words in said


def test_report_goes_on_with_a_method_on_pixels(study, evaluated, capsys):
    images = f"--config.data.images={evaluated.path / 'images'}"
    words = ["train", "--workdir", str(study), "--method", "dct_spectrum", images]
    assert main(words) == 0
    assert evaluate(study, images) == DONE
    report = ["report", "--workdir", str(study), "--pictures", "3"]
    assert main([*report, "--images", str(evaluated.path / "images")]) == 0
    said = capsys.readouterr().out
    assert "no evidence of dct_spectrum: it reads pixels" in said
    assert "3 of them with a picture" in said and "no evidence of head" not in said


@pytest.mark.parametrize("damage", ["missing", "nothing", "a loop", "a folder", "pipe"])
@pytest.mark.parametrize("name", ["scores.csv", "results.json"])
def test_report_says_what_a_file_of_results_is(evaluated, tmp_path, name, damage):
    shutil.copytree(evaluated.results(), tmp_path / "r")
    assert not files.what_is_wrong(tmp_path / "r" / name)
    with pytest.raises(
        ValueError, match=f"{name} is .*{broken(tmp_path / 'r' / name, damage)}"
    ):
        results.read(tmp_path / "r")


@pytest.mark.parametrize("damage", ["missing", "nothing", "a loop", "a folder", "pipe"])
def test_a_file_of_scores_that_is_none_is_said(study, tmp_path, damage, capsys):
    path = tmp_path / "x.csv"
    path.touch()
    words = broken(path, damage)
    assert evaluate(study, "--scores", f"x={path}") == 2
    said = capsys.readouterr().err
    assert f"no file of scores {path}: it is " in said and words in said


def broken(path, damage):
    path.unlink()
    if damage in ("nothing", "a loop"):
        path.symlink_to("gone" if damage == "nothing" else path.name)
    elif damage == "a folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
        return "not a regular file"
    return damage
