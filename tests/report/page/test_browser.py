"""The page in a browser: without network, without an error, on a wide screen, on a phone, dark, and printed."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lowrung.report import page, plots
from lowrung.store.outcome import Status
from lowrung.studies import reading
from tests.studies.written import Written

pytestmark = pytest.mark.slow

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"{CHROMIUM} is missing")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study whose causes, values and name try to be HTML."""
    folder = tmp_path_factory.mktemp("page")
    more = {"lora.alpha": (16, 32), "data.seed": (0, 1)}  # so many axes that their slices are taller than a screen
    points = [
        {"lora.r": rank, "lora": kind, **{key: of[rank == 4] for key, of in more.items()}}
        for rank in (4, 8, 16)
        for kind in ("default", HOSTILE)
    ]
    said = {"prompt": HOSTILE, "expected": "1", "answer": "one"}
    made = Written(folder, [Status.COMPLETE] * 5 + [Status.FAILED], points=points, facts={"samples": [said, "odd"]})
    study = reading.read(made.write())
    study = dataclasses.replace(study, name=HOSTILE, doubts=[HOSTILE])
    file = folder / "report.html"
    file.write_text(page.render(study, plots.draw(study)))
    return file


@dataclasses.dataclass
class Opened:
    """A page that was opened, and what it asked for and complained of."""

    page: Any
    requests: list[str]
    errors: list[str]


def opened(browser: Any, html: Path, width: int, *, scheme: str = "light") -> Opened:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    found = Opened(context.new_page(), [], [])
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on("console", lambda said: found.errors.append(said.text) if said.type in ("error", "warning") else None)
    found.page.on("pageerror", lambda error: found.errors.append(str(error)))
    found.page.goto(html.as_uri())
    found.page.wait_for_selector("body[data-drawn]", timeout=60_000)
    return found


def check(found: Opened, html: Path, width: int) -> None:
    """All plots are drawn, nothing was asked for, and nothing is wider than the screen."""
    count = functools.partial(found.page.eval_on_selector_all, expression="all => all.length")
    assert count(".plot") == count(".plot .main-svg:first-child") >= 4
    assert html.stat().st_size < 5e6
    assert found.requests == [html.as_uri()]
    assert found.errors == []
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def wide(browser: Any, html: Path) -> Iterator[Opened]:
    found = opened(browser, html, 1400)
    yield found
    found.page.context.close()


def test_it_draws_all_plots_offline_on_a_wide_screen(wide, html):
    check(wide, html, 1400)


def test_it_draws_all_plots_offline_on_a_phone_in_dark_mode(browser, html):
    found = opened(browser, html, 400, scheme="dark")
    check(found, html, 400)
    assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    found.page.context.close()


def test_what_comes_from_outside_is_text(wide):
    assert wide.page.title() == f"{HOSTILE} - lowrung"
    assert wide.page.locator("#verdict .warnings").last.inner_text() == HOSTILE
    assert wide.page.locator("main img").count() == 0
    assert HOSTILE in wide.page.locator("#answers").inner_text()


def test_a_tall_plot_shrinks_to_a_printed_page_and_grows_again(wide):
    heights = "all => Math.max(...all.map((one) => one.querySelector('.main-svg').getBoundingClientRect().height))"
    before = wide.page.eval_on_selector_all(".plot", heights)
    assert before > 800
    wide.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert wide.page.eval_on_selector_all(".plot", heights) < 800
    wide.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert wide.page.eval_on_selector_all(".plot", heights) == before


def test_long_tables_scroll_on_a_screen_and_are_whole_on_paper(wide):
    scrolls = "getComputedStyle(document.querySelector('#leaderboard .wide')).maxHeight"
    assert wide.page.evaluate(scrolls) != "none"
    wide.page.emulate_media(media="print")
    assert wide.page.evaluate(scrolls) == "none"
    wide.page.emulate_media(media="screen")


def test_it_is_printed_with_its_plots(wide, tmp_path):
    wide.page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000
    assert wide.errors == []


def test_a_browser_that_cannot_inflate_says_so_and_shows_the_tables(browser, html):
    context = browser.new_context()
    shown = context.new_page()
    shown.add_init_script("delete window.DecompressionStream")
    shown.goto(html.as_uri())
    assert "cannot inflate" in shown.locator(".plot p").first.inner_text()
    assert shown.locator("#leaderboard tbody tr").count() == 6
    context.close()
