"""`ground.py`: captions in, boxes of their phrases out, and the way to embeddings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_sidecars
import numpy as np
import pytest
import torch
from PIL import Image

from item_jax import __main__ as door
from item_jax import files
from item_jax.cache import EmbeddingCache
from item_jax.files import write_json_lines
from item_sidecars import caption, ground
from item_sidecars.batches import AdapterError

ROOT = Path(__file__).parent.parent
DINOS = ("mm-grounding-dino", "grounding-dino")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Nine real files in the layout of a benchmark, one of them damaged."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(9):
        pixels = rng.integers(0, 256, (48 + 5 * i, 64, 3), dtype=np.uint8)
        path = root / "test" / "gan" / ("0_real", "1_fake")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels // (1 + i % 3)).save(path)
    damaged = root / "test" / "gan" / "0_real" / "4.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    return root


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


def rows(path):
    return [row for _, row in files.read_json_lines(path)]


# ------------------------------------------------------------------------ the program

CAPTIONS = {
    "0_real/0.png": ("A dog and a cat, and a dog.", ["A dog", "a dog", "a cat"]),
    "0_real/2.png": ("running. jumping", []),  # no phrase
    "0_real/4.png": (None, []),  # the damaged one
    "0_real/6.png": ("a woman. a man", ["man", "a woman"]),
    "0_real/8.png": ("two cats on a couch", ["two cats", "a couch"]),
    **{f"1_fake/{i}.png": ("the red ball", ["the red ball"]) for i in (1, 3, 5, 7)},
}


@pytest.fixture
def captioned(pictures, tmp_path):
    """captions.jsonl and a file of phrases for `pictures`."""
    captions, phrases = tmp_path / "captions.jsonl", tmp_path / "phrases.jsonl"
    lines, own = [], []
    for name, (text, wanted) in CAPTIONS.items():
        key = f"test/gan/{name}"
        status, error = ("done", None) if text else ("failed", "ImageError: damaged")
        lines.append({"key": key, "caption": text, "status": status, "error": error})
        own.append({"key": key, "phrases": wanted})
    write_json_lines(captions, lines)
    write_json_lines(phrases, own)
    return captions, phrases


def arguments(images, captions, out, *more):
    return ground.parser().parse_args(
        [
            *("--images", str(images), "--captions", str(captions), "--out", str(out)),
            *("--batch-size", "4", "--shard-size", "8", "--workers", "2", *more),
        ]
    )


def fake(pictures, captioned, out, *more):
    captions, phrases = captioned
    more = ("--grounder", "fake_sidecars", "--phrases", str(phrases), *more)
    return arguments(pictures, captions, out, *more)


def test_rows_of_the_grounder(pictures, captioned, tmp_path):
    assert ground.ground(fake(pictures, captioned, tmp_path / "out")) == 0
    found = {r["key"]: r for r in rows(tmp_path / "out" / "objects.jsonl")}
    assert len(found) == 9
    first = found["test/gan/0_real/0.png"]
    names = {"key", "sha256", "phrases", "objects", "status", "error"}
    assert set(first) == names and first["status"] == "done"
    # The phrase that occurs twice is there twice, with two places and a box each.
    assert [p["span"] for p in first["phrases"]] == [[0, 5], [21, 26], [10, 15]]
    assert [o["span"] for o in first["objects"]] == [[0, 5], [21, 26], [10, 15]]
    # "man" is not the one in "woman".
    other = found["test/gan/0_real/6.png"]
    assert [p["span"] for p in other["phrases"]] == [[11, 14], [0, 7]]
    none = found["test/gan/0_real/2.png"]
    assert (none["status"], none["phrases"], none["objects"]) == ("done", [], [])
    damaged = found["test/gan/0_real/4.png"]
    assert damaged["status"] == "failed" and "PNG" in damaged["error"]
    assert damaged["objects"] == [] and damaged["sha256"]


def test_images_without_a_caption_are_skipped(pictures, tmp_path):
    captions, phrases = tmp_path / "c.jsonl", tmp_path / "p.jsonl"
    keys = [f"test/gan/1_fake/{i}.png" for i in (1, 3, 5)]
    write_json_lines(
        captions,
        [
            {"key": keys[0], "caption": None, "status": "error", "error": "empty"},
            {"key": keys[1], "caption": " "},
            {"key": keys[2], "caption": "a dog", "sha256": "0" * 64},
        ],
    )
    write_json_lines(phrases, [{"key": k, "phrases": []} for k in keys])
    out = tmp_path / "out"
    assert ground.ground(fake(pictures, (captions, phrases), out)) == 0
    one, two, three = rows(out / "objects.jsonl")
    assert (one["status"], one["error"]) == ("skipped", "no caption: empty")
    assert two["status"] == "skipped"
    assert (
        three["status"] == "failed"
        and "not the one that was captioned" in (three["error"])
    )


def test_boxes_are_of_the_upright_picture(tmp_path):
    """The stub's box depends on which side is longer, as it sees the pixels."""
    root = tmp_path / "images"
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(root / "a.png", exif=exif)  # upright: 20 x 40
    captions, phrases = tmp_path / "c.jsonl", tmp_path / "p.jsonl"
    write_json_lines(captions, [{"key": "a.png", "caption": "a dog"}])
    write_json_lines(phrases, [{"key": "a.png", "phrases": ["a dog"]}])
    assert ground.ground(fake(root, (captions, phrases), tmp_path / "out")) == 0
    (row,) = rows(tmp_path / "out" / "objects.jsonl")
    assert row["objects"][0]["box"] == [0.25, 0.25, 1, 1]


