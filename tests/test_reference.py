"""The reference of the package is made of its docstrings, without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

import item_jax

PROGRAM = Path(__file__).parent.parent / "scripts" / "reference.py"


@pytest.mark.slow
def test_every_public_name_has_its_page(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), "--out", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    pages = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.html")}
    modules = {name.partition(".")[0] for name in item_jax._PUBLIC.values()}
    for name in {*item_jax._MODULES, *modules}:
        assert f"item_jax/{name}.html" in pages
    page = (tmp_path / "item_jax" / "detector.html").read_text("utf-8")
    for text in ("ItemDetector", "Scores images", "from_pretrained", "caption_with"):
        assert text in page
    front = (tmp_path / "item_jax.html").read_text("utf-8")
    for name in item_jax._PUBLIC:
        assert name in front
