"""The run loop of the sidecars: rows, bad images, memory, adapters, signals."""

import json
import os
import shutil
import signal
import subprocess
import sys

import fake_sidecars
import numpy as np
import pytest
from PIL import Image
from sidecar_program import (
    BATCH,
    ROOT,
    SHARD,
    arguments,
    environment,
    program,
    rows,
    run,
)

from item_jax.datasets import folder
from item_sidecars import caption, shards
from item_sidecars import run as sidecar
from item_sidecars.ranks import ranks

# ------------------------------------------------------------------------------ rows


def test_every_image_has_a_row(pictures, whole):
    found = rows(whole / "captions.jsonl")
    assert [r["key"] for r in found] == list(folder.tree(pictures).sizes)
    names = {"key", "sha256", "width", "height", "caption", "status", "error"}
    assert set(found[0]) == names
    by_key = {r["key"]: r for r in found}
    bad = by_key["0/020.png"]
    assert bad["status"] == "failed" and "PNG" in bad["error"]
    assert bad["caption"] is None and bad["width"] is None and bad["sha256"]
    empty = by_key["1/005.png"]
    assert empty["caption"] is None and "'a photo of'" in empty["error"]
    again = by_key["0/006.png"]
    assert again["retry_prompt"] == "a photo of" and again["caption"]
    refused = by_key["1/007.png"]
    assert refused["error"] == "ValueError: height must not be 13"
    assert sum(r["status"] == "done" for r in found) == 50
    # A caption is one line.
    assert all("\n" not in (r["caption"] or "") for r in found)


def test_a_damaged_image_leaves_its_neighbours_their_batch(pictures, whole, tmp_path):
    """A blank takes its slot: the others say what they say beside a black picture."""
    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    Image.new("RGB", (224, 224)).save(copy / "0" / "020.png")
    there = rows(run(copy, tmp_path / "out"))
    here = rows(whole / "captions.jsonl")
    different = [a["key"] for a, b in zip(here, there) if a != b]
    assert different == ["0/020.png"]


def test_pictures_are_upright(tmp_path):
    """Width, height and pixels are those after the EXIF orientation."""
    pixels = np.zeros((24, 20, 3), np.uint8)
    pixels[0, -1] = 10, 20, 30  # top right; top left after a quarter turn to the left
    picture = Image.fromarray(pixels)
    turned = tmp_path / "turned"
    turned.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 8
    picture.save(turned / "a.png", exif=exif)
    (row,) = rows(run(turned, tmp_path / "out"))
    assert (row["width"], row["height"]) == (24, 20)
    assert row["caption"].startswith("a 10-20-30 corner")


def test_perturbed_pictures_are_captioned(pictures, whole, tmp_path):
    out = run(pictures, tmp_path / "out", "--perturb", "blur:2")
    changed = rows(out)
    before = rows(whole / "captions.jsonl")
    assert [r["sha256"] for r in changed] == [r["sha256"] for r in before]
    assert changed[0]["caption"] != before[0]["caption"]
    assert shards.read_run(out.parent)["settings"]["perturbation"] == "blur:2"
    with pytest.raises(ValueError, match="unknown perturbation 'blurr'.*'blur'"):
        caption.caption(arguments(pictures, tmp_path / "new", "--perturb", "blurr:2"))


# ---------------------------------------------------------------- memory, canary, help


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize("most", [1, 2, 3])
def test_short_memory_halves_the_batch(
    pictures, whole, tmp_path, monkeypatch, most, capsys
):
    """The rows stay whole and in order; only what runs together shrinks."""
    sizes = []

    def caption_few(self, prepared, prompt=None):
        sizes.append(len(prepared))
        if len(prepared) > most:
            raise OutOfMemoryError("CUDA out of memory")
        return [f"{image.shape}" for image in prepared]

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", caption_few)
    found = rows(run(pictures, tmp_path / "out"))
    expected = rows(whole / "captions.jsonl")
    assert [r["key"] for r in found] == [r["key"] for r in expected]
    read = [r for r in found if r["status"] == "done"]
    assert all(r["caption"] == f"({r['height']}, {r['width']}, 3)" for r in read)
    assert max(sizes[sizes.index(2) :]) <= 2 and sizes[0] == 4
    assert "memory ran out" in capsys.readouterr().out


