import csv
import dataclasses
import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluations import HOSTILE, enlarged, write_experiments
from PIL import Image

from item_jax import figures, gallery, plots, report, report_tables, results
from item_jax.__main__ import main


@pytest.fixture(scope="module")
def found(evaluated):
    return results.read(evaluated.results())


def block(page):
    """The JSON block of a page."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)<', page)
    return json.loads(text)


class Tags(html.parser.HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


# ------------------------------------------------------------- reading what was written


def test_results_are_read_back_as_they_were(found, evaluated):
    summary = json.loads((evaluated.results() / "results.json").read_text())
    assert found.summary == summary
    assert list(found.scores) == ["head", "constant", "cosine"]
    assert len(found.rows) == 12 and set(found.groups) == {"gan", "vae"}
    for name, index in found.groups.items():
        own = summary["methods"]["head"]["generators"][name]
        fake = found.scores["head"][index] > 0.5
        assert len(index) == own["n"]
        assert (fake == found.labels[index]).mean() == pytest.approx(own["acc"])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda t: t.replace("p_fake_cosine", "x"), "no column 'p_fake_cosine'"),
        (lambda t: re.sub(r"[\d.]+,(real|fake),", r"nan,\1,", t, count=1), "p_fake is"),
        (lambda t: "\n".join(t.split("\n")[:5]) + "\n", "has 4 scored images"),
    ],
)
def test_a_damaged_table_is_refused(found, evaluated, tmp_path, damage, message):
    text = (evaluated.results() / "scores.csv").read_text()
    (tmp_path / "scores.csv").write_text(damage(text))
    summary = (evaluated.results() / "results.json").read_text()
    (tmp_path / "results.json").write_text(summary)
    with pytest.raises(ValueError, match=message):
        results.read(tmp_path)


# ------------------------------------------------------------------------- the figures


def test_the_mean_of_curves_has_the_mean_area(found):
    large = enlarged(found, 4000)
    summary = json.loads(json.dumps(found.summary))
    drawn = figures.mean_curves(dataclasses.replace(large, summary=summary))
    from sklearn.metrics import average_precision_score, roc_auc_score

    for figure, name, score in (
        (drawn["methods_roc"], "auc", roc_auc_score),
        (drawn["methods_precision_recall"], "ap", average_precision_score),
    ):
        (axis,) = figure.axes
        lines = {
            line.get_label(): line.get_data()
            for line in axis.get_lines()
            if not line.get_label().startswith("_")
        }
        methods = ("head", "cosine")  # constant tells nothing
        told = [f"{m}, {summary['methods'][m]['macro'][name]:.3f}" for m in methods]
        assert set(lines) == {"chance", *told}, "the figures of the tables"
        for method, label in zip(methods, told):
            x, y = lines[label]
            expected = np.mean(
                [
                    score(large.labels[i], large.scores[method][i])
                    for i in large.groups.values()
                ]
            )
            assert np.trapezoid(y, x) == pytest.approx(expected, abs=0.005)
        # The legend stands below the curves, not across them.
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend.get_window_extent().y1 <= axis.get_window_extent().y0


@pytest.mark.slow
def test_evaluate_draws_its_figures(found, tmp_path):
    written = figures.save(found, tmp_path)
    names = ["auc", "roc", "precision_recall", "methods_roc"]
    names += ["methods_precision_recall", "reliability", "cosines"]
    assert [p.name for p in written] == [f"{name}.png" for name in names]
    for path in written:
        with Image.open(path) as picture:
            assert min(picture.size) > 200 and picture.getextrema()[0][0] < 50


def test_many_generators_are_drawn_sideways_and_dollars_are_no_formula(found):
    summary = json.loads(json.dumps(found.summary))
    for method in summary["methods"].values():
        own = method["generators"]["gan"]
        method["generators"] = {f"gan $x_{k}": own for k in range(20)}
    summary["generators"] = summary["methods"]["head"]["generators"]
    figure = plots.auc_bars(summary)
    assert figure.get_size_inches()[0] < 8 < figure.get_size_inches()[1]
    figure.draw_without_rendering()
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[0] == r"gan \$x_0 (3 + 3)" and len(names) == 20


# ------------------------------------------------------------------------- the gallery


def test_the_surest_of_each_kind_are_chosen(found):
    large = enlarged(found, 1000)
    chosen = gallery.choose(large, 100)
    assert len(chosen) == len(set(chosen)) == 100
    p, y = large.scores["head"], large.labels
    threshold = large.summary["methods"]["head"]["threshold"]
    sure = gallery.sureness(p, threshold)
    wrong = (p > threshold) != (y == 1)
    errors = np.flatnonzero(wrong)
    surest = errors[np.argsort(-sure[errors], kind="stable")][: gallery.FIRST]
    assert set(surest) <= set(chosen)
    assert set(np.argsort(sure, kind="stable")[: gallery.FIRST]) <= set(chosen)
    assert gallery.choose(large, 0) == []


def test_scores_are_rounded_but_never_across_the_threshold():
    p = np.array([0.5 + 1e-9, 0.5, 0.5 - 1e-9, 0.12345678])
    rounded = gallery._rounded(p, 0.5)
    assert ((rounded > 0.5) == (p > 0.5)).all()
    assert rounded[3] == 0.123457


def test_a_picture_is_small_and_upright(tmp_path):
    wide = Image.fromarray(np.full((300, 900, 3), 90, np.uint8))
    exif = wide.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    wide.save(tmp_path / "x.jpg", exif=exif)
    jpeg, size = gallery.thumbnail((tmp_path / "x.jpg").read_bytes())
    assert size == (gallery.SIDE // 3, gallery.SIDE) and jpeg[:2] == b"\xff\xd8"


def test_the_command_shows_pictures_boxes_and_effects(evaluated, tmp_path, capsys):
    out = tmp_path / "r.html"
    command = ["report", "--workdir", str(evaluated.path), "--out", str(out)]
    images = evaluated.path / "images"
    assert main([*command, "--images", str(images)]) == 0
    assert "12 images, 12 of them with a picture" in capsys.readouterr().out
    data = block(out.read_text("utf-8"))
    with open(evaluated.results() / "scores.csv", newline="") as f:
        rows = [row for row in csv.DictReader(f) if row["status"] == "done"]
    assert data["keys"] == [row["key"] for row in rows]
    assert [m["name"] for m in data["methods"]] == ["head", "constant", "cosine"]

    from item_jax.cache import EmbeddingCache
    from item_jax.fitted import FittedMethod

    head = FittedMethod.load(evaluated.method())
    part = next(
        p
        for p in EmbeddingCache(evaluated.cache()).select(split="test")
        if np.diff(p.object_offsets).max() > 1
    )
    k = int(np.diff(part.object_offsets).argmax())
    i = data["keys"].index(part.rows[k]["key"])
    picture = data["pictures"][str(i)]
    start, end = part.object_offsets[k : k + 2]
    assert len(picture["objects"]) == end - start > 1
    without = part.variants([k], [np.arange(start + 1, end)])
    evidence = picture["evidence"]["0"]
    assert evidence["without"][0] == pytest.approx(head.score(without)[0], abs=1e-5)
    assert evidence["score"] == pytest.approx(float(rows[i]["p_fake"]), abs=1e-5)
    assert picture["image"] and picture["width"] > 1


@pytest.mark.slow
def test_what_is_missing_is_said_in_the_report(evaluated, tmp_path, capsys):
    """No images where the records say, a method fitted again, no cache."""
    import shutil

    shutil.copytree(evaluated.path, tmp_path / "w")
    shutil.rmtree(tmp_path / "w/images")
    config = json.loads((tmp_path / "w/head/config.json").read_text())
    config["training"]["seed"] += 1
    (tmp_path / "w/head/config.json").write_text(json.dumps(config))
    assert main(["report", "--workdir", str(tmp_path / "w")]) == 0
    said = capsys.readouterr().out
    assert "no pictures: " in said and "no evidence of head: " in said
    page = (tmp_path / "w/results/report.html").read_text("utf-8")
    assert "no pictures: " in page and "no evidence of head: " in page
    shutil.rmtree(tmp_path / "w/embeddings")
    assert main(["report", "--workdir", str(tmp_path / "w"), "--pictures", "3"]) == 0
    assert "no evidence, no boxes: no embedding cache" in capsys.readouterr().out


def test_a_cache_of_other_numbers_is_refused(found, evaluated):
    from item_jax.cache import EmbeddingCache
    from item_jax.fitted import FittedMethod

    wrong = found.scores | {"head": 1 - found.scores["head"]}
    with pytest.raises(ValueError, match="they are of other embeddings"):
        gallery.pictures(
            dataclasses.replace(found, scores=wrong),
            [0],
            cache=EmbeddingCache(evaluated.cache()),
            fitted={"head": FittedMethod.load(evaluated.method())},
        )


# ---------------------------------------------------------------------------- the page


def hostile(found):
    """Hostile text wherever others may write."""
    large = enlarged(found, 50)
    text = json.dumps(found.summary)
    summary = json.loads(text.replace('"gan"', json.dumps(HOSTILE)))
    summary["methods"][HOSTILE] = summary["methods"].pop("cosine")
    summary["warnings"] = [HOSTILE]
    summary["failures"] = [{"key": HOSTILE, "error": HOSTILE}]
    summary["embedding"]["captioner"] = {"id": HOSTILE}
    rows = [
        row | {"generator": HOSTILE if row["generator"] == "gan" else "vae"}
        for row in large.rows
    ]
    scores = {
        HOSTILE if name == "cosine" else name: own for name, own in large.scores.items()
    }
    return dataclasses.replace(
        large,
        summary=summary,
        rows=rows,
        groups={HOSTILE: large.groups["gan"], "vae": large.groups["vae"]},
        scores=scores,
        seeds={name: [own] for name, own in scores.items()},
    )


def test_hostile_text_stays_text_and_nothing_is_fetched(found, tmp_path):
    path = tmp_path / "r.html"
    audit = {"generators": {}, "warnings": [HOSTILE]}
    report.write(path, hostile(found), title=HOSTILE, audit=audit, notes=[HOSTILE])
    page = path.read_text("utf-8")
    tags = Tags(page).found
    assert [tag for tag, _ in tags].count("script") == 2
    assert not [a for _, a in tags if any(n.startswith("on") for n in a)]
    assert not [tag for tag, _ in tags if tag in ("img", "link", "iframe", "object")]
    for _, attributes in tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), attributes
    assert "\u202e" not in page
    data = block(page)
    assert data["captions"][0] == HOSTILE.replace("\u202e", "\\u202e")
    assert "$title" not in page and "$x^" in page, "nothing is substituted twice"


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes(found, tmp_path):
    for name in ("a", "b"):
        report.write(tmp_path / name, found)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_tables_show_the_figures_of_the_results(found):
    text = report_tables.generators(found.summary)
    for name, own in found.summary["generators"].items():
        low, high = (100 * end for end in own["interval_95"]["auc"])
        shown = f"{100 * own['auc']:.2f} <small>{low:.1f} to {high:.1f}</small>"
        assert name in text and shown in text
    text = report_tables.methods(found.summary)
    own = found.summary["methods"]["cosine"]["difference"]["macro"]["auc"]
    assert f"{100 * own['value']:+.2f} <small>" in text
    for name, start in (("head", "ITEM: an MLP on"), ("cosine", "Logistic regression")):
        assert f"<li><strong>{name}</strong>: {start}" in text
    assert "gone.png" in report_tables.failures(found.summary)
    assert found.summary["methods"]["head"]["range"]["text"] in report_tables.use(
        found.summary
    ).replace("&#x27;", "'")


@pytest.mark.slow
def test_an_audit_is_shown_and_another_file_refused(found, tmp_path, capsys, evaluated):
    images = evaluated.path / "images"
    audit = tmp_path / "audit.json"
    main(["audit", str(images), "--json", str(audit)])
    assert audit.is_file()
    out = tmp_path / "r.html"
    command = ["report", "--workdir", str(evaluated.path), "--out", str(out)]
    command += ["--pictures", "0", "--audit"]
    assert main([*command, str(audit)]) == 0
    assert "What the files give away" in out.read_text("utf-8")
    capsys.readouterr()
    (tmp_path / "x.json").write_text('{"generators": 3, "warnings": []}')
    assert main([*command, str(tmp_path / "x.json")]) == 2
    assert "not what `item-jax audit --json` writes" in capsys.readouterr().err


GATE = Path(__file__).parent.parent / "scripts" / "miniature" / "gate.json"


@pytest.mark.slow
def test_experiments_and_gate_are_shown(evaluated, tmp_path, capsys):
    """What `item-jax paper` drew; a file of an earlier version is a warning."""
    workdir = tmp_path / "w"
    shutil.copytree(evaluated.results(), workdir / "results")
    folder = workdir / "results" / "paper"
    titles = write_experiments(folder)
    (folder / "towers.json").write_text('{"schema": "item-paper/1", "rows": []}')
    words = ["report", "--workdir", str(workdir), "--pictures", "0"]
    assert main([*words, "--gate", str(GATE)]) == 0
    assert "towers.json: of an earlier version" in capsys.readouterr().out
    page = (workdir / "results" / "report.html").read_text("utf-8")
    tags = Tags(page).found
    labels = [a.get("aria-label") for tag, a in tags if tag == "svg"]
    assert [label for label in labels if label in titles] == titles
    assert "missing: captions made again: there are none" in page
    assert "hacked=1</script>" not in page.split('id="data"')[0]
    gate = json.loads(GATE.read_text())
    assert page.count('<td class="text">holds</td>') == sum(
        family["holds"] for family in gate["families"].values()
    )
    assert main([*words, "--gate", str(evaluated.results() / "results.json")]) == 2
    assert "not what scripts/miniature/gate.py writes" in capsys.readouterr().err
