"""The report in a real browser, driven as a person would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pass_recon.report.html import write_report
from tests.report.scans import HOSTILE, PE, RO, scan_record, slice_record

pytestmark = pytest.mark.browser
ORANGE, BLUE = (255, 180, 84), (89, 194, 255)


@pytest.fixture(scope="module")
def browser(browser_executable):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # Nobody but the report is visited, and a container's root has no sandbox to start.
        browser = play.chromium.launch(executable_path=browser_executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    truth = np.full((RO, PE), 1000, np.float32)
    slices = tuple(slice_record(number, 5, truth=truth) for number in range(5))
    finding = replace(slices[0].findings[0], label=HOSTILE)
    hostile = replace(slices[0], findings=(finding,), warnings=(HOSTILE,))
    scan = scan_record(slices=(hostile, *slices[1:]))
    assert scan.protocol is not None
    write_report(path, replace(scan, protocol=replace(scan.protocol, name=HOSTILE)))
    return path


@pytest.fixture
def page(browser, report):
    """The page, drawn; nothing may have been complained about, nor asked of a network, when the test is over."""
    context = browser.new_context(viewport={"width": 1366, "height": 900})
    page = context.new_page()
    said: list[str] = []
    # The tests read pixels back, which the page never does, and the browser advises against.
    page.on("console", lambda message: said.append(message.text) if "readback" not in message.text else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(report.as_uri())
    page.wait_for_selector("body[data-drawn='0']")
    yield page
    assert said == []
    assert page.evaluate("window.hacked") is None
    context.close()


def drawn(page, number: int) -> None:
    page.wait_for_selector(f"body[data-drawn='{number}']")


def pixels(page, pane: str) -> np.ndarray:
    """(rows, columns, 3) of a pane's canvas."""
    found = page.evaluate(
        """(pane) => { const canvas = document.querySelector(pane + " canvas");
        const context = canvas.getContext("2d");
        return [canvas.height, canvas.width, [...context.getImageData(0, 0, canvas.width, canvas.height).data]]; }""",
        pane,
    )
    return np.array(found[2]).reshape(found[0], found[1], 4)[..., :3]


def frames(page, pane: str) -> list[str]:
    return [frame.text_content() for frame in page.query_selector_all(f"{pane} .frame")]


def test_pixels_are_those_of_the_scan(page):
    one = slice_record(0)
    expected = np.clip(one.geometry.orientation.turn(one.levels) / 4000, 0, 1) * 255
    np.testing.assert_allclose(pixels(page, "#pane-a")[..., 0], expected, atol=1)


def test_overlay_is_that_of_the_gadget(page):
    from pass_recon.report.overlay import grey_levels, overlay

    one = slice_record(0)
    assert one.anomaly_map is not None
    expected = overlay(
        grey_levels(one.levels, one.window), one.anomaly_map, orientation=one.geometry.orientation
    ).astype(int)
    np.testing.assert_allclose(pixels(page, "#pane-b"), expected, atol=2)


def test_slider_buttons_and_keys(page):
    page.fill("#slice", "3")
    drawn(page, 3)
    assert "slice 3 (4 of 5)" in page.text_content("#where")
    assert page.is_visible('.of-slice[data-slice="3"]')
    assert not page.is_visible('.of-slice[data-slice="0"]')
    page.click("#next")
    drawn(page, 4)
    page.click("#next")
    page.focus("#stage")
    for key, number in (("ArrowLeft", 3), ("ArrowUp", 2), ("Home", 0), ("End", 4), ("PageUp", 0), ("ArrowRight", 1)):
        page.keyboard.press(key)
        drawn(page, number)
    assert page.input_value("#slice") == "1"


def test_jump_to_a_finding(page):
    page.click("#findings button.show[data-slice='2']")
    drawn(page, 2)
    assert page.query_selector("#pane-b .frame.shown") is not None
    assert page.evaluate("document.activeElement.id") == "stage"
    page.click(".sheet button[data-slice='1']")
    drawn(page, 1)