def test_phrases_that_do_not_fit_fail_their_row_only(pictures, captioned, tmp_path):
    captions, phrases = captioned
    lines = rows(phrases)
    lines[0]["phrases"] = ["an elephant"]
    del lines[-1]
    write_json_lines(phrases, lines)
    assert ground.ground(fake(pictures, captioned, tmp_path / "out")) == 0
    found = {r["key"]: r for r in rows(tmp_path / "out" / "objects.jsonl")}
    assert "'an elephant' is not in" in found["test/gan/0_real/0.png"]["error"]
    assert "no line for this image" in found["test/gan/1_fake/7.png"]["error"]
    assert sum(r["status"] == "done" for r in found.values()) == 6


def test_noun_phrases_are_found_where_no_file_gives_them(
    pictures, captioned, tmp_path, monkeypatch
):
    tags = {"a": "DT", "the": "DT", "red": "JJ", "two": "CD", "on": "IN"}
    tags |= dict.fromkeys((".", ",", "and", "running", "jumping"), "X")

    def tagger(words):
        return [(w, tags.get(w, "NN")) for w in words]

    monkeypatch.setattr(ground.noun_phrases, "_perceptron", lambda nltk: tagger)
    out = tmp_path / "out"
    more = ("--grounder", "fake_sidecars", "--stop-list")
    assert ground.ground(arguments(pictures, captioned[0], out, *more)) == 0
    found = {r["key"]: r["phrases"] for r in rows(out / "objects.jsonl")}
    first = [(p["phrase"], p["span"]) for p in found["test/gan/0_real/0.png"]]
    assert first == [("A dog", [0, 5]), ("a cat", [10, 15]), ("a dog", [21, 26])]
    assert found["test/gan/0_real/2.png"] == []
    said = [p["phrase"] for p in found["test/gan/0_real/6.png"]]
    assert said == ["a woman", "a man"]
    source = json.loads((out / "run.json").read_text())["settings"]["noun_phrases"]
    assert source == {"phrases": "glip-nltk", "stop_list": True}


def test_a_second_detector_takes_the_phrases_of_the_first(
    pictures, captioned, tmp_path
):
    ground.ground(fake(pictures, captioned, tmp_path / "one"))
    first = tmp_path / "one" / "objects.jsonl"
    ground.ground(fake(pictures, (captioned[0], first), tmp_path / "two"))
    one, two = rows(first), rows(tmp_path / "two" / "objects.jsonl")
    assert [r["phrases"] for r in one] == [r["phrases"] for r in two]
    settings = json.loads((tmp_path / "two" / "run.json").read_text())["settings"]
    assert settings["noun_phrases"]["phrases"] == "file"
    # Other phrases are another run.
    with pytest.raises(ValueError, match="noun_phrases.sha256"):
        ground.ground(fake(pictures, captioned, tmp_path / "two"))
    with pytest.raises(ValueError, match="grounder.min_score is 0.05.*0.2 now"):
        ground.ground(fake(pictures, captioned, tmp_path / "one", "--min-score", "0.2"))