def test_no_memory_for_one_image_stops(pictures, tmp_path, monkeypatch):
    def never(self, prepared, prompt=None):
        raise OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", never)
    with pytest.raises(MemoryError, match="does not hold one image"):
        caption.caption(arguments(pictures, tmp_path / "out"))


def test_an_image_the_model_fails_on_fails_alone(
    pictures, whole, tmp_path, monkeypatch
):
    """Its neighbours run again with a blank in its place; a dead GPU stops all."""
    plain, asked = fake_sidecars.Captioner.caption, []

    def picky(self, prepared, prompt=None):
        asked.append(len(prepared))
        if any(image.shape[0] == 26 for image in prepared):
            raise RuntimeError("The size of tensor a (26) must match")
        return plain(self, prepared, prompt)

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", picky)
    found = rows(run(pictures, tmp_path / "out"))
    tall = {r["key"] for r in found if "tensor a (26)" in (r["error"] or "")}
    heights = {r["key"]: r["height"] for r in rows(whole / "captions.jsonl")}
    assert tall == {key for key, height in heights.items() if height == 26} != set()
    captions = [r["caption"] for r in found if r["status"] == "done"]
    batches = [c.split()[-1] for c in captions]
    # 14 batches of the grid, and the second try of the image without a caption.
    assert len(set(batches)) == 15 and asked[0] == 4

    def dead(self, prepared, prompt=None):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(fake_sidecars.Captioner, "caption", dead)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        caption.caption(arguments(pictures, tmp_path / "dead"))
    assert not list((tmp_path / "dead" / "parts").glob("*.jsonl"))


def test_the_canary_is_asked_first(pictures, tmp_path, capsys):
    bird = tmp_path / "bird.png"
    Image.new("RGB", (20, 20), (1, 2, 3)).save(bird)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="should yield 'cat' and yielded 'a 1-2-3"):
        caption.caption(arguments(pictures, out, "--canary", f"{bird}=cat"))
    assert not out.exists()
    with pytest.raises(ValueError, match="not FILE=WORD"):
        caption.caption(arguments(pictures, out, "--canary", "cat"))
    run(pictures, out, "--canary", f"{bird}=corner")
    assert "the canary yields" in capsys.readouterr().out


