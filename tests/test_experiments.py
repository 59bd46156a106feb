"""The papers' tables and figures, on small caches and through the command."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, silhouette_score

from item_jax import config as config_lib
from item_jax import experiments, testing
from item_jax.__main__ import main
from item_jax.cache import EmbeddingCache
from item_jax.datasets.dataset import RecordList
from item_jax.datasets.selection import of_split
from item_jax.embed import embed_records
from item_jax.experiments import _tables, artefact, drawing, output
from item_jax.experiments.artefact import AVERAGE, UNSEEN, Artefact
from item_jax.experiments.study import Missing, Need, Study, own_settings
from item_jax.workdir import Workdir

CAPTIONERS = {"captioner": {"id": "a"}, "grounder": {"id": "g"}}


@pytest.fixture(scope="module")
def c():
    c = config_lib.default()
    c.embed.batch_size = c.embed.text_batch_size = 32
    c.embed.threads = 2
    c.train.epochs = 2
    c.train.seeds = 2
    c.head.hidden_dim = 8
    c.paper.methods = ("item", "cosine")
    c.paper.columns = ("own",)
    c.paper.columns_3 = ("gan",)
    c.paper.training_sets = ("gan", "vae", "flow")
    c.paper.robustness = ("gan",)
    c.paper.tsne = ("vae",)
    c.paper.towers = ("RN50",)
    c.paper.windows, c.paper.window = ("gan", "vae", "flow"), 1
    return c


@pytest.fixture(scope="module")
def prepared(c, tiny_clip, tmp_path_factory):
    """A workdir with the main cache, and one of its test images perturbed."""
    from item_jax.towers.towers import load_towers

    towers = load_towers(tiny_clip[0])
    workdir = Workdir(tmp_path_factory.mktemp("study"))
    images = workdir.path / "images"
    records = testing.save_random_images(images, count=128)
    data = RecordList(records, images, CAPTIONERS)
    embed_records(data, towers, c, folder=workdir.cache())
    test = of_split(data, "test")
    noisy = c.copy_and_resolve_references()
    noisy.perturb.name, noisy.perturb.severity = "noise", 2
    embed_records(test, towers, noisy, folder=workdir.cache("whatever"))
    noisy.perturb.severity = 1
    noisy.data.max_objects = 1
    embed_records(test, towers, noisy, folder=workdir.cache("noise-1"))
    noisy.perturb.severity, noisy.data.max_objects = 3, 10
    fewer = RecordList(records[:40], images, CAPTIONERS)
    embed_records(fewer, towers, noisy, folder=workdir.cache("noise-3"))
    other = RecordList(records, images, CAPTIONERS | {"captioner": {"id": "b"}})
    embed_records(other, towers, c, folder=workdir.cache("other"))
    return workdir


@pytest.fixture(scope="module")
def study(prepared, c):
    return Study(prepared, c)


@pytest.fixture(scope="module")
def unequal(c, tiny_clip, tmp_path_factory):
    """A study of 16 real images that two generators share, and 8 fakes of each."""
    from item_jax.towers.towers import load_towers

    workdir = Workdir(tmp_path_factory.mktemp("unequal"))
    images = workdir.path / "images"
    test = defaultdict(list)
    records = []
    for record in testing.save_random_images(images, count=128):
        own = test[record.split, record.generator, record.label]
        own.append(record)
        if record.split != "test" or (
            record.generator == "gan" if record.label == "real" else len(own) % 2
        ):
            records.append(record)
    data = RecordList(records, images, CAPTIONERS | {"real_sources": {"vae": "gan"}})
    embed_records(data, load_towers(tiny_clip[0]), c, folder=workdir.cache())
    c = c.copy_and_resolve_references()
    c.train.generators = ("gan",)
    c.paper.methods = ("item", "constant")
    c.paper.columns = ("vae", "gan")
    return Study(workdir, c)


def cell_counts(found):
    return {r["column"]: (r["n_real"], r["n_fake"]) for r in found.rows}


def rows(found, **entries):
    return [r for r in found.rows if all(r[k] == v for k, v in entries.items())]


# ------------------------------------------------------------------ the papers' figures


@pytest.mark.parametrize("table", ["tables 1 and 2", "table 3"])
def test_the_papers_averages_are_those_of_their_cells(table):
    """To the digit they print; ITEM's Table III is .01 off for ITEM's own ACC."""
    cells = defaultdict(dict)
    for row in artefact.published(table):
        cells[row["paper"], row["method"]][row["column"]] = row
    assert len(cells) == (12 if table == "tables 1 and 2" else 9)
    for (_, method), row in cells.items():
        printed = row.pop(AVERAGE)
        count = 12 if table == "table 3" else 15 if method == "CLIP-Flow" else 16
        assert len(row) == count, method
        for figure in ("acc", "ap"):
            mean = np.mean([cell[figure] for cell in row.values()])
            off = 1.2e-4 if (table, method) == ("table 3", "ITEM") else 1e-4
            assert abs(mean - printed[figure]) < off, (method, figure, mean)


def test_columns_of_the_papers_are_generators_of_our_benchmarks():
    from item_jax.datasets import benchmarks

    known = {
        f"{name}/{generator}"
        for name in benchmarks.names()
        for generator in benchmarks.get(name).paper
    }
    columns = {
        row["column"]
        for table in ("tables 1 and 2", "table 3")
        for row in artefact.published(table)
    }
    assert columns - {AVERAGE} == known


# ------------------------------------------------------------------------------ figures


def test_a_table_has_the_figures_of_the_scores(study, c):
    found = experiments.get("table2").run(study)
    assert [r["column"] for r in rows(found, method="item")] == ["gan", "vae", AVERAGE]
    fitted = study.fit("item", "item")
    assert cell_counts(found) == {"gan": (16, 16), "vae": (16, 16), AVERAGE: (32, 32)}
    (part,) = [p for p in study.main.select(split="test", generators=["gan"])]
    by_hand = np.mean(
        [average_precision_score(part.labels, one.score(part)) for one in fitted]
    )
    (cell,) = rows(found, method="item", column="gan")
    assert cell["ap"] == pytest.approx(by_hand, abs=1e-12)
    assert cell["seeds"] == 2 and cell["n"] == len(part) == 32
    assert cell["interval_95"]["ap"][0] < cell["interval_95"]["ap"][1]
    (average,) = rows(found, method="item", column=AVERAGE)
    columns = [r["ap"] for r in rows(found, method="item") if r is not average]
    assert average["ap"] == pytest.approx(np.mean(columns)) and average["n"] == 64
    (other,) = rows(found, method="cosine", column="vae")
    assert other["difference"]["ap"]["to"] == "item" and other["seeds"] == 1
    assert other["captioner"] == "a" and "perturbation" in other
    assert "untested" in other["range"] and other["trained_on"] == ["gan", "vae"]


def test_a_table_keeps_to_its_columns_and_says_which_are_not_there(study, c):
    c3 = experiments.get("table3").run(study)
    assert {r["column"] for r in c3.rows} == {"gan", AVERAGE}
    (absent,) = c3.missing
    assert absent.what == "ResNet-50, Swin-T, Patchfor, F3Net, DIRE, CNNDet, UniFD, NPR"
    assert "--config.data.error_maps=MAPS" in absent.commands[0]
    methods = "--config.paper.methods=item,cosine,resnet50,swin_t,patchforensics,f3net,"
    assert methods in absent.commands[0]
    assert study.lacks("npr", study.main) is None
    assert "error maps for dire on embeddings/" in study.lacks("dire", study.main).what
    other = study.config.copy_and_resolve_references()
    other.paper.columns = ("gna", "vae")
    found = experiments.get("table1").run(Study(study.workdir, other))
    assert {r["column"] for r in found.rows} == {"vae", AVERAGE}
    assert found.missing[0].what == "test images of gna" and len(found.missing) == 2
    assert "Did you mean 'gan'?" in found.missing[0].why
    other.paper.start = ("npr=x.safetensors",)
    with pytest.raises(ValueError, match="'npr'; allowed: item, cosine"):
        Study(study.workdir, other)


@pytest.mark.slow
def test_ablations_are_those_fields_and_nothing_else(study):
    found = experiments.get("distances").run(study)
    assert [r["method"] for r in rows(found, column=AVERAGE)] == [
        *("both", "global", "local", "side by side")
    ]
    only = study.fit("item global", "item", {"misalignment.w2": 0.0})[0]
    assert only.state["misalignment"]["w2"] == 0
    assert only.state["misalignment"]["w1"] == 1
    image = experiments.get("modalities").run(study)
    assert {r["method"] for r in image.rows} == {
        *("image and text", "image only", "text only")
    }


@pytest.mark.slow
def test_training_sets_are_fitted_in_turn(study):
    found = experiments.get("training-sets").run(study)
    assert {(r["method"], *r["trained_on"]) for r in found.rows} == {
        ("trained on gan", "gan"),
        ("trained on vae", "vae"),
    }
    (missing,) = found.missing
    assert "flow" in missing.what and "allowed: gan, vae" in missing.why


@pytest.mark.slow
def test_windows_are_trained_on_the_past_and_tested_on_what_comes(study):
    windows = experiments.get("windows")
    found = windows.run(study)
    until = {(r["until"], *r["trained_on"]) for r in found.rows}
    assert until == {("until gan", "gan")}  # of vae's images there is no window after
    assert {r["period"]: r["tested"] for r in found.rows} == {
        **{"next": "vae", "past": "gan", "all": "gan, vae"}
    }
    (missing,) = found.missing
    assert missing.what == "test images of flow"
    item = study.fit("item until gan", "item", {"train.generators": ("gan",)})
    direct = study.evaluate({"item": item}, only=("vae",))["methods"]["item"]
    (row,) = rows(found, period="next")
    assert row["auc"] == direct["seeds"]["generators"]["vae"]["auc"]["mean"]
    assert "| real + fake | 16 + 16 or 32 + 32 |" in output.markdown("", found)
    one = study.config.copy_and_resolve_references()
    one.paper.window = 4
    (_, missing) = windows.run(Study(study.workdir, one)).missing
    assert "2 generators make one window of 4" in missing.why


@pytest.mark.slow
def test_methods_on_pixels_see_the_images_of_each_cache(prepared, c):
    from item_jax.datasets.dataset import RecordList

    images = prepared.path / "images"
    data = RecordList(testing.save_random_images(images, count=128), images, CAPTIONERS)
    other = c.copy_and_resolve_references()
    other.paper.methods = ("dct_spectrum",)
    study = Study(prepared, other, data=data)
    found = experiments.get("robustness").run(study)
    assert {r["condition"] for r in found.rows} == {"clean", "noise:2"}
    key = study.test_rows()[0]["key"]
    for need in experiments.get("robustness").needs(study)[1:2]:
        noisy = study.find(need)
        assert noisy.images.config.perturb.severity == 2
        assert (noisy.images(key) != study.main.images(key)).mean() > 0.5


def test_a_perturbed_cache_is_found_by_its_settings(study):
    found = experiments.get("robustness").run(study)
    assert {r["condition"] for r in found.rows} == {"clean", "noise:2"}
    clean, noisy = (
        rows(found, condition=name, method="item")[0] for name in ("clean", "noise:2")
    )
    assert clean["n"] == noisy["n"] == 32 and clean["ap"] != noisy["ap"]
    assert noisy["captions"] == "kept" and noisy["perturbation"] == "noise:2"
    # What the experiment varies is no surprise; anything else would be.
    assert not any("perturb" in warning for warning in noisy["warnings"])
    why = {m.what.split(" by ")[-1].split(",")[0]: m for m in found.missing}
    assert len(found.missing) == 8 + 1
    assert "data.max_objects is 1, in embeddings/ 10" in why["noise:1"].why
    assert "holds other test images" in why["noise:3"].why
    assert "there is no such cache" in why["jpeg:1"].why
    assert "--config.perturb.severity=1" in why["jpeg:1"].commands[0]


@pytest.mark.slow
def test_captioners_are_compared_in_training_and_in_the_test_alone(study, prepared):
    other = study.config.copy_and_resolve_references()
    need = Need("b", "captioner-b", {"captioner.id": "b"}, (), free=("captioner",))
    assert isinstance(study.find(need), EmbeddingCache)
    module = experiments.get("captioners")
    found = module.run(study)
    assert {r["method"] for r in found.rows} == {"a"}
    assert "paper.captioners" in found.missing[0].why
    (prepared.path / "b.jsonl").write_text(
        "".join(
            json.dumps({"key": r["key"], "label": r["label"], "caption": "x"}) + "\n"
            for r in study.test_rows()
        )
    )
    facts = CAPTIONERS | {"captioner": {"id": "b"}, "images": str(prepared.path)}
    (prepared.path / "b.run.json").write_text(
        json.dumps({"schema": "item-records/1"} | facts)
    )
    other.paper.captioners = (str(prepared.path / "b.jsonl"),)
    found = module.run(Study(prepared, other))
    assert [r["method"] for r in rows(found, column=AVERAGE)] == [
        *("a", "b", "a, tested with b")
    ]
    (transferred,) = rows(found, method="a, tested with b", column=AVERAGE)
    assert not any("captions of" in warning for warning in transferred["warnings"])
    assert not found.missing


@pytest.mark.slow
def test_other_towers_are_missing_with_their_command(study):
    found = experiments.get("towers").run(study)
    assert {r["method"] for r in found.rows} == {
        study.main.embedding["tower"]["name"].rstrip("/").rsplit("/")[-1]
    }
    (missing,) = found.missing
    assert missing.commands == (
        f"item-jax embed --workdir {study.workdir.path} --cache tower-RN50 "
        "--config.tower=RN50",
    )


@pytest.mark.slow
def test_tsne_draws_every_image_and_measures_the_space_it_draws(study, monkeypatch):
    found = experiments.get("tsne").run(study)
    assert [r["method"] for r in found.rows] == [
        *("ITEM's D", "TIDY's D", "image embedding")
    ]
    assert len(found.points) == 3 * 32
    assert sum(p["label"] == "fake" for p in found.points) == 3 * 16
    (part,) = study.main.select(split="test", generators=["vae"])
    unit = part.image_emb / np.linalg.norm(part.image_emb, axis=1, keepdims=True)
    assert found.rows[2]["silhouette"] == pytest.approx(
        silhouette_score(unit, part.labels, metric="cosine"), abs=1e-5
    )
    figure = drawing.scatter(found)
    assert [len(a.collections) for a in figure.axes] == [2, 2, 2]


# ---------------------------------------------------------------- chance and averages


def test_a_table_says_what_chance_gives(unequal):
    found = experiments.get("table1").run(unequal)
    assert found.figures == ("acc", "balanced_acc")
    assert cell_counts(found) == {
        **{"vae": (16, 8), "gan": (16, 8), AVERAGE: (16, 16), UNSEEN: (16, 8)}
    }
    assert all(r["chance"]["acc"] == pytest.approx(16 / 24) for r in found.rows)
    assert all(r["chance"]["ap"] == pytest.approx(8 / 24) for r in found.rows)
    for row in rows(found, method="constant"):
        assert row["acc"] == pytest.approx(row["chance"]["acc"])
        assert row["balanced_acc"] == 0.5
        assert row not in [artefact.best(found.rows, name) for name in found.figures]
    page = output.markdown("", found)
    assert "| majority class | 66.67 | 66.67 | 66.67 | 66.67 |" in page
    assert "| real + fake | 16 + 8 | 16 + 8 | 16 + 16 | 16 + 8 |" in page
    tex = output.latex("", found)
    assert r"chance & 50.00 & 50.00 & 50.00 & 50.00 \\" in tex
    assert r"real + fake & 16 + 8 & 16 + 8 & 16 + 16 & 16 + 8 \\" in tex
    axes = drawing.grid(found).axes
    for axis, chance in zip(axes, ("66.7", "50.0")):  # the last line of a grid
        assert [text.get_text() for text in axis.texts[-4:]] == [chance] * 4
    ticks = [label.get_text() for label in axes[0].get_xticklabels()]
    assert ticks == [
        *("vae\n16 + 8", "gan\n16 + 8", f"{AVERAGE}\n16 + 16", f"{UNSEEN}\n16 + 8")
    ]
    assert axes[0].get_yticklabels()[-1].get_text() == "majority class"


def test_trained_generators_are_outside_the_unseen_average(unequal):
    found = experiments.get("table2").run(unequal)
    assert [r["column"] for r in rows(found, method="item")] == [
        *("vae", "gan", AVERAGE, UNSEEN)
    ]
    vae, gan, average, unseen = rows(found, method="item")
    assert (vae["trained"], gan["trained"]) == (False, True)
    for name in ("acc", "ap", "ap_balanced", "auc"):
        assert unseen[name] == pytest.approx(vae[name], abs=1e-12)
        mean = (vae[name] + gan[name]) / 2
        assert average[name] == pytest.approx(mean, abs=1e-12)
    page = output.markdown("", found)
    assert (
        rf"{100 * gan['ap']:.2f}\* (" in page or rf"{100 * gan['ap']:.2f}**\* (" in page
    )
    assert rf"{100 * vae['ap']:.2f} (" in page or rf"{100 * vae['ap']:.2f}** (" in page


def test_balanced_ap_is_that_of_equal_classes(unequal):
    """scikit-learn with weights that make both classes count half."""
    found = experiments.get("table2").run(unequal)
    assert found.figures == ("ap", "ap_balanced")
    (cell,) = rows(found, method="item", column="vae")
    by_hand = []
    for one in unequal.fit("item", "item"):
        scored = [
            (row, p)
            for part in unequal.main.select(split="test")
            for row, p in zip(part.rows, one.score(part))
            if row["label"] == "real" or row["generator"] == "vae"
        ]
        labels = np.array([row["label"] == "fake" for row, _ in scored])
        weights = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum())
        own = [p for _, p in scored]
        by_hand.append(average_precision_score(labels, own, sample_weight=weights))
    assert cell["ap_balanced"] == pytest.approx(np.mean(by_hand), abs=1e-9)


@pytest.mark.parametrize("figure, chance", [("acc", 0.77), ("ap", 0.23), ("auc", 0.5)])
def test_nothing_at_chance_is_the_best(figure, chance):
    def row(name, value, low):
        ends = {figure: (low, value + 0.1)}
        own = {"method": name, figure: value, "interval_95": ends}
        return own | {"chance": {figure: chance}}

    lucky = row("lucky", chance + 0.05, chance - 0.01)
    good = row("good", chance + 0.04, chance + 0.01)
    blind = row("blind", chance, chance)
    assert artefact.best([lucky, blind], figure) is None
    assert artefact.best([lucky, good, blind], figure) is good
    assert artefact.best([good | {figure: None}, blind], figure) is None


def test_columns_are_in_the_papers_order():
    printed = [r["column"] for r in artefact.published("tables 1 and 2")]
    columns = [c for c in dict.fromkeys(printed) if c != AVERAGE]
    assert len(columns) == 16
    shuffled = [*sorted(columns), AVERAGE, UNSEEN]
    found = _tables.in_order(shuffled, ("forensynths", "unifd"))
    assert found == [*columns, AVERAGE, UNSEEN]
    # One benchmark in a cache: its generators go without its name.
    gans = [c.removeprefix("forensynths/") for c in columns if "forensynths" in c]
    assert _tables.in_order(sorted(gans), ("forensynths",)) == gans
    # What the papers do not have follows, as the configuration has it.
    found = _tables.in_order(["mine", "progan", "yours"], ("yours", "mine", "progan"))
    assert found == ["progan", "yours", "mine"]


def test_a_method_has_settings_of_its_own(unequal):
    names = ("item", "unifd")
    entries = ("unifd:train.batch_size=8", "unifd:train.learning_rate=0.1")
    found = own_settings(entries, names)
    fields = {"train.batch_size": "8", "train.learning_rate": "0.1"}
    assert found == {"unifd": fields}
    c = unequal.config.copy_and_resolve_references()
    c.paper.methods, c.paper.settings = names, entries
    study = Study(unequal.workdir, c)
    settings = study.fit("unifd", "unifd")[0].config["training"]["settings"]["train"]
    assert (settings["batch_size"], settings["learning_rate"]) == (8, 0.1)
    item = study.fit("item", "item")[0].config["training"]["settings"]["train"]
    assert item["batch_size"] == 128
    for entry, message in (
        ("unifd:train.batch_size", "not METHOD:FIELD=VALUE"),
        ("train.batch_size=8", "not METHOD:FIELD=VALUE"),
        ("npr:train.batch_size=8", "allowed: item, unifd"),
        ("unifd:train.batch_sise=8", "train.batch_size"),
        ("unifd:head.name=mlp", "does not use 'head.name'"),
        ("unifd:train.batch_size=many", "takes int values"),
    ):
        with pytest.raises(ValueError, match=message):
            c.paper.settings = (entry,)
            Study(unequal.workdir, c)


def test_what_an_experiment_varies_is_no_warning():
    from item_jax import settings

    stored = {"perturb": {"name": "none", "severity": 0}, "dtype": "float32"}
    stored |= {"captioner": None, "data": {"max_objects": 10}}
    found = {"perturb": {"name": "blur", "severity": 2}, "dtype": "bfloat16"}
    found |= {"captioner": {"id": "b"}, "data": {"max_objects": 10}}
    one = settings.but_for(("perturb.name",), found, stored)
    assert one["perturb"] == {"name": "none", "severity": 2}
    assert one["dtype"] == "bfloat16" and one["captioner"] == {"id": "b"}
    both = settings.but_for(("perturb", "captioner.id"), found, stored)
    assert both["perturb"] == stored["perturb"] and both["captioner"] is None
    assert found["perturb"]["name"] == "blur"


def test_a_perturbation_is_drawn_by_its_values(study):
    figure = drawing.severities(experiments.get("robustness").run(study))
    (axis,) = [axis for axis in figure.axes if axis.get_title() == "noise"]
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ["clean", "0.001", "0.005", "0.01"]
    assert "variance" in axis.get_xlabel() and "sigma" in axis.get_xlabel()
    names = axis.get_legend_handles_labels()[1]
    assert "chance" in names and "item" in names
    assert {text.get_text() for text in axis.texts} == {"item", "cosine"}


def test_a_single_line_says_that_nothing_is_compared(study):
    found = experiments.get("towers").run(study)
    name = rows(found, column=AVERAGE)[0]["method"]
    assert f"only one of the towers is here, {name}" in found.notes[0]
    (axis,) = drawing.dots(found).axes
    assert "nothing to compare" in axis.get_title()
    assert "chance" in axis.get_legend_handles_labels()[1]


# ------------------------------------------------------------------------------- output


def test_an_artefact_is_written_whole(tmp_path):
    row = {"acc": None, "auc": 0.5, "n": 4, "interval_95": {"ap": (0.25, 1.0)}}
    found = Artefact(
        [row | {"method": "a|b_c", "column": "gan", "ap": 0.5}],
        missing=[Missing("x", "it is not there", ("make x",))],
        published=artefact.published("table 3"),
    )
    module = experiments.get("table2")
    paths = output.write(tmp_path, "table2", module, found)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    page = (tmp_path / "table2.md").read_text()
    assert r"| a\|b_c | 50.00 (25.0-100.0) |" in page
    assert "- x: it is not there\n      make x" in page
    assert "| ITEM | 93.00 |" in page
    tex = (tmp_path / "table2.tex").read_text()
    assert r"a|b\_c & 50.00 {\scriptsize 25.0--100.0} \\" in tex
    content = json.loads((tmp_path / "table2.json").read_text())
    assert content["experiment"] == "table2" and len(content["rows"]) == 1
    with Image.open(tmp_path / "table2.png") as picture:
        assert picture.size[0] > 100
    output.write(tmp_path, "table2", module, Artefact([], missing=found.missing))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".md"]


def test_lines_of_a_picture_can_be_told_apart():
    styles = {tuple(drawing._style(k).values()) for k in range(21)}
    assert len(styles) == 21


@pytest.mark.slow
@pytest.mark.parametrize("name", experiments.NAMES)
def test_every_experiment_can_be_drawn(study, name):
    module = experiments.get(name)
    found = module.run(study)
    figure = module.draw(found)
    assert figure.axes
    assert output.markdown(module.TITLE, found).startswith(f"# {module.TITLE}")
    output.write(study.workdir.path / "written", name, module, found)
    title, again = output.read(study.workdir.path / "written" / f"{name}.json")
    assert title == module.TITLE
    assert json.dumps(vars(again), default=vars) == json.dumps(
        vars(found), default=vars
    )


# ------------------------------------------------------------------------ the command


@pytest.mark.slow
def test_the_command_uses_what_is_there(study, capsys):
    words = ["--workdir", str(study.workdir.path), "--no-embed"]
    words += ["--config.train.epochs=2", "--config.head.hidden_dim=8"]
    words += ["--config.train.seeds=2"]
    words += ["--config.paper.columns=gan", "--config.paper.methods=item"]
    assert main(["paper", "table1", *words]) == 0
    text = capsys.readouterr().out
    assert "experiments: 1 made, 1 with figures, 1 with something missing" in text
    content = json.loads(
        (study.workdir.results() / "paper/table1.json").read_text(encoding="utf-8")
    )
    assert {row["column"] for row in content["rows"]} == {"gan", AVERAGE}
    # A method that was fitted otherwise is not taken for this one.
    assert main(["paper", "table1", *words, "--config.train.epochs=3"]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, message",
    [
        (["tabel1"], "Did you mean 'table1'?"),
        (["all", "--config.tower=RN50"], "paper does not use 'tower'"),
        (["all", "--no-embed"], "no embedding cache"),
    ],
)
def test_the_command_refuses(words, message, tmp_path, capsys):
    assert main(["paper", *words, "--workdir", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def check_that_nothing_at_chance_is_first(folder):
    """The tables of the miniature: 500 real images that all families share, 150 fakes.

    By ACC a flow that calls nearly all of them real leads all that were trained, and
    calling all of them real beats it.
    """
    for name in ("table1", "table2", "table3"):
        content = json.loads((folder / f"{name}.json").read_text())
        assert {"balanced_acc", "ap_balanced"} & set(content["figures"])
        assert "constant" in {row["method"] for row in content["rows"]}
        for column in (AVERAGE, *({UNSEEN} if name != "table3" else ())):
            own = [r for r in content["rows"] if r["column"] == column]
            for figure in content["figures"]:
                best = artefact.best(own, figure)
                if figure == "acc":
                    assert best is None
                    continue
                first = max((r for r in own if r[figure]), key=lambda r: r[figure])
                assert first == best
                assert first["interval_95"][figure][0] > first["chance"][figure]
                assert first["method"] not in ("constant", "clip_flow", "nearest")
        lines = (folder / f"{name}.md").read_text().splitlines()
        assert not any("**" in line for line in lines if line.startswith("| constant"))
        assert not any("unifd did not learn" in line for line in lines)
    lines = (folder / "robustness.md").read_text().splitlines()
    assert not any("perturb" in line for line in lines if line.startswith("- warning"))


@pytest.mark.slow
def test_all_of_the_miniature_from_nothing(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "item_jax", "paper", "all"),
            *("--config=paper_miniature", "--workdir", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    check_that_nothing_at_chance_is_first(tmp_path / "results" / "paper")
    for name in experiments.NAMES:
        content = json.loads((tmp_path / f"results/paper/{name}.json").read_text())
        assert content["rows"], name
        assert (tmp_path / f"results/paper/{name}.png").stat().st_size > 10_000
        for row in content["rows"]:
            assert row["n"] > 0
            if name != "tsne":
                # The constant's equal scores rank nothing: it has no AP.
                no_ap = row["interval_95"]["ap"] is None
                assert no_ap == (row["method"] == "constant")
                assert row["protocol"] == "full"
                assert row["captioner"] and "toy world" in row["range"]
    assert Path(tmp_path / "paper/methods/item/config.json").is_file()