def test_boxes_are_of_the_pixels_that_were_captioned(pictures, tmp_path):
    out = tmp_path / "captions"
    caption.caption(
        caption.parser().parse_args(
            [
                *("--images", str(pictures), "--out", str(out), "--model", "m"),
                *("--captioner", "fake_sidecars", "--perturb", "noise:2"),
            ]
        )
    )
    captions, phrases = out / "captions.jsonl", tmp_path / "p.jsonl"
    keys = [r["key"] for r in rows(captions)]
    write_json_lines(phrases, [{"key": k, "phrases": ["corner"]} for k in keys])
    assert ground.ground(fake(pictures, (captions, phrases), tmp_path / "out")) == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["settings"]["perturbation"] == "noise:2"
    with pytest.raises(ValueError, match="'noise:2': captions and boxes must be"):
        ground.ground(fake(pictures, (captions, phrases), out, "--perturb", "jpeg:1"))
    # Captions and objects do not share a folder.
    with pytest.raises(ValueError, match="stage is 'caption' in its run.json"):
        ground.ground(fake(pictures, (captions, phrases), out, "--shard-size", "8"))


def test_bad_captions_are_named(pictures, tmp_path):
    path = tmp_path / "captions.jsonl"
    for lines, words in (
        ([], "has no captions"),
        ([{"caption": "x"}], "line 1: 'key' is missing"),
        ([{"key": "a", "caption": "x"}] * 2, "two rows with the key 'a'"),
    ):
        write_json_lines(path, lines)
        with pytest.raises(ValueError, match=words):
            ground.ground(arguments(pictures, path, tmp_path / "out"))


def test_unknown_grounders_are_named(pictures, captioned, tmp_path):
    for name, words in (
        ("grounding-dno", "Did you mean 'grounding-dino'"),
        ("json", "json has no 'Grounder'"),
    ):
        more = ("--grounder", name)
        with pytest.raises(ValueError, match=words):
            ground.ground(fake(pictures, captioned, tmp_path / "out", *more))


def test_the_canary_needs_a_sure_box(pictures, captioned, tmp_path, monkeypatch):
    bird = pictures / "test" / "gan" / "1_fake" / "1.png"
    more = ("--canary", f"{bird}=two cats")
    assert ground.ground(fake(pictures, captioned, tmp_path / "out", *more)) == 0
    monkeypatch.setattr(fake_sidecars.Grounder, "reader_threshold", 0.7)
    with pytest.raises(ValueError, match="should yield 'two cats' and yielded ''"):
        ground.ground(fake(pictures, captioned, tmp_path / "new", *more))


