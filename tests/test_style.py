"""What a machine can say about the code: lint, format, types, the size of files."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ("item_jax", "scripts", "tests", "configs")


def run(*words):
    done = subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_lint():
    run("ruff", "check", *CODE)


def test_format():
    run("ruff", "format", "--check", *CODE)


@pytest.mark.slow
def test_types():
    """As `[tool.mypy]` of pyproject.toml states."""
    run("mypy")


def test_files_can_be_read_in_one_sitting():
    long = {
        str(path.relative_to(ROOT)): count
        for folder in ("item_jax", "scripts")
        for path in (ROOT / folder).rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 420
    }
    assert not long
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_every_folder_that_a_stranger_enters_has_a_readme():
    for folder in (
        *("", "item_jax", "item_jax/towers", "item_jax/datasets", "item_jax/methods"),
        *("scripts", "colab"),
    ):
        assert (ROOT / folder / "README.md").is_file(), folder
