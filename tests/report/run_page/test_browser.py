"""What a person sees and does on a run's page, in headless Chromium: pointing, zoom, axes, smoothing, log, keys."""

import json

import pytest

from tests.report.run_page.test_page import make_run
from tests.serve.browser import browser
from trainer.report.run_page.layers import MOST_COLUMNS, LayerMaps
from trainer.report.run_page.page import comparison_as_html, run_as_html

LOSS = 'figure[data-chart="0"] canvas'
STATISTICS = ("weight_norm", "grad_norm", "update_norm", "update_ratio")
BUBBLE = "document.querySelector('.bubble')"


def layers_of(lines):
    maps = LayerMaps()
    for step in range(1, lines + 1):
        norms = [1.0, 100.0 if step == 77 else 2.0]
        maps.add({"step": step, "layers": ["embed_tokens", "0"], **dict.fromkeys(STATISTICS, norms)})
    return maps


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    run = make_run()
    (folder / "report.html").write_text(run_as_html(vars_with(run, layers=layers_of(300))))
    (folder / "comparison.html").write_text(comparison_as_html([make_run("one"), make_run("two", rows=200)], title="t"))
    with browser(folder) as found:
        found.show_as(width=1100, height=900)
        found.folder = folder
        yield found


def vars_with(run, **changes):
    return type(run)(**{**vars(run), **changes})


@pytest.fixture
def page(tab):
    tab.open(f"file://{tab.folder / 'report.html'}")
    tab.wait("document.documentElement.dataset.drawn")
    yield tab
    assert tab.complaints == []


def box(tab, selector):
    tab.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
    script = f"(({{x, y, width, height}}) => [x, y, width, height])(document.querySelector({json.dumps(selector)})"
    return tab.run(f"{script}.getBoundingClientRect())")


def mouse(tab, kind, x, y, **more):
    tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)


def point(tab, selector, across, down=0.5):
    """Points at a share of what is drawn of a canvas."""
    x, y, width, height = box(tab, selector)
    mouse(tab, "mouseMoved", x + across * width, y + down * height)
    return said(tab)


def said(tab):
    return tab.run(f"{BUBBLE}.hidden ? '' : {BUBBLE}.innerText")


def drag(tab, selector, begin, end):
    x, y, width, height = box(tab, selector)
    left = {"button": "left", "clickCount": 1}
    mouse(tab, "mousePressed", x + begin * width, y + height / 2, **left)
    mouse(tab, "mouseMoved", x + end * width, y + height / 2, buttons=1, **left)
    mouse(tab, "mouseReleased", x + end * width, y + height / 2, **left)


def step_said(text):
    return int(text.split("at step ")[1].split()[0].replace(",", ""))


def test_pointing_names_step_and_value(page):
    text = point(page, LOSS, 0.5)
    assert text.startswith("train  3.0")
    assert 120 < step_said(text) < 180
    assert "a  3  at step 150" in text
    mouse(page, "mouseMoved", 2, 2)
    assert said(page) == ""


def test_restarts_and_bad_steps_are_named_where_they_are(page):
    width = box(page, LOSS)[2]
    share = (60 + (width - 72) * (90 - 1) / 299) / width  # of the canvas, where step 90 is
    assert "started again from step 90: text" in point(page, LOSS, share)
    share = (60 + (width - 72) * (70 - 1) / 299) / width
    assert "step 70 was bad: skipped" in point(page, LOSS, share)


def test_dragging_zooms_all_charts_and_escape_or_the_button_shows_the_whole_run(page):
    whole = step_said(point(page, LOSS, 0.2))
    drag(page, LOSS, 0.6, 0.8)
    assert page.run("document.getElementById('reset').disabled") is False
    zoomed = point(page, LOSS, 0.2)
    assert step_said(zoomed) > whole + 60
    assert step_said(point(page, 'figure[data-chart="1"] canvas', 0.2)) > whole + 60
    page.run("document.getElementById('reset').click()")
    assert step_said(point(page, LOSS, 0.2)) == whole
    drag(page, LOSS, 0.6, 0.8)
    page.run(f"document.querySelector({json.dumps(LOSS)}).focus()")
    page.press("Escape")
    assert step_said(point(page, LOSS, 0.2)) == whole