def test_layouts_and_swipe(page):
    page.keyboard.press("3")
    page.wait_for_selector(".stage.swipe")
    picture = page.locator("#pane-b .picture")
    page.fill("#swipe", "25")
    assert "25%" in picture.evaluate("element => element.style.clipPath")
    divider = page.locator("#divider span").bounding_box()
    box = picture.bounding_box()
    middle = divider["x"] + divider["width"] / 2
    assert middle == pytest.approx(box["x"] + 0.25 * box["width"], abs=2)
    page.mouse.move(middle, divider["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.75 * box["width"], divider["y"] + 5)
    page.mouse.up()
    assert float(page.input_value("#swipe")) == pytest.approx(75, abs=1)
    assert "width 4000" in page.text_content("#window"), "dragging the divider is no windowing"
    page.keyboard.press("1")
    page.wait_for_selector(".stage.one")
    assert not page.is_visible("#pane-b")
    page.check("input[value='beside']")
    page.wait_for_selector(".stage.beside")
    assert page.is_visible("#pane-b")


def test_window_and_level_by_drag_and_reset(page):
    before = pixels(page, "#pane-a").mean()
    box = page.locator("#pane-a .picture").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 50, box["y"] + 200)
    page.mouse.up()
    page.wait_for_function("document.getElementById('window').textContent.startsWith('width 4000, level 4')")
    assert pixels(page, "#pane-a").mean() < before - 20, "a higher level is darker"
    page.keyboard.press("r")
    page.wait_for_function("document.getElementById('window').textContent === 'width 4000, level 2000'")
    assert pixels(page, "#pane-a").mean() == pytest.approx(before)


def test_views(page):
    names = page.eval_on_selector_all("#view-a option", "options => options.map((one) => one.value)")
    assert names == ["magnitude", "overlay", "map", "plan", "truth", "error"]
    page.select_option("#view-a", "plan")
    page.wait_for_function("document.querySelector('#pane-a figcaption').textContent.startsWith('Lines')")
    plan = slice_record(0).plans[0]
    rows = pixels(page, "#pane-a")[:, 0]  # phase encoding runs down in this geometry
    acs, chosen = ({row for row, colour in enumerate(rows) if tuple(colour) == wanted} for wanted in (ORANGE, BLUE))
    assert acs == set(plan.acs)
    assert acs | chosen == set(plan.lines)
    page.select_option("#view-a", "error")
    page.wait_for_function("document.querySelector('#pane-a figcaption').textContent.startsWith('Error')")
    error = pixels(page, "#pane-a").sum(-1)
    assert error[40, 25] > 600, "the bright square is not in the truth"
    assert np.median(error) < 250


def test_boxes_and_legend(page):
    assert frames(page, "#pane-b") == [f"{HOSTILE} 0.90"]
    page.keyboard.press("b")
    page.wait_for_function("document.querySelectorAll('.frame').length === 0")
    assert not page.is_visible("#pane-b .legend"), "off by default"
    page.check("#legend")
    page.wait_for_selector("#pane-b .legend", state="visible")
    assert not page.is_visible("#pane-a .legend")
    page.keyboard.press("1")  # with the focus on the tick box
    page.wait_for_selector(".stage.one")


def test_themes(page):
    def background() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    first = background()
    page.click("#theme")
    assert background() != first
    page.click("#theme")
    assert background() == first


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("size", [(1366, 900), (390, 844)])
def test_accessible_and_within_the_screen(browser, report, scheme, size):
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    page.goto(report.as_uri())
    drawn(page, 0)
    for layout in "132":
        page.keyboard.press(layout)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    context.close()


def test_print_view(page):
    page.set_viewport_size({"width": 794, "height": 1123})  # A4 at 96 dots an inch
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert not page.is_visible("#slice")
    assert not page.is_visible("#findings button")
    assert page.is_visible(".sheet img")
    assert page.is_visible("#pane-a canvas")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("slices", [1, 200])
def test_one_slice_and_two_hundred(browser, tmp_path, slices):
    write_report(tmp_path / "r.html", scan_record(slices=tuple(slice_record(n, slices) for n in range(slices))))
    page = browser.new_page()
    page.goto((tmp_path / "r.html").as_uri())
    drawn(page, 0)
    page.keyboard.press("End")
    drawn(page, slices - 1)
    assert f"({slices} of {slices})" in page.text_content("#where")
    page.close()
