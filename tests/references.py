"""An environment with open_clip and torchvision, for the slow tests that need them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Run by Python at the start of a program whose path has it.
START = """\
import torchvision_operators

torchvision_operators.declare()
"""


def install(requirements: str, folder: Path) -> dict[str, str]:
    """Installs what a file of this folder lists beside the test environment.

    Returns:
      The environment variables of a program that can import it.
    """
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--no-warn-conflicts"),
            *("--target", str(folder), "--requirement", str(TESTS / requirements)),
        ],
        check=True,
    )
    paths = (str(folder), str(TESTS), str(TESTS.parent))
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture(scope="session")
def references(tmp_path_factory) -> dict[str, str]:
    """The environment variables of a program that can import `open_clip`, `torchvision`
    and what they need, at the versions of `requirements-references.txt`.

    They are installed beside the test environment, which most people's resembles: no
    torchvision, so that everything else is tested without it.
    """
    folder = tmp_path_factory.mktemp("references")
    environment = install("requirements-references.txt", folder)
    (folder / "sitecustomize.py").write_text(START)
    return environment