def test_ranks_and_merge(pictures, captioned, tmp_path):
    for rank in "10":
        more = ("--rank", rank, "--world-size", "2")
        ground.ground(fake(pictures, captioned, tmp_path / "two", *more))
    ground.ground(fake(pictures, captioned, tmp_path / "one"))
    one, two = (tmp_path / n / "objects.jsonl" for n in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    two.unlink()
    ground.ground(fake(pictures, captioned, tmp_path / "two", "--merge"))
    assert one.read_bytes() == two.read_bytes()


def test_captions_of_an_older_version_are_read(pictures, captioned, tmp_path):
    """Rows say ok and error there; ours say done and failed."""
    captions, _ = captioned
    ground.ground(fake(pictures, captioned, tmp_path / "new"))
    old = {"done": "ok", "failed": "error"}
    lines = [row | {"status": old[row["status"]]} for row in rows(captions)]
    write_json_lines(captions, lines)
    ground.ground(fake(pictures, captioned, tmp_path / "old"))
    new, old = (tmp_path / n / "objects.jsonl" for n in ("new", "old"))
    assert new.read_bytes() == old.read_bytes()


@pytest.mark.parametrize(
    "line, words",
    [
        ("[]", "line 2: expected a JSON object"),
        ("\xff", "line 2: not JSON"),
        ('{"key": 3}', "line 2: 'key' is 3; expected str"),
        ('{"key": "b", "caption": 3}', "line 2: 'caption' is 3; expected str or null"),
        ('{"key": "b", "sha256": []}', r"line 2: 'sha256' is \[\]"),
        ('{"key": "b", "status": "okay"}', "line 2: unknown status 'okay'.*mean 'ok'"),
        ('{"key": "b", "status": ["ok"]}', "line 2: unknown status"),
        ('{"key": "\\ud800"}', r"line 2: key '.ud800' is not valid Unicode"),
        ('{"key": "b", "caption": NaN}', "line 2: not JSON .NaN"),
    ],
)
def test_a_damaged_line_of_captions_is_named(pictures, tmp_path, line, words):
    """E4, E7: file, line and field, never a traceback."""
    path = tmp_path / "captions.jsonl"
    path.write_bytes(b'{"key": "a", "caption": "x"}\n' + line.encode("latin-1"))
    with pytest.raises(ValueError, match=f"captions.jsonl, {words}"):
        ground.ground(arguments(pictures, path, tmp_path / "out"))


def test_objects_are_no_captions(pictures, captioned, tmp_path):
    ground.ground(fake(pictures, captioned, tmp_path / "one"))
    objects = tmp_path / "one" / "objects.jsonl"
    with pytest.raises(ValueError, match="not a file of captions.*objects, phrases"):
        ground.ground(fake(pictures, (objects, captioned[1]), tmp_path / "two"))


def test_text_that_is_not_unicode_fails_its_row(pictures, captioned, tmp_path):
    """E4: a lone surrogate in a caption, a phrase or an error of the captioner."""
    captions, phrases = captioned
    lines, own = rows(captions), rows(phrases)
    lines[0]["caption"] = "a dog \ud800"
    own[1]["phrases"] = ["running \ud800"]
    lines[2] |= {"status": "failed", "error": "no \ud800"}
    for path, found in ((captions, lines), (phrases, own)):
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    assert ground.ground(fake(pictures, captioned, tmp_path / "out")) == 0
    found = {r["key"]: r for r in rows(tmp_path / "out" / "objects.jsonl")}
    first, second, third = (found[row["key"]] for row in lines[:3])
    assert first["status"] == "failed" and "not valid Unicode" in first["error"]
    assert second["status"] == "failed" and "is not in" in second["error"]
    assert third["status"] == "failed" and "PNG" in third["error"]  # damaged as well
    assert sum(r["status"] == "done" for r in found.values()) == 6
    assert "\\ud800" in (tmp_path / "out" / "objects.jsonl").read_bytes().decode()


@pytest.mark.parametrize(
    "text, words",
    [
        ("[]", "run.json: expected a JSON object"),
        ('{"settings": 3}', "run.json: 'settings' is not a JSON object"),
        ('{"settings": {"perturbation": 3}}', "run.json: 'settings.perturbation' is 3"),
        ('{"settings": {"perturbation": "blurr:2"}}', "blurr:2.*trust its module"),
        ('{"settings": {"perturbation": "own.module:f:2"}}', "trust its module"),
    ],
)
def test_a_damaged_run_of_the_captions_is_named(
    pictures, captioned, tmp_path, text, words
):
    """A file of others also names no module that is then imported."""
    captions, _ = captioned
    (captions.parent / "run.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        ground.ground(fake(pictures, captioned, tmp_path / "out"))


def test_the_old_name_of_the_option_is_refused(pictures, captioned, tmp_path):
    words = arguments(pictures, captioned[0], tmp_path, "--detector", "owlv2")
    with pytest.raises(ValueError, match="now called --grounder: --grounder owlv2"):
        ground.ground(words)


def test_options_without_effect_are_refused(pictures, captioned, tmp_path):
    with pytest.raises(ValueError, match="--stop-list has no effect"):
        ground.ground(fake(pictures, captioned, tmp_path, "--stop-list"))
    for score in ("nan", "-1", "2"):
        with pytest.raises(ValueError, match="--min-score .* is not in"):
            ground.ground(fake(pictures, captioned, tmp_path, "--min-score", score))


class WrongShape(fake_sidecars.Grounder):
    def ground(self, prepared, captions, phrases):
        return [(np.zeros((2, 4)), np.zeros((3, len(own)))) for own in phrases]


class OneShort(fake_sidecars.Grounder):
    def ground(self, prepared, captions, phrases):
        return super().ground(prepared, captions, phrases)[1:]


def test_a_grounder_comes_from_any_module(pictures, captioned, tmp_path):
    """Its default model is the first of its module's MODELS."""
    more = ("--grounder", "fake_sidecars:Grounder")
    assert ground.ground(fake(pictures, captioned, tmp_path / "out", *more)) == 0
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["grounder"]["id"] == "fake-tiny"
    assert run["grounder"]["adapter"] == "fake_sidecars:Grounder"
    assert run["grounder"]["reader_threshold"] == 0.3
    with pytest.raises(ValueError, match="lacks ground, reader_threshold"):
        more = ("--grounder", "fake_sidecars:Captioner")
        ground.ground(fake(pictures, captioned, tmp_path / "new", *more))


@pytest.mark.parametrize("name", ["WrongShape", "OneShort"])
def test_a_grounder_that_breaks_its_interface_stops_the_run(
    pictures, captioned, tmp_path, name
):
    more = ("--grounder", f"{__name__}:{name}")
    with pytest.raises(AdapterError, match=f"{name}.ground returned.*expected boxes"):
        ground.ground(fake(pictures, captioned, tmp_path, *more))


# -------------------------------------------------------- images to embeddings, whole


@pytest.mark.parametrize(
    "captioner, detector",
    [
        ("blip2", "mm-grounding-dino"),
        pytest.param("blip", "grounding-dino", marks=pytest.mark.slow),
        pytest.param("llava", "llmdet", marks=pytest.mark.slow),
        ("blip", "owlv2"),
    ],
)
def test_from_images_to_embeddings(
    checkpoints, pictures, tiny_clip, tmp_path, captioner, detector, capsys
):
    """caption.py, ground.py, item-jax index, item-jax embed, on one folder, offline."""
    captions, objects = tmp_path / "captions", tmp_path / "objects"
    words = caption.parser().parse_args(
        [
            *("--images", str(pictures), "--model", str(checkpoints(captioner))),
            *("--out", str(captions), "--batch-size", "4", "--shard-size", "8"),
        ]
    )
    assert caption.caption(words) == 0
    lines = rows(captions / "captions.jsonl")
    phrases = tmp_path / "phrases.jsonl"
    write_json_lines(
        phrases,
        [{"key": r["key"], "phrases": (r["caption"] or "").split()[:2]} for r in lines],
    )
    more = ("--grounder", detector, "--model", str(checkpoints(detector)))
    more = (*more, "--phrases", str(phrases), "--min-score", "0.01")
    text = captions / "captions.jsonl"
    assert ground.ground(arguments(pictures, text, objects, *more)) == 0
    said = rows(objects / "objects.jsonl")
    good = [r for r in said if r["status"] == "done"]
    assert len(good) >= 6 and any(len(r["objects"]) > 0 for r in good)
    for row in good:
        spans = [p["span"] for p in row["phrases"]]
        assert all(o["span"] in spans for o in row["objects"])

    capsys.readouterr()
    made = tmp_path / "records.jsonl"
    index = ["index", "--images", str(pictures), "--out", str(made)]
    index += ["--captions", str(text), "--objects", str(objects / "objects.jsonl")]
    assert door.main(index) == 0
    report = capsys.readouterr().out
    assert "9 images = " in report and "words on average" in report
    run = json.loads(made.with_suffix(".run.json").read_text())
    assert run["captioner"]["id"] == checkpoints(captioner).name
    assert run["grounder"]["id"] == checkpoints(detector).name

    embed = ["embed", "--workdir", str(tmp_path / "run"), "--config.embed.batch_size=8"]
    embed += [f"--config.data.records={made}", f"--config.tower={tiny_clip[0]}"]
    embed += ["--config.embed.text_batch_size=8", "--config.data.score_threshold=0.01"]
    assert door.main([*embed, "--config.data.min_object_pixels=1"]) == 1  # one failed
    cache = EmbeddingCache(tmp_path / "run" / "embeddings")
    counts = cache.counts()
    assert counts["in"] == 9 and counts["done"] == len(good)
    stored = sum(len(e.object_emb) for e, _ in cache)
    assert stored == sum(min(len(r["objects"]), 10) for r in good) > 0


def test_help_shows_an_example():
    for script, words in (
        ("ground.py", ("mm-grounding-dino", "torchrun --standalone", "glip-nltk")),
        ("compare_groundings.py", ("--threshold-a 0.5",)),
    ):
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script), "--help"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        for word in words:
            assert word in done.stdout
