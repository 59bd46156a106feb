"""Chat models whose processors need torchvision, which the test environment lacks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_captioners
import tiny_chat
from PIL import Image

from item_jax import installed
from item_sidecars import caption, models

TESTS = Path(__file__).parent
FAULT = "operator torchvision::nms does not exist"


# Where torchvision is installed, the processors of the other families load it too.
GROUPS = [*((name,) for name in tiny_chat.CHAT_MODELS), (*tiny_captioners.CAPTIONERS,)]


@pytest.mark.slow
@pytest.mark.parametrize("names", GROUPS, ids=lambda names: names[0])
def test_captions_are_those_of_unmodified_transformers(names, references):
    done = subprocess.run(
        [sys.executable, str(TESTS / "unmodified.py"), *names],
        env=references,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == list(names)
    for row in rows:
        for kind in ("plain", "noise"):
            said = row[kind]["ours, one by one"]
            assert len(said) == 4
            assert all(texts == said for texts in row[kind].values()), row
        assert len(set(row["noise"]["ours, one by one"])) > 1, "depends on the picture"
        assert len(row["bfloat16"]) == 1


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A torchvision that fails as one of another build than torch does."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise RuntimeError({FAULT!r})")
    about = tmp_path / "torchvision-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: torchvision\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.skipif(not installed.missing(["torchvision"]), reason="it is installed")
def test_torchvision_of_another_build_is_named(broken):
    words = rf"torchvision 0.1 does not work beside torch 2.*{FAULT}(?s:.*)reinstall"
    with pytest.raises(ValueError, match=words):
        models.require("transformers", "captions")
    fault = installed.pair_fault()
    assert fault and FAULT in fault and "pip install --force-reinstall torch" in fault


@pytest.mark.skipif(not installed.missing(["torchvision"]), reason="it is installed")
def test_a_processor_that_lacks_packages_names_the_extra(tmp_path):
    """SmolVLM's own message says torchvision, and num2words only after that."""
    model = tiny_captioners.llava(tmp_path)
    for path in model.glob("*.json"):
        path.write_text(path.read_text().replace("LlavaProcessor", "SmolVLMProcessor"))
    video = {"video_processor_type": "SmolVLMVideoProcessor"}
    (model / "video_preprocessor_config.json").write_text(json.dumps(video))
    words = ["--images", ".", "--out", "o", "--model", str(model)]
    words += ["--captioner", "chat"]
    named = r"without torchvision and num2words: pip install 'item-jax\[chat\]'"
    with pytest.raises(ValueError, match=named):
        caption.load_captioner(caption.parser().parse_args(words))


def test_no_torchvision_is_no_fault(monkeypatch):
    monkeypatch.setattr(installed, "missing", lambda names: ["torchvision"])
    assert installed.pair_fault() is None


@pytest.mark.slow
@pytest.mark.skipif(not installed.missing(["torchvision"]), reason="it is installed")
def test_programs_name_it_too(broken, tmp_path):
    """Without the message, even BLIP-2 "could not import module"."""
    environment = os.environ | {"PYTHONPATH": f"{broken}{os.pathsep}{TESTS.parent}"}
    model = tiny_captioners.blip2(tmp_path / "blip2")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    command = [sys.executable, str(TESTS.parent / "scripts/caption.py")]
    command += ["--images", str(tmp_path), "--model", str(model)]
    command += ["--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"({FAULT})" in done.stderr and "pip uninstall torchvision" in done.stderr
    command = [sys.executable, "-m", "item_jax", "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "captions (--caption-with): not ready, see torchvision below" in done.stdout
    assert "pip install --force-reinstall torch torchvision" in done.stdout