BLANK = """[...document.querySelectorAll('canvas')].filter((canvas) => {
  const { width, height } = canvas;
  return !canvas.getContext('2d').getImageData(0, 0, width, height).data.some((value) => value > 0);
}).length"""


def test_what_is_further_down_is_drawn_without_scrolling_and_again_for_print(page):
    page.wait(f"{BLANK} === 0")
    assert page.run("document.querySelectorAll('canvas').length") > 6
    page.run("scrollTo(0, 0)")
    page.run("for (const canvas of document.querySelectorAll('canvas')) canvas.width = canvas.width")
    assert page.run(BLANK) > 6
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run(BLANK) == 0


def test_axes_smoothing_and_log_change_what_is_drawn(page):
    drawn = f"document.querySelector({json.dumps(LOSS)}).toDataURL()"
    pictures = [page.run(drawn)]
    for action in (
        "document.querySelector('[data-axis=time]').click()",
        "document.querySelector('[data-axis=flops]').click()",
        "(s => {s.value = '0.9'; s.dispatchEvent(new Event('input'))})(document.getElementById('smoothing'))",
        "document.querySelector('figure.chart button.log').click()",
    ):
        page.run(action)
        pictures.append(page.run(drawn))
    assert len(set(pictures)) == len(pictures)
    assert page.run("document.getElementById('smoothed').textContent") == "0.90"
    assert page.run("document.querySelector('figure.chart button.log').getAttribute('aria-pressed')") == "true"
    page.run("document.querySelector('[data-axis=tokens]').click()")
    assert point(page, LOSS, 0.5).split("\n")[0].endswith("k")


def test_arrow_keys_go_from_row_to_row(page):
    page.run(f"document.querySelector({json.dumps(LOSS)}).focus()")
    page.press("End")
    assert step_said(said(page)) == 300
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert step_said(said(page)) == 298
    page.press("Home")
    assert step_said(said(page)) == 1
    page.press("Tab")
    assert said(page) == ""


MAP = 'figure[data-map="0"] canvas'


def test_heat_maps_name_layer_value_and_steps(page):
    width = -(-300 // MOST_COLUMNS)
    assert width == 2
    text = point(page, MAP, 0.5, 0.3)
    assert text.startswith("embed_tokens  greatest 1, least 1  in steps ")
    page.run(f"document.querySelector({json.dumps(MAP)}).focus()")
    page.press("Home")
    page.press("ArrowDown")
    assert said(page) == "layer 0  greatest 2, least 2  in steps 1 to 2"
    for _ in range(38):
        page.press("ArrowRight")
    assert said(page) == "layer 0  greatest 100, least 2  in steps 77 to 78"
    before = page.run(f"document.querySelector({json.dumps(MAP)}).toDataURL()")
    drag(page, MAP, 0.6, 0.8)
    assert page.run(f"document.querySelector({json.dumps(MAP)}).toDataURL()") != before
    assert step_said(point(page, LOSS, 0.2)) > 130  # they zoom together


def test_dark_is_dark_and_a_telephone_has_no_sideways_scrolling(page):
    box(page, MAP)
    light = page.run(f"document.querySelector({json.dumps(MAP)}).toDataURL()")
    page.show_as(width=1100, height=900, dark=True)
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 29)"
    page.wait(f"document.querySelector({json.dumps(MAP)}).toDataURL() !== {json.dumps(light)}")
    page.show_as(width=390, height=800)
    page.wait("innerWidth === 390")
    assert page.run("document.documentElement.scrollWidth") <= 390
    page.run("document.querySelector('figcaption').firstChild.data = 'eval/validation/language/en/tokens_per_byte'")
    assert page.run("document.querySelector('figcaption').offsetHeight") < 90  # the unit isn't a letter a line
    assert page.run("getComputedStyle(document.querySelector('.cards thead')).display") == "none"
    page.show_as(width=1100, height=900)


def test_a_comparison_names_the_runs(tab):
    tab.open(f"file://{tab.folder / 'comparison.html'}")
    tab.wait("document.documentElement.dataset.drawn")
    text = point(tab, LOSS, 0.3)
    assert "one  3" in text
    assert "two  3" in text
    tab.run("document.querySelector('figure[data-chart=\"0\"] .legend .key').click()")
    assert "one  " not in point(tab, LOSS, 0.3)
    assert tab.complaints == []
