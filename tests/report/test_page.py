"""The page of a real run in headless Chromium, opened from disk, without network."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from tests import process_helpers
from tests.report_helpers import OPTIONS, change_game, copy_of
from vision_zero.report import __main__ as command

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NO_BROWSER = "no Chromium here: bash setup.sh --browser installs it"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
CLUE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


@pytest.fixture(scope="module")
def run(recorded_run: Path) -> Path:
    return recorded_run


def ready(page: Page) -> None:
    """Not by `wait_for_function`: the page's policy allows no script that is made of text."""
    expect(page.locator("html")).to_have_attribute("data-ready", "true", timeout=30_000)


@pytest.fixture(scope="module")
def file(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the run, in one clue of which a player wrote markup and in another no box."""
    folder = tmp_path_factory.mktemp("page")
    changed = copy_of(run, folder / "run")
    change_game(changed, clue=CLUE, completion=f"zebra \\boxed{{{CLUE}}}", parsed=False)
    out = folder / "page.html"
    assert command.main([str(changed), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def data(file: Path) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', file.read_text("utf-8"), re.DOTALL)
    read: dict[str, Any] = json.loads(found[0])
    return read


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Page]:
    """The page, opened. Fails if it says an error or asks for anything that it does not hold."""
    context = browser.new_context(viewport={"width": 1360, "height": 900}, color_scheme="light")
    page = context.new_page()
    errors: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

    def note(request: Request) -> None:
        if not request.url.startswith("data:"):
            asked.append(request.url)

    page.on("request", note)
    page.goto(file.as_uri())
    ready(page)
    yield page
    assert errors == []
    assert asked == [file.as_uri()]
    context.close()


PIXELS = """async (id) => {
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const canvas = document.querySelector('#chart-' + id + ' canvas');
  const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let hash = 0, seen = 0;
  for (let k = 0; k < bytes.length; k += 1) { hash = (hash * 31 + bytes[k]) | 0; if (bytes[k]) seen += 1; }
  return [hash, seen];
}"""


def test_every_curve_is_drawn(page: Page, data: dict[str, Any]) -> None:
    """Hidden curve by curve through the legend, and shown one at a time, each changes what is drawn."""
    drawn = [chart for chart in data["charts"] if not chart["missing"]]
    assert len(drawn) > 20
    assert page.locator(".chart").count() == len(drawn)
    for chart in drawn:
        rows = page.locator(f"#chart-{chart['id']} .u-legend .u-series:not(.edge) th")
        shown = page.evaluate(PIXELS, chart["id"])
        assert shown[1] > 1000, chart["id"]
        labels = [
            *(curve["label"] for curve in chart["curves"]),
            *(one["label"] for one in chart["limits"] if one["label"]),
        ]
        assert rows.all_inner_texts() == ["iteration", *labels]
        for number in range(1, rows.count()):
            rows.nth(number).click()
        empty = page.evaluate(PIXELS, chart["id"])
        assert empty[0] != shown[0], chart["id"]
        for number in range(1, rows.count()):
            rows.nth(number).click()
            alone = page.evaluate(PIXELS, chart["id"])
            assert alone[0] != empty[0], (chart["id"], labels[number - 1])
            rows.nth(number).click()


def test_thresholds_and_switches_are_there(page: Page, data: dict[str, Any]) -> None:
    rows = page.locator("#switch-table tbody tr")
    assert rows.count() == len(data["switches"]) >= 2
    assert [one["reason"] in row for one, row in zip(data["switches"], rows.all_inner_texts(), strict=True)]
    legend = page.locator("#chart-accuracy .u-legend").inner_text()
    for words in ("decision → clue from:?\\s*0.9", "clue → decision down to:?\\s*0.6"):
        assert re.search(words, legend), legend
    assert page.locator(".ribbon .part").count() == len(data["stages"])
    assert "win_rate" in page.locator("#evaluations").inner_text()


def count(page: Page) -> int:
    return int(page.locator("#count").inner_text().split()[0])


def test_filters_show_the_games_they_name(page: Page, data: dict[str, Any]) -> None:
    games = data["games"]
    expect(page.locator("#list .row")).to_have_count(len(games))

    def expected(fits: Any) -> int:
        number = sum(map(bool, map(fits, games)))
        assert count(page) == number
        expect(page.locator("#list .row")).to_have_count(number)
        page.locator("#filters button[type=reset]").click()
        expect(page.locator("#list .row")).to_have_count(len(games))
        return number

    for name, values in (("stage", ("decision", "clue")), ("outcome", ("found", "escaped", "undecided"))):
        parts = []
        for value in values:
            page.select_option(f"[name={name}]", value)
            parts.append(expected(lambda game, name=name, value=value: game[name] == value))
        assert sum(parts) == len(games)
    page.fill("[name=from]", "2")
    page.fill("[name=to]", "3")
    assert expected(lambda game: 2 <= game["iteration"] <= 3) == 12
    page.select_option("[name=domain]", "scenes")
    assert expected(lambda game: game["domain"] == "scenes") == len(games)
    page.check("[name=again]")
    assert expected(lambda game: True) == len(games)

    def unparsed(game: dict[str, Any], of: str = "") -> bool:
        clues = [clue for clue in game["clues"] if not clue["parsed"]]
        spies = [clue for clue in clues if clue["seat"] == game["spy"]]
        votes = [vote for vote in game["votes"] if vote["vote"] == 0]
        return bool({"": clues + votes, "spy": spies, "voter": votes}[of])

    page.check("[name=unparsed]")
    assert expected(unparsed) >= 1
    page.check("[name=unparsed]")
    page.select_option("[name=role]", "spy")
    expected(lambda game: unparsed(game, "spy"))
    page.select_option("[name=order]", "late")
    assert page.locator("#list .row .first").first.inner_text().startswith("Iteration 6")


def test_search_looks_into_clues_and_private_reasoning(page: Page, data: dict[str, Any]) -> None:
    page.fill("[name=text]", "Zebra")
    expect(page.locator("#list .row")).to_have_count(1)
    page.locator("#list .row").click()
    expect(page.locator(".game details[open] mark")).to_have_text("zebra")
    first = data["games"][0]
    is_spy = first["clues"][0]["seat"] == first["spy"]
    page.select_option("[name=role]", "civilian" if is_spy else "spy")
    expect(page.locator("#list .row")).to_have_count(0)
    page.select_option("[name=role]", "spy" if is_spy else "civilian")
    expect(page.locator("#list .row")).to_have_count(1)
    assert page.locator(".game li.apart").count() > 0
    page.fill("[name=text]", "no such words")
    assert count(page) == 0
    expect(page.locator("#open")).to_have_text("No game fits these filters.")


def test_a_game_that_fits_no_more_is_closed(page: Page, data: dict[str, Any]) -> None:
    page.locator(f".row[data-number='{len(data['games']) - 1}']").click()
    opened = page.locator(".game h3").inner_text()
    page.fill("[name=text]", "zebra")
    first = data["games"][0]
    expect(page.locator(".game h3")).to_have_text(f"Iteration {first['iteration']}, game {first['game']}")
    assert opened != page.locator(".game h3").inner_text()
    page.locator("#compare").click()
    page.fill("[name=text]", "")
    expect(page.locator(".compared .game")).to_have_count(2)
    page.fill("[name=to]", "1")  # the early one fits, the late one does not
    expect(page.locator(".game")).to_have_count(1)


def test_a_game_opens_as_it_was_played(page: Page, data: dict[str, Any]) -> None:
    number = len(data["games"]) - 1
    game = data["games"][number]
    row = page.locator(f".row[data-number='{number}']")
    row.click()
    assert row.get_attribute("aria-current") == "true"
    shown = page.locator(".game")
    assert shown.locator("h3").inner_text() == f"Iteration {game['iteration']}, game {game['game']}"
    assert shown.locator(".said:not(.votes) > li > .clue").all_inner_texts() == [clue["clue"] for clue in game["clues"]]
    assert shown.locator(".said:not(.votes) > li.spy").count() == sum(
        clue["seat"] == game["spy"] for clue in game["clues"]
    )
    assert shown.locator(".votes > li").count() == len(game["votes"])
    assert shown.locator("tbody tr").count() == game["players"]
    for image in shown.locator(".pictures img").all():
        assert image.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") == 112
    prompt = shown.locator("details.prompt").nth(1)
    expect(prompt.locator("pre")).to_be_hidden()
    prompt.locator("summary").click()
    lines = [data["lines"][line] for line in data["prompts"][game["clues"][1]["prompt"]]]
    assert game["clues"][0]["clue"] in "".join(lines)  # the second player heard the first
    expect(prompt.locator("pre")).to_have_text("\n".join(lines))
    folded = shown.locator("details").first
    expect(folded.locator("pre")).to_be_hidden()
    folded.locator("summary").click()
    expect(folded.locator("pre")).to_have_text(game["clues"][0]["completion"])


def test_a_clue_with_markup_stays_text(page: Page) -> None:
    page.locator(".row").first.click()
    expect(page.locator(".said .clue").first).to_have_text(CLUE)
    assert page.locator("main script").count() == 0
    assert page.locator("img[src=x]").count() == 0
    assert page.title() != "taken"


def test_policy_stops_what_would_leave_the_file(browser: Browser, file: Path) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(file.as_uri())
    ready(page)
    assert page.evaluate("fetch('https://example.com').then(() => 'left', () => 'stopped')") == "stopped"
    loaded = """() => new Promise((done) => {
      const image = new Image();
      image.onload = () => done('left');
      image.onerror = () => done('stopped');
      image.src = 'https://example.com/pixel.png';
    })"""
    assert page.evaluate(loaded) == "stopped"
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    assert page.evaluate("window.ran") is None
    context.close()


def test_early_and_late_games_of_a_pair_are_compared(page: Page, data: dict[str, Any]) -> None:
    pair = data["games"][0]["pair"]
    same = [game["iteration"] for game in data["games"] if game["pair"] == pair]
    assert len(same) > 1
    page.locator(".row").first.click()
    page.locator("#compare").click()
    heads = page.locator(".compared .game h3").all_inner_texts()
    assert [int(head.split()[1].strip(",")) for head in heads] == [same[0], same[-1]]
    page.locator(".bar select").nth(1).select_option(index=1)
    assert f"Iteration {same[1]}," in page.locator(".compared .game h3").nth(1).inner_text()
    page.locator("#compare").click()
    expect(page.locator(".game")).to_have_count(1)


def test_the_keyboard_reaches_everything(page: Page, data: dict[str, Any]) -> None:
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.locator("#chart-accuracy").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    accuracy = next(chart for chart in data["charts"] if chart["id"] == "accuracy")
    values = accuracy["curves"][0]["values"]
    assert page.locator("#spoken").inner_text().startswith("iteration 2: this iteration ")
    assert f"{values[1]:.3g}" in page.locator("#spoken").inner_text()
    page.keyboard.press("End")
    assert page.locator("#spoken").inner_text().startswith("iteration 6")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    rows = page.locator("[aria-label='The spy is found'] .numbers tbody tr")
    expect(rows).to_have_count(len(values))

    page.keyboard.press("/")
    expect(page.locator("[name=text]")).to_be_focused()
    page.keyboard.type("j zebra")
    assert count(page) == 0
    page.locator("[name=text]").fill("")
    page.keyboard.press("Escape")
    before = page.locator(".game h3").inner_text()
    page.keyboard.press("j")
    after = page.locator(".game h3").inner_text()
    assert before != after
    page.keyboard.press("k")
    assert page.locator(".game h3").inner_text() == before
    page.locator(".row").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".row").nth(1)).to_be_focused()
    assert page.locator(".game h3").inner_text() == after
    controls = page.locator("button, select, input, summary, a[href]")
    assert controls.evaluate_all("(all) => all.filter((one) => one.tabIndex < 0).length") == 0


CONTRAST = """() => {
  const channel = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  function ground(element) {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (colour.startsWith('rgb(')) return numbers(colour);
    }
    return [255, 255, 255];
  }
  const low = [];
  for (const element of document.querySelectorAll('main *, header *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest('.apart, .skip')) continue;
    const [a, b] = [light(numbers(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) low.push([element.className, element.textContent.slice(0, 30), contrast]);
  }
  return low;
}"""


def test_light_and_dark_can_both_be_read(page: Page) -> None:
    """The system's choice, the button's, and a contrast of at least 4.5 for every text (WCAG AA)."""
    grounds = {}
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
        grounds[theme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page.evaluate(CONTRAST) == []
    light, dark = (sum(map(int, re.findall(r"\d+", grounds[theme])[:3])) for theme in ("light", "dark"))
    assert light > 600 > 200 > dark
    before = page.evaluate(PIXELS, "accuracy")
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert page.evaluate(PIXELS, "accuracy") != before


def test_on_paper_it_is_light_and_without_controls(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    for hidden in ("#filters", "#side", ".bar", "#theme"):
        expect(page.locator(hidden)).to_be_hidden()
    assert page.locator(".game").is_visible()
    assert (
        page.evaluate("Math.max(...[...document.querySelectorAll('.plot canvas')].map((one) => one.clientWidth))")
        <= 340
    )
    assert len(page.pdf(format="A4")) > 50_000
    page.emulate_media(media="screen", color_scheme="dark")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")


def test_it_fits_a_narrow_window(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def box(page: Page, place: str) -> dict[str, float]:
    found: dict[str, float] | None = page.locator(place).bounding_box()  # type: ignore[assignment]
    assert found is not None
    return found


@pytest.mark.parametrize("width", [1360, 390])
def test_the_header_covers_no_heading(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 600})
    page.emulate_media(reduced_motion="reduce")
    for part in ("curves", "switches", "evaluation", "games"):
        page.locator(f".top nav a[href='#{part}']").click()
        page.wait_for_timeout(150)
        header, heading = box(page, ".top"), box(page, f"#{part} h2")
        assert header["y"] == 0
        assert heading["y"] >= header["height"], part
        assert heading["y"] < 600, part
    page.evaluate("location.hash = 'iteration-2-game-6'")
    page.wait_for_timeout(150)
    assert box(page, "#open")["y"] >= box(page, ".top")["height"]


LABELS = """() => [...document.querySelectorAll('.part')].map((part) => {
  const range = document.createRange();
  range.selectNodeContents(part);
  const [words, own] = [range.getBoundingClientRect(), part.getBoundingClientRect()];
  return [part.textContent, words.left, words.right, own.left, own.right];
})"""


@pytest.mark.parametrize("width", [1360, 390, 200])
def test_labels_of_stages_stay_in_their_stage(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(300)
    labels = page.evaluate(LABELS)
    for words, left, right, first, last in labels:
        assert not words or (first <= left and right <= last), words
    if width == 1360:
        assert all(re.fullmatch(r"(clue|decision): \d( to \d)?", words) for words, *_ in labels)


def test_the_win_rate_is_said_first(page: Page, data: dict[str, Any]) -> None:
    first, last = data["arena"][0], data["arena"][-1]
    value, low, high = last["figures"]["win_rate"]
    assert page.locator("main *").nth(1).get_attribute("id") == "headline"
    assert page.locator("#headline .big").inner_text() == f"{value:.3g}"
    said = page.locator("#headline .win").inner_text()
    assert f"95% interval {low:.3g} to {high:.3g}; chance 0.5; after iteration {last['iteration']}" in said
    rows = page.locator("#headline tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [*data["headline"].values()]
    for row, name in zip(rows, data["headline"], strict=True):
        _, before, after, chance = (re.sub("−", "-", cell) for cell in row.split("\t"))
        assert float(before.split()[0]) == pytest.approx(first["figures"][name][0], rel=0.01)
        assert float(after.split()[0]) == pytest.approx(last["figures"][name][0], rel=0.01)
        assert chance == {"win_rate": "0.5", "votes/right": "0.333"}.get(name, "–")
    bar, chance_mark = box(page, ".rate"), box(page, ".rate .chance")
    assert chance_mark["x"] + chance_mark["width"] / 2 == pytest.approx(bar["x"] + bar["width"] / 2, abs=2)


def test_averages_do_not_start_at_0(page: Page, data: dict[str, Any]) -> None:
    """The bold curve is a mean from its first point on; what the switch reads is another curve and named so."""
    accuracy = next(chart for chart in data["charts"] if chart["id"] == "accuracy")
    this, _, read = (curve["values"] for curve in accuracy["curves"])
    rho, total, weight = float(data["options"]["rho"]), 0.0, 0.0
    page.locator("[aria-label='The spy is found'] .numbers summary").click()
    rows = page.locator("[aria-label='The spy is found'] .numbers tbody tr").all_inner_texts()
    for value, row in zip(this, rows, strict=True):
        total, weight = rho * total + (1 - rho) * value, rho * weight + 1 - rho
        assert float(row.split("\t")[2]) == pytest.approx(total / weight, rel=0.01, abs=1e-3)
    assert read[0] == pytest.approx((1 - rho) * this[0])
    assert "from 0 unless debias" in page.locator("#chart-accuracy .u-legend").inner_text()


def test_a_link_opens_its_game(browser: Browser, file: Path, data: dict[str, Any]) -> None:
    context = browser.new_context(viewport={"width": 1360, "height": 900}, permissions=["clipboard-write"])
    page = context.new_page()
    page.goto(file.as_uri())
    ready(page)
    game = data["games"][-1]
    words = f"Iteration {game['iteration']}, game {game['game']}"
    page.locator(f".row[data-number='{len(data['games']) - 1}']").click()
    address = f"#iteration-{game['iteration']}-game-{game['game']}"
    assert page.locator(".game .link").get_attribute("href") == address
    assert page.url == file.as_uri() + address
    page.locator(".game .link").click()
    expect(page.locator(".game .link")).to_have_text(re.compile("link copied|address bar"))
    page.goto("about:blank")
    page.goto(file.as_uri() + address)
    ready(page)
    expect(page.locator(".game h3")).to_have_text(words)
    expect(page.locator(".row[aria-current]")).to_have_attribute("data-number", str(len(data["games"]) - 1))
    page.fill("[name=text]", "zebra")
    page.evaluate(f"location.hash = '#iteration-1-game-{data['games'][1]['game']}'")  # filters give way to it
    expect(page.locator(".game h3")).to_have_text(f"Iteration 1, game {data['games'][1]['game']}")
    page.evaluate("location.hash = '#iteration-1-game-999'")
    expect(page.locator("#notice")).to_have_text("Iteration 1, game 999 is not on this page.")
    page.evaluate("location.hash = '#iteration-9'")
    expect(page.locator("#notice")).to_contain_text("nearest: iteration 6")
    assert count(page) == 6
    context.close()


def test_a_point_of_a_curve_leads_to_its_games(page: Page, data: dict[str, Any]) -> None:
    page.locator("#chart-accuracy .u-over").scroll_into_view_if_needed()
    over = box(page, "#chart-accuracy .u-over")
    at = {"x": over["width"] * 4 / 6, "y": over["height"] / 2}  # iteration 4 of 6
    page.locator("#chart-accuracy .u-over").click(position=at)  # type: ignore[arg-type]
    expect(page.locator("[name=from]")).to_have_value("4")
    expect(page.locator("[name=to]")).to_have_value("4")
    assert count(page) == 6
    expect(page.locator(".game h3")).to_contain_text("Iteration 4,")
    page.locator("#filters button[type=reset]").click()
    page.locator("#chart-accuracy .u-over").dblclick(position=at)  # type: ignore[arg-type]
    page.wait_for_timeout(500)
    expect(page.locator("[name=from]")).to_have_value("")
    page.locator("#chart-win-rate").focus()
    for key in ("Home", "Enter"):  # the start itself, which plays the first games
        page.keyboard.press(key)
    expect(page.locator("[name=to]")).to_have_value("1")


def test_curves_are_kept_as_csv_and_png(page: Page, data: dict[str, Any], tmp_path: Path) -> None:
    chart = next(chart for chart in data["charts"] if chart["id"] == "win-rate")
    for number, name in enumerate(("run-win-rate.csv", "run-win-rate.png")):
        with page.expect_download() as download:
            page.locator(".card:has(#chart-win-rate) .keep").nth(number).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    rows = list(csv.reader((tmp_path / "run-win-rate.csv").open()))
    assert rows[0] == ["iteration", "win rate", "win rate low", "win rate high", "as the table", "as the spy"]
    first = chart["curves"][0]
    columns = (chart["x"], first["values"], first["low"], first["high"], *(c["values"] for c in chart["curves"][1:]))
    assert [[float(cell) for cell in row] for row in rows[1:]] == [list(row) for row in zip(*columns, strict=True)]
    with Image.open(tmp_path / "run-win-rate.png") as picture:
        assert picture.width == 900
        assert picture.height > 420
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


@pytest.fixture(scope="module")
def two_runs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the run against a shorter one, of the same folder name, whose seed and rules are others."""
    folder = tmp_path_factory.mktemp("two")
    one, other = copy_of(run, folder / "a" / "run"), copy_of(run, folder / "b" / "run")
    for name, kept in (("metrics.jsonl", 4), ("arena.jsonl", 2)):
        (other / name).write_text("".join((run / name).read_text().splitlines(keepends=True)[:kept]))
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 77, "civilians": 4}))
    assert command.main([str(one), "--against", str(other)]) == 0
    return one / "against.html"


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_two_runs_side_by_side(browser: Browser, two_runs: Path, width: int, scheme: Any) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(two_runs.as_uri())
    ready(page)
    assert page.locator("#name").inner_text() == "a/run against b/run"
    assert [text.split(" · ")[1] for text in page.locator(".win h2").all_inner_texts()] == ["a/run", "b/run"]
    head = page.locator("#headline thead th").all_inner_texts()
    assert head[1:-1] == [
        *("a/run, before: iteration 0", "a/run, after: iteration 6"),
        *("b/run, before: iteration 0", "b/run, after: iteration 3"),
    ]
    rows = page.locator("#differing tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["civilians", "seed"]
    assert rows[1].split("\t")[2] == "77"
    chart = page.locator("#chart-votes")
    labels = chart.locator(".u-legend .u-series:not(.edge) th").all_inner_texts()
    chances = ["chance of a right vote", "chance of a right vote · b/run"]
    assert labels == [
        *("iteration", "right", "games without a gradient", "right · b/run", "games without a gradient · b/run"),
        *chances,
    ]
    assert "(at 4)" in chart.locator(".u-legend").inner_text()  # the shorter run has no more
    for plot in page.locator(".plot").all():
        canvas, legend = plot.locator("canvas").bounding_box(), plot.locator(".u-legend").bounding_box()
        assert canvas is not None
        assert legend is not None
        assert legend["y"] >= canvas["y"] + canvas["height"] - 1
    drawn = page.evaluate(PIXELS, "votes")
    for number in (3, 4, 6):  # those of the other run
        chart.locator(".u-legend .u-series:not(.edge) th").nth(number).click()
    assert page.evaluate(PIXELS, "votes") != drawn
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    assert errors == []
    context.close()


def test_what_is_missing_is_said(run: Path, browser: Browser, tmp_path: Path) -> None:
    bare = copy_of(run, tmp_path / "run")
    for name in ("arena.jsonl", "switches.jsonl", "evaluation.jsonl"):
        (bare / name).unlink()
    shutil.rmtree(bare / "games")
    assert command.main([str(bare)]) == 0
    page = browser.new_page()
    page.goto((bare / "report.html").as_uri())
    ready(page)
    assert "--arena_every" in page.locator("#missing").inner_text()
    headline = page.locator("#headline").inner_text()
    assert "No arena was played while training" in headline
    assert f"python -m vision_zero.evaluate win-rate {bare}" in headline
    assert "no games were recorded" in page.locator("#notes").inner_text()
    assert page.locator("#count").inner_text() == "0 of 0 games"
    page.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_500_games_of_a_real_run(
    browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long it takes is printed; that the list is not all made at once, and answers, is asserted."""
    options = {"images": "drawn:250", "iterations": 25, "games_per_iteration": 20, "arena_every": 0, "save_steps": 25}
    monkeypatch.setattr(process_helpers, "TIMEOUT", 1500)
    kept = {name: value for name, value in OPTIONS.items() if not name.startswith(("arena", "report_to"))}
    kept |= {"civilians": 4, "rounds": 2, "num_generations": 8, "per_device_train_batch_size": 32}
    process_helpers.train_well(tmp_path / "run", **{**kept, **options})
    started = time.perf_counter()
    assert command.main([str(tmp_path / "run")]) == 0
    made = time.perf_counter() - started
    page = browser.new_page(viewport={"width": 1360, "height": 900})
    page.goto((tmp_path / "run" / "report.html").as_uri())
    ready(page)
    assert count(page) == 500
    assert page.locator("#list .row").count() < 100
    times = page.evaluate(
        """async () => {
          const paint = performance.getEntriesByName('first-contentful-paint')[0].startTime;
          await Promise.all([...document.querySelectorAll('.pictures img')].map((image) => image.decode()));
          return {first_paint_ms: Math.round(paint), first_game_ms: Math.round(performance.now())};
        }"""
    )
    begun = time.perf_counter()
    page.fill("[name=text]", "red cube")
    filtered = time.perf_counter() - begun
    for _ in range(40):
        page.locator("#list").evaluate("(list) => list.scrollTo(0, list.scrollHeight)")
        page.wait_for_timeout(30)
    assert page.locator("#list .row").count() == count(page)
    size = (tmp_path / "run" / "report.html").stat().st_size / 1e6
    with capsys.disabled():
        print(f"\n500 games: {size:.1f} MB, made in {made:.1f} s, {times}, search {filtered * 1000:.0f} ms")
    page.close()
