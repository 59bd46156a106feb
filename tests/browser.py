"""A headless Chromium for the slow tests of pages, installed beside the environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# A Chromium that is whole inside a package, with the libraries it needs; and what looks
# at a page as the guidelines for accessibility do.
PACKAGES = ("@sparticuz/chromium@147.0.0", "axe-core@4.14.1")

UNPACK = "import c from '@sparticuz/chromium'; console.log(await c.executablePath())"


@pytest.fixture(scope="session")
def browser_folder(tmp_path_factory) -> Path:
    """Playwright from pip; Chromium and axe-core from npm, which must be there."""
    folder = tmp_path_factory.mktemp("browser")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    pip += ["--disable-pip-version-check", "--target", str(folder / "python")]
    pip += ["--requirement", str(TESTS / "requirements-browser.txt")]
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    npm += ["--prefix", str(folder), *PACKAGES]
    for command in (pip, npm):
        subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="session")
def browser(browser_folder):
    """A running browser, as `playwright.sync_api.Browser`."""
    unpacked = browser_folder / "unpacked"
    unpacked.mkdir()
    # The package unpacks its libraries where it thinks that the machine has none.
    there = {"TMPDIR": str(unpacked), "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs20.x"}
    found = subprocess.run(
        ["node", "--input-type=module", "-e", UNPACK],
        cwd=browser_folder,
        env=os.environ | there,
        check=True,
        capture_output=True,
        text=True,
    )
    sys.path.append(str(browser_folder / "python"))
    from playwright.sync_api import sync_playwright

    libraries = str(unpacked / "al2023" / "lib")
    try:
        with sync_playwright() as playwright:
            running = playwright.chromium.launch(
                executable_path=found.stdout.strip(),
                args=["--no-sandbox", "--disable-gpu"],
                env=os.environ | {"LD_LIBRARY_PATH": libraries},
            )
            yield running
            running.close()
    finally:
        sys.path.remove(str(browser_folder / "python"))


@pytest.fixture(scope="session")
def axe(browser_folder) -> str:
    """The program of axe-core, to be run in a page: `axe.run()`."""
    return (browser_folder / "node_modules/axe-core/axe.min.js").read_text("utf-8")