def test_errors_are_messages(pictures, tmp_path):
    def stderr(*more):
        done = subprocess.run(
            [*program(pictures, tmp_path / "out"), *more],
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr

    message = stderr("--images", "nowhere")
    assert "no folder" in message and "nowhere" in message
    assert "Did you mean 'blip2'?" in stderr("--captioner", "blip-2")
    assert "json has no 'Captioner'" in stderr("--captioner", "json")


def test_unusual_names_survive(tmp_path):
    """Decomposed, quoted and foreign names; the index finds the same keys."""
    root = tmp_path / "images"
    root.mkdir()
    picture = Image.new("RGB", (20, 20), (9, 9, 9))
    for name in ("cafe\u0301.png", 'a "b".png', "\u65e5\u672c.PNG", "x\u2028y.png"):
        picture.save(root / name, "PNG")
    (root / "note.txt").write_text("no image")
    found = rows(run(root, tmp_path / "out"))
    assert [r["key"] for r in found] == list(folder.tree(root).sizes)
    assert all(r["status"] == "done" for r in found) and len(found) == 4


# -------------------------------------------------------------------------- adapters


class Surrogate(fake_sidecars.Captioner):
    """Half of a surrogate pair, which is not valid Unicode."""

    def caption(self, prepared, prompt=None):
        return [
            "a \ud800 dog" if i == 1 else f"a dog {i}" for i in range(len(prepared))
        ]


class TooFew(fake_sidecars.Captioner):
    def caption(self, prepared, prompt=None):
        return ["a dog"] * (len(prepared) - 1)


class NotText(fake_sidecars.Captioner):
    def caption(self, prepared, prompt=None):
        return [None] * len(prepared)


def own_captioner(images, out, name):
    return caption.caption(arguments(images, out, "--captioner", f"{__name__}:{name}"))


def test_a_captioner_comes_from_any_module(pictures, whole, tmp_path):
    """package.module:Name of somebody else's; `fake_sidecars` is a bare module."""
    words = ("--captioner", "fake_sidecars:Captioner")
    found = run(pictures, tmp_path / "out", *words)
    assert found.read_bytes() == (whole / "captions.jsonl").read_bytes()
    with pytest.raises(ValueError, match="no 'Captionr'.*Did you mean 'Captioner'"):
        caption.caption(
            arguments(pictures, tmp_path, "--captioner", "fake_sidecars:Captionr")
        )
    with pytest.raises(ValueError, match="captioner .* lacks caption; a captioner has"):
        caption.caption(
            arguments(pictures, tmp_path, "--captioner", "fake_sidecars:Grounder")
        )
    with pytest.raises(ValueError, match="tried to import no.such: ModuleNotFound"):
        caption.caption(arguments(pictures, tmp_path, "--captioner", "no.such"))


def test_a_caption_that_is_not_unicode_fails_its_row(pictures, tmp_path):
    """E4: a lone surrogate stops nothing and reaches no file."""
    assert own_captioner(pictures, tmp_path, "Surrogate") == 0
    found = rows(tmp_path / "captions.jsonl")
    second = [r for i, r in enumerate(found) if i % SHARD % BATCH == 1]
    assert all("not valid Unicode" in r["error"] for r in second) and len(second) == 13
    assert sum(r["status"] == "failed" for r in found) == 13 + 2  # and two bad images
    json.dumps(found, ensure_ascii=False).encode()  # raises on half a surrogate pair


@pytest.mark.parametrize("name", ["TooFew", "NotText"])
def test_a_captioner_that_breaks_its_interface_stops_the_run(pictures, tmp_path, name):
    """Rows were once lost without a word when an adapter returned too few."""
    with pytest.raises(
        sidecar.AdapterError, match=f"{name}.caption returned.*4 images"
    ):
        own_captioner(pictures, tmp_path, name)
    assert not list((tmp_path / "parts").glob("*.jsonl"))


# -------------------------------------------------------------------------- signals


@pytest.mark.parametrize("name, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_end_with_a_message(pictures, whole, tmp_path, name, status):
    """E3; the same command then continues to the same bytes."""
    out = tmp_path / "out"
    # Tests that run in the background may have inherited that Ctrl-C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        program(pictures, out),
        env=environment(FAKE_SECONDS="0.3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert "53 images" in process.stdout.readline()
    process.send_signal(name)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert "stopped; the same command continues from here" in stderr
    assert "Traceback" not in stderr
    assert run(pictures, out).read_bytes() == (whole / "captions.jsonl").read_bytes()


def test_options_that_make_no_sense_are_refused(pictures, tmp_path, capsys):
    for more in (("--workers", "0"), ("--batch-size", "-1"), ("--shard-size", "x")):
        with pytest.raises(SystemExit) as stopped:
            arguments(pictures, tmp_path, *more)
        assert stopped.value.code == 2
        assert f"argument {more[0]}: invalid positive value" in capsys.readouterr().err
    with pytest.raises(ValueError, match="variable RANK is 'abc', not a number"):
        ranks({"RANK": "abc", "WORLD_SIZE": "2"})


# --------------------------------------------------------------------------- imports


def test_the_sidecars_load_no_jax():
    code = (
        "import caption, ground, compare_groundings\n"
        "import sys, item_sidecars.caption, item_sidecars.ground\n"
        "item_sidecars.caption.captioner_for('none')\n"
        "item_sidecars.ground.grounders()\n"
        "print(*sorted(sys.modules))"
    )
    path = os.pathsep.join((str(ROOT), str(ROOT / "scripts")))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "item_jax.records" in loaded
    # The environment of GLIP has none of these (scripts/requirements-glip.txt), or
    # they take seconds to import.
    absent = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "ml_collections"}
    absent |= {"absl", "etils", "safetensors", "sklearn", "tensorflow_datasets"}
    heavy = {"tensorflow", "torch", "transformers", "nltk", "matplotlib"}
    assert not loaded & (absent | heavy)
