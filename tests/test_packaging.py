"""What an installation contains: every package, the run cards, the assets."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
# Packages whose folder has another name.
MAPPED = {"item_jax.configs": "configs", "item_sidecars": "scripts/sidecars"}


def on_disk(folder, name):
    """The packages below a folder, as setuptools names them."""
    found = {p.parent for p in folder.rglob("__init__.py")}
    parts = [p.relative_to(folder).parts for p in found]
    return {".".join((name, *inner)) for inner in parts}


def test_every_package_is_listed():
    expected = on_disk(ROOT / "item_jax", "item_jax") | {"item_jax.configs"}
    expected |= on_disk(ROOT / "scripts" / "sidecars", "item_sidecars")
    assert set(SETUPTOOLS["packages"]) == expected
    assert SETUPTOOLS["package-dir"] == MAPPED


def test_the_checkout_needs_no_installation(tmp_path):
    """The programs run where only item_jax is importable."""
    for script in ("caption.py", "ground.py", "compare_groundings.py"):
        done = subprocess.run(
            [sys.executable, "-S", str(ROOT / "scripts" / script), "--help"],
            # -S and this path: our packages of this checkout, everything else of the
            # environment, and no editable installation that knows item_sidecars.
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), *site_packages()])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def site_packages():
    return [p for p in sys.path if p.endswith("site-packages")]


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path):
    """Built from a copy, with the setuptools of this environment."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path / "source"
    for name in ("item_jax", "configs", "scripts/sidecars"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps"]
    command += ["--no-build-isolation", "--no-cache-dir", "-w", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("item_jax-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for source, target in (("configs", "item_jax/configs"), ("item_jax", "item_jax")):
        for path in (ROOT / source).rglob("*.py"):
            assert f"{target}/{path.relative_to(ROOT / source)}" in names
    for path in (ROOT / "scripts" / "sidecars").rglob("*.py"):
        inner = path.relative_to(ROOT / "scripts" / "sidecars")
        assert f"item_sidecars/{inner}" in names
    assets = ("miniature.zip", "report.html", "report.css", "report.js")
    assert {"item_jax/py.typed", *(f"item_jax/assets/{a}" for a in assets)} <= names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"item_jax", "item_sidecars"}
