"""What many images cost: the page is what the program prints."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "scripts"


def run(*words):
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "scale.py"), *words],
        capture_output=True,
        text=True,
    )


def test_the_page_is_what_the_program_prints():
    """After new benchmark results: python scripts/scale.py > scripts/scale.md"""
    assert run().stdout == (SCRIPTS / "scale.md").read_text("utf-8")


def test_figures_follow_from_the_rates():
    def of(page, line):
        (row,) = re.findall(rf"^\| {re.escape(line)}.*\|$", page, re.MULTILINE)
        return [cell.strip() for cell in row.strip("|").split("|")]

    page = run("--images", "1e6", "--objects", "1", "--file", "PNG 256 x 256").stdout
    *_, cores, hours = of(page, "H100")
    rate = 0.4 * 989e12 / 162.03e9
    assert cores == str(-int(-rate / 2 // 288))
    assert hours == f"{1e6 * 2 / rate / 3600:.3g}"
    assert of(page, "image files")[1] == "108 GB"
    # Image and text, whole and one object, 768 float32 each, and a row of text.
    assert of(page, "cache")[1] == f"{(4 * 768 * 4 + 600) / 1000:.0f} GB"
    # Twice the views cost twice the hours.
    twice = run("--images", "1e6", "--objects", "3").stdout
    assert float(of(twice, "H100")[-1]) == float(f"{2e6 * 2 / rate / 3600:.3g}")


def test_a_wrong_number_is_an_error():
    done = run("--images", "0")
    assert done.returncode == 2 and "1 or more" in done.stderr
