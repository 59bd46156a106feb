"""The page to drop an image on, in a real browser."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import references

from item_jax import ItemDetector, app, evidence
from item_jax.__main__ import main
from item_jax.records import Object
from item_jax.sidecar_runs import Request

README = Path(__file__).parent.parent / "item_jax" / "README.md"


@pytest.fixture(scope="module")
def gradio(tmp_path_factory):
    """The environment of a program that can import Gradio."""
    folder = tmp_path_factory.mktemp("gradio")
    return references.install("requirements-demo.txt", folder)


@pytest.fixture(scope="module")
def running(evaluated, gradio, tmp_path_factory):
    """The page's address, from the command line."""
    words = ["-u", "-m", "item_jax", "app", "--head", evaluated.method()]
    home = tmp_path_factory.mktemp("home")
    with subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=gradio | {"HOME": str(home), "GRADIO_TEMP_DIR": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            line = program.stdout.readline()
            yield re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        finally:
            program.terminate()


@pytest.mark.slow
def test_an_image_is_judged_in_the_browser(running, browser, evaluated):
    """As the detector judges it; everything comes from this machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(180_000)  # the first verdict compiles the towers
    said, asked = [], set()
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda r: asked.add(r.url.split("/")[2]) if r.url[:4] == "http" else 0,
    )
    page.goto(running)
    image = next(iter((evaluated.path / "images" / "test").rglob("*.png")))
    detector = ItemDetector.from_pretrained(evaluated.method())
    page.get_by_text(detector.method.range()["text"]).wait_for()

    page.get_by_role("button", name="Judge").click()
    page.get_by_text("drop an image first").wait_for()
    page.set_input_files("input[type=file]", str(image))
    page.locator(".image-frame img").wait_for()
    caption = page.get_by_label("Caption")
    caption.fill("a <b>red</b> car")
    page.get_by_role("button", name="Judge").click()
    page.locator(".verdict").wait_for()
    (expected,) = detector.explain(image, captions=["a <b>red</b> car"])
    p = expected.prediction
    shown = page.locator(".verdict").inner_text()
    assert shown == f"{p.verdict}, P(fake) = {p.p_fake:.3f}"
    page.locator(".image-frame img").nth(1).wait_for()
    assert page.get_by_text(f"{p.p_fake:.3f}", exact=True).count()
    context.close()
    assert not said
    assert asked <= {running.split("/")[2]}


@pytest.mark.slow
def test_a_space_is_the_lines_of_the_readme(evaluated, gradio, tmp_path):
    """They make the page; here without a captioner, and without waiting."""
    (lines,) = re.findall(
        r"```python\n(from item_jax import app.*?)```", README.read_text(), re.S
    )
    lines = lines.replace('"run/head"', repr(str(evaluated.method())))
    lines = re.sub(r", caption_with=.*?\)", ")", lines)
    lines = lines.replace("launch()", "launch(prevent_thread_lock=True)")
    done = subprocess.run(
        [sys.executable, "-c", lines],
        env=gradio | {"HOME": str(tmp_path), "GRADIO_TEMP_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Running on local URL" in done.stdout


def test_boxes_are_read_from_the_table():
    rows = [["a dog", "0.1", 0.2, 0.5, 1], ["", None, None, None, None], [None] * 5]
    assert app.objects_of(rows) == [Object("a dog", (0.1, 0.2, 0.5, 1.0), 1.0)]
    for wrong in (["a dog", 0.5, 0.2, 0.1, 1], ["a dog", 1, 2], [0.1, 0.2, 0.3, 0.4]):
        with pytest.raises(ValueError, match="object 1: a phrase and a box"):
            app.objects_of([wrong])


def test_what_a_visitor_forgot_is_said(evaluated):
    detector = ItemDetector.from_pretrained(evaluated.method())
    image = next(iter((evaluated.path / "images").rglob("*.png")))
    with pytest.raises(ValueError, match="write a caption"):
        app.explain(detector, image, " ", request=Request(""))
    box = Object("a dog", (0, 0, 1, 1))
    with pytest.raises(ValueError, match="objects go with a caption"):
        app.explain(detector, image, "", [box], request=Request("model"))
    found = app.explain(detector, image, "a dog", [box], request=Request(""))
    assert [row[0] for row in app.rows(found)][-1] == "a dog"
    effect = evidence.effect(found.prediction.p_fake, found.objects[0].p_fake_without)
    assert app.rows(found)[-1][1] == evidence.EFFECTS[effect]
    drawn = app.draw(found, image, detector.method)
    assert drawn.dtype == "uint8" and drawn.shape[2] == 3 and drawn.std() > 10
    assert "<b>" not in app.verdict_html(detector, found).replace("<p", "")


def test_without_gradio_it_says_what_to_install(evaluated, capsys):
    assert main(["app", "--head", str(evaluated.method())]) == 2
    assert "pip install 'item-jax[demo]'" in capsys.readouterr().err
