"""The report in a real browser: filters, keyboard, colours, 100,000 images."""

import dataclasses
import shutil

import numpy as np
import pytest
from evaluations import HOSTILE, enlarged, write_experiments

from item_jax import evidence, gallery, report, results
from item_jax.__main__ import main

pytestmark = pytest.mark.slow

SIZES = {"wide": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def page_file(evaluated, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("page") / "workdir"
    shutil.copytree(evaluated.path, workdir)
    write_experiments(workdir / "results" / "paper")
    out = workdir / "report.html"
    images = evaluated.path / "images"
    command = ["report", "--workdir", str(workdir), "--out", str(out)]
    assert main([*command, "--images", str(images)]) == 0
    return out


@pytest.fixture
def opened(browser):
    """Opens a page; afterwards nothing was said on the console or fetched."""
    contexts, said = [], []

    def open_page(path, *, scheme="light", size="wide", **options):
        width, height = SIZES[size]
        context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": height}, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda r: said.append(r.url) if r.url[:5] not in ("file:", "data:") else 0,
        )
        page.goto(path.as_uri())
        page.wait_for_selector("#count:not(:empty)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not said


def shown(page):
    """The verdicts of the cards, such as `fake 0.973, wrong`."""
    return page.locator("#cards .verdict").all_inner_texts()


def choose(page, **values):
    for name, value in values.items():
        page.select_option(f"select[name={name}]", label=value)


def test_filters_show_what_they_say(opened, page_file, evaluated):
    found = results.read(evaluated.results())
    page = opened(page_file)
    page.click("text=All images")
    assert page.locator("#count").inner_text() == "1 to 12 of 12 images (of 12)"
    for method in found.scores:
        fake = found.scores[method] > found.summary["methods"][method]["threshold"]
        right = fake == (found.labels == 1)
        choose(page, method=method)
        for result, mask in (("right", right), ("wrong", ~right)):
            choose(page, result=result)
            words = shown(page)
            assert len(words) == mask.sum()
            assert all(word.endswith(result) for word in words)
            p = [float(word.split()[1].rstrip(",")) for word in words]
            assert p == pytest.approx(found.scores[method][mask], abs=6e-4)
    choose(page, method="head", result="right or wrong", label="fake")
    choose(page, generator="gan (6)")
    index = found.groups["gan"]
    assert len(shown(page)) == (found.labels[index] == 1).sum()
    page.fill("input[name=search]", found.rows[index[-1]]["key"].upper())
    page.wait_for_selector("text=1 to 1 of 1 images (of 12)")
    page.fill("input[name=search]", "no such image")
    page.wait_for_selector("text=No image of 12 is like that.")


def test_presets_order_by_sureness(opened, page_file, evaluated):
    found = results.read(evaluated.results())
    page = opened(page_file)
    p = found.scores["head"]
    sure = gallery.sureness(np.round(p, 6), 0.5)
    page.click("text=Nearest the threshold")
    first = float(shown(page)[0].split()[1].rstrip(","))
    assert first == pytest.approx(p[sure.argmin()], abs=6e-4)
    assert page.get_attribute("text=Nearest the threshold", "aria-pressed") == "true"
    page.click("text=Surest hits")
    right = (p > 0.5) == (found.labels == 1)
    hits = [float(word.split()[1].rstrip(",")) for word in shown(page)]
    assert hits[0] == pytest.approx(p[right][sure[right].argmax()], abs=6e-4)
    assert len(hits) == right.sum()


def test_everything_can_be_done_from_the_keyboard(opened, page_file):
    page = opened(page_file)
    page.click("text=All images")
    title = page.locator("#detail-title")
    keys = []
    page.locator("#cards .card").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    for _ in range(3):
        keys.append(title.inner_text())
        page.keyboard.press("ArrowRight")
    assert len(set(keys)) == 3
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()
    focused = page.evaluate(
        "[...document.querySelectorAll('.card')].indexOf(document.activeElement)"
    )
    assert focused == 3, "the reader is where they were"
    # Everything that can be clicked can be reached by Tab.
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    seen = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.outerHTML.slice(0, 160)"))
    for needed in ("Surest errors", 'name="generator"', 'name="search"', "<summary>"):
        assert any(needed in one for one in seen), needed


def test_boxes_have_the_colour_of_their_effect(opened, page_file):
    page = opened(page_file)
    page.click("text=All images")
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    drawn = 0
    for place, i in enumerate(range(len(data["keys"]))):
        picture = data["pictures"][str(i)]
        own = picture["evidence"]["0"]
        page.locator("#cards .card").nth(place).click()
        colours = page.evaluate(
            "[...document.querySelectorAll('#detail rect[stroke-dasharray]')]"
            ".map((each) => each.getAttribute('stroke'))"
        )
        effects = [evidence.effect(own["score"], p) for p in own["without"]]
        assert colours == [data["colours"][name] for name in effects]
        rows = page.locator("#detail tbody").first.locator("tr").all_inner_texts()
        if effects:
            assert len(rows) == len(effects)
            said = f"{picture['objects'][0]['phrase']}\t{data['effects'][effects[0]]}\t"
            assert said in rows[0]
        drawn += len(effects)
        page.keyboard.press("Escape")
    assert drawn > 5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_accessible_and_fits(opened, page_file, axe, scheme, size):
    """As axe-core sees it: contrast, names, roles; and nothing is wider than it."""
    # axe-core is a program from outside, which the page's own policy would stop.
    page = opened(page_file, scheme=scheme, size=size, bypass_csp=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(  # captions wrap where their tables scroll
        "[...document.querySelectorAll('caption span')]"
        ".every((each) => each.getBoundingClientRect().right <= innerWidth)"
    )
    page.evaluate(axe)
    for state in ("page", "detail"):
        if state == "detail":
            page.locator("#cards .card").first.click()
        found = page.evaluate("axe.run()")
        assert found["violations"] == []
        assert any(p["id"] == "color-contrast" for p in found["passes"])


def test_it_prints_what_is_folded_and_no_controls(opened, page_file):
    page = opened(page_file)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("#filters").is_visible()
    assert not page.locator("nav").is_visible()
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("#cards .card").first.is_visible()


def test_hostile_text_runs_nothing(opened, evaluated, tmp_path):
    found = enlarged(results.read(evaluated.results()), 50)
    pictures = {0: gallery.Picture(None, (1, 1), HOSTILE, {})}
    path = tmp_path / "r.html"
    report.write(path, found, title=HOSTILE, pictures=pictures, notes=[HOSTILE])
    page = opened(path)
    page.click("text=All images")
    page.locator("#cards .card").first.click()
    assert HOSTILE[:20] in page.locator("#detail-title").inner_text()
    assert page.evaluate("typeof hacked") == "undefined"
    assert "script-src 'sha256-" in path.read_text("utf-8")


def test_a_hundred_thousand_images_stay_fluent(opened, evaluated, tmp_path):
    count = 100_000
    found = enlarged(results.read(evaluated.results()), count)
    summary = found.summary
    path = tmp_path / "large.html"
    report.write(path, dataclasses.replace(found, summary=summary))
    page = opened(path)
    page.click("text=All images")
    assert (
        page.locator("#count").inner_text().endswith("of 100,000 images (of 100,000)")
    )
    p, y = found.scores["head"], found.labels
    choose(page, result="wrong", order="surest first", generator="vae (50,000)")
    index = found.groups["vae"]
    wrong = index[(p[index] > 0.5) != (y[index] == 1)]
    assert f"of {len(wrong):,} images" in page.locator("#count").inner_text()
    surest = gallery.sureness(np.round(p[wrong], 6), 0.5)
    i = wrong[np.argsort(-surest, kind="stable")[0]]
    page.locator("#cards .card").first.click()
    assert page.locator("#detail-title").inner_text() == found.rows[i]["key"]
    page.keyboard.press("Escape")
    assert page.locator("#cards .card").count() == 24, "a page at a time"
    nodes = page.evaluate("document.querySelectorAll('*').length")
    assert nodes < 20_000, "the page does not grow with the images"
