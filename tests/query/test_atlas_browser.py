"""The atlas in a real browser, served and as a folder on a plain static host below a path."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from atlas_carriers import hosted, served
from vitdex.query.atlas.atlas import Atlas
from vitdex.query.atlas.columns import SHOWN
from vitdex.query.atlas.export import plan_export, write_export
from vitdex.query.atlas.placing import placing
from vitdex.query.drawing.colours import Scale
from vitdex.query.drawing.upsample import blocky, smooth
from vitdex.query.index import Index
from vitdex.query.notes.database import writing

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
for needed in ("starlette", "openTSNE"):
    pytest.importorskip(needed, reason="the extra vitdex[atlas] is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

HOSTILE = "<img src=x onerror='window.broken=1'>\"';\u202eback\n</script><script>window.broken=1</script>"
WRITTEN = "<img src=x onerror='window.broken=1'>\"';\\u202eback\\u000a</script><script>window.broken=1</script>"
NEURON = "#/neuron/blocks.5.mlp.fc1/16"
PAGES = {
    "#/": "Every neuron a page",
    NEURON: "Block 5 · neuron 16",
    "#/class/coin": "coin",
    "#/classes": "Classes",
    "#/image/91": "Image 91",
    "#/image/coin%2F011.jpg": "Image 91",
    "#/layer/blocks.5.mlp.fc1": "Block 5",
    "#/map": "Map of all neurons",
    "#/map/vectors": "Map of all neurons",
    "#/about": "About",
}
NOWHERE = (
    "#/nothing", "#/neuron/blocks.5.mlp.fc1/768", "#/neuron/blocks.9/1", "#/neuron/blocks.5.mlp.fc1", "#/class/coyn",
    "#/image/480", "#/image/no.jpg", "#/layer/x", "#/%E0%A4%A", "#/class/coin/more", "#/__proto__", "#/neuron/%2e%2e/0",
    "#/map/nowhere",
)  # fmt: skip


@dataclass
class Watched:
    """A browser's page, and what must not happen on it."""

    page: Any
    base: str
    faults: list[str] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def open(self, address: str) -> None:
        """Load anew."""
        self.page.goto("about:blank")
        self.asked.clear()
        self.page.goto(self.base + address)
        self.page.wait_for_selector("main h1")
        self.page.wait_for_load_state("networkidle")

    def heading(self, text: str) -> None:
        self.page.wait_for_function("t => document.querySelector('main h1')?.textContent === t", arg=text)

    @property
    def requests(self) -> list[Any]:
        return [one for one in self.asked if one.url.startswith("http")]


@pytest.fixture(scope="module")
def index_path(effects_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with effects and with descriptions, one of which is hostile."""
    out = tmp_path_factory.mktemp("atlas") / "own.vitdex"
    shutil.copytree(effects_path, out)
    rows = pd.DataFrame(
        {
            "layer": ["blocks.5.mlp.fc1"] * 2,
            "unit": [16, 391],
            "source": ["me", HOSTILE],
            "description": [HOSTILE, "round"],
        }
    )
    with Index(out) as index:
        with writing(index.layout) as db:
            db.register("frame", rows)
            db.execute("INSERT INTO descriptions BY NAME FROM frame")
        placing(Atlas(index)).make()  # and kept in the tests' cache: both carriers have the whole map
    return out


@pytest.fixture(scope="module", params=["served", "exported"])
def base(request: pytest.FixtureRequest, index_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "served":
        with served(index_path) as address:
            yield address
        return
    folder = tmp_path_factory.mktemp("host")
    with Index(index_path) as index:
        write_export(plan_export(index, folder / "below" / "a path", top=1))
    with hosted(folder) as address:
        yield f"{address}below/a%20path/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def watched(browser: Any, base: str) -> Iterator[Watched]:
    """A page of which no test may leave an error, a foreign request or a stranger's code that ran."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    found = Watched(context.new_page(), base)
    found.page.on("pageerror", lambda error: found.faults.append(str(error)))
    found.page.on("console", lambda said: found.faults.append(said.text) if said.type == "error" else None)
    found.page.on("request", lambda one: found.asked.append(one))
    yield found
    assert found.page.evaluate("window.broken") is None
    # a browser writes an error for every answer of 404, which unknown addresses have, and of 400, which wrong SQL has
    assert [fault for fault in found.faults if not re.search("status of 40[04]", fault)] == []
    assert [one.url for one in found.requests if not one.url.startswith(base)] == []
    context.close()


def test_every_kind_of_page(watched: Watched) -> None:
    for address, title in PAGES.items():
        watched.open(address)
        watched.heading(title)
        missing = watched.page.evaluate(
            "[...document.images].filter(i => !i.alt || (i.complete && !i.naturalWidth)).length"
        )
        assert missing == 0, address
        assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address


def test_an_unknown_address_says_so(watched: Watched) -> None:
    for address in NOWHERE:
        watched.open(address)
        watched.heading("Nothing here")
    watched.open("#/class/coyn")
    watched.page.click("main >> text=coin")
    watched.heading("coin")


def test_a_page_fits_a_phone_in_the_dark(watched: Watched) -> None:
    watched.page.set_viewport_size({"width": 390, "height": 800})
    watched.page.emulate_media(color_scheme="dark")
    for address in PAGES:
        watched.open(address)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390, address
    assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 23)"
    watched.page.keyboard.press("t")
    assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(247, 246, 243)"


def test_long_names_of_classes_stay_in_their_places(watched: Watched) -> None:
    names = [f"great white shark, white shark, man-eater, man-eating shark, {i}" for i in range(12)]
    _altered(watched, "start", lambda data: data.update(classes=names))
    _altered(
        watched,
        "class/0",
        lambda data: data["images"].update({i: {**one, "predicted": 3} for i, one in data["images"].items()}),
    )
    watched.page.set_viewport_size({"width": 390, "height": 800})
    for address in ("#/class/0", NEURON, "#/image/91"):
        watched.open(address)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 390, address
        assert watched.page.evaluate(
            "[...document.querySelectorAll('figcaption')].every(c => [...c.children].every("
            "one => one.getBoundingClientRect().right <= c.getBoundingClientRect().right + 1))"
        ), address


def test_a_place_on_the_page_is_no_address(watched: Watched) -> None:
    watched.open("#elsewhere")
    watched.heading("Every neuron a page")
    watched.page.locator(".skip").focus()
    watched.page.keyboard.press("Enter")
    assert watched.page.evaluate("document.activeElement.id") == "page"
    assert watched.page.url.endswith("#elsewhere")


def test_search_keys_and_back(watched: Watched) -> None:
    page = watched.page
    watched.open("#/")
    for typed, title in (
        ("coi", "coin"),
        ("vehikle", "vehicle"),
        ("5 16", "Block 5 · neuron 16"),
        ("coin/011", "Image 91"),
    ):
        page.keyboard.press("/")
        page.keyboard.type(typed)
        page.wait_for_selector("#hits [aria-selected=true]")
        page.wait_for_load_state("networkidle")
        page.keyboard.press("Enter")
        watched.heading(title)
    page.keyboard.press("ArrowRight")
    watched.heading("Image 92")
    page.keyboard.press("ArrowLeft")
    watched.heading("Image 91")
    page.go_back()
    watched.heading("Image 92")
    page.go_back()
    page.go_back()
    watched.heading("Block 5 · neuron 16")
    page.keyboard.press("m")
    watched.heading("Map of all neurons")


def test_strange_texts_are_shown_as_text(watched: Watched) -> None:
    watched.open(NEURON)
    assert watched.page.inner_text(".said .quote") == WRITTEN
    watched.page.keyboard.press("/")
    watched.page.keyboard.type("onerror")
    watched.page.wait_for_selector("#hits [aria-selected=true]")
    assert watched.page.inner_text("#hits li .name") == WRITTEN


def _altered(watched: Watched, address: str, change: Callable[[Any], None]) -> None:
    """Serve the data at an address with a change in it."""

    def answer(route: Any) -> None:
        response = route.fetch()
        data = response.json()
        change(data)
        route.fulfill(response=response, json=data)

    watched.page.route(f"**/data/{address}.json", answer)


def _hits(watched: Watched, typed: str) -> list[str]:
    """What the search lists, after its data has come."""
    watched.page.fill("#find", "")
    watched.page.fill("#find", typed)
    watched.page.wait_for_selector("#hits li")
    watched.page.wait_for_load_state("networkidle")
    return list(watched.page.locator("#hits li").all_inner_texts())


def test_the_search_finds_what_is_nearly_right(watched: Watched) -> None:
    watched.open("#/")
    assert _hits(watched, "rownd")[0].split("\n") == ["round", "Block 5 · 391, like it"]
    assert _hits(watched, "vehikle/013")[0].split("\n") == ["vehicle/013.jpg", "an image like it"]
    assert _hits(watched, "zzzz") == ["Nothing is called that."]


def test_the_search_says_what_it_does_not_know(watched: Watched) -> None:
    _altered(watched, "search", lambda data: data.update(paths=None))
    watched.open("#/")
    said = "Paths of 480 images are too many to be searched; a number finds its image."
    assert _hits(watched, "coin/011") == ["coin\na class like it", said]
    watched.open("#/image/coin%2F011.jpg")
    watched.heading("Nothing here")
    assert "by path" in watched.page.inner_text("main")


def test_every_ranking_of_a_class(watched: Watched, index_path: Path) -> None:
    watched.open("#/class/coin")
    options = watched.page.locator("main select option").evaluate_all("all => all.map(o => o.value)")
    assert "effect" in options
    assert len(options) == 7
    with Index(index_path) as index:
        for by in options:
            watched.page.select_option("main select", by)
            rows = index.key_neurons("coin", 8, by=by)
            shown = watched.page.locator(".keys .who").all_inner_texts()
            units = [int(re.search(r"· (\d+)", text)[1]) for text in shown]  # type: ignore[index]
            assert units == rows.unit.tolist(), by


def test_effects_under_the_exemplars(watched: Watched) -> None:
    _altered(watched, "neuron/5/16", lambda data: data["exemplars"]["top"].update(effect=[-0.12, None] + [0.5] * 18))
    watched.open(NEURON)
    captions = watched.page.locator("figcaption")
    assert [captions.nth(i).locator(".effect").all_inner_texts() for i in range(3)] == [
        ["effect −0.120"],
        [],
        ["effect 0.500"],
    ]
    assert "fall" in watched.page.locator(".effect").first.get_attribute("title")
    watched.page.click("text=weakest")
    assert watched.page.locator(".effect").count() == SHOWN["bottom"]  # those of the index


def test_a_neurons_page_is_light(watched: Watched) -> None:
    watched.open(NEURON)
    assert len(watched.requests) <= 8
    sizes = [len(one.response().body()) for one in watched.requests]
    assert sum(sizes) <= 200_000


def test_maps_lie_on_their_pictures_pixel_by_pixel(watched: Watched, index_path: Path) -> None:
    """Opacity in the browser is that of the same map in the colours of vitdex's heatmaps."""
    watched.open(NEURON)
    page = watched.page
    boxes = page.evaluate(
        "[...document.querySelectorAll('.frame')].map(f => ['img', 'canvas'].map(k => { const b = f.querySelector(k)"
        ".getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }))"
    )
    assert len(boxes) == 20
    assert all(picture == map_ for picture, map_ in boxes)
    ends = [float(t.replace("−", "-")) for t in page.inner_text(".foot .legend").split()]
    page.locator("input[type=range]").evaluate("i => { i.value = 1; i.dispatchEvent(new Event('input')) }")
    with Index(index_path) as index:
        exemplars = index.exemplars("blocks.5.mlp.fc1", 16, 20)
        shown = [index.map("blocks.5.mlp.fc1", 16, i) for i in exemplars.image_id]
        scale = _scale(index)
    assert ends == pytest.approx([scale.low, scale.high], abs=0.01)
    for word, upsampled in (("smooth", smooth), ("patches", blocky)):
        page.click(f"button:text-is('{word}')")
        for i in (0, 7, 19):
            opacity = 0.75 * np.minimum(1, np.abs(scale(upsampled(shown[i], 96, 96))) * 1.5)
            found = _alpha(page, i)
            assert np.abs(found / 255 - opacity).max() < 0.02


def _scale(index: Index) -> Scale:
    """The scale of a neuron's page: its quantiles 0.001 and 0.999, and all maps that it shows."""
    sides = [index.exemplars("blocks.5.mlp.fc1", 16, k, side) for side, k in SHOWN.items()]
    maps = [index.map("blocks.5.mlp.fc1", 16, i) for rows in sides for i in rows.image_id]
    card = index.neuron("blocks.5.mlp.fc1", 16)
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    return Scale(min(0.0, low, card.thresholds.q001), max(0.0, high, card.thresholds.q999))


def _alpha(page: Any, number: int) -> Any:
    text = page.evaluate(
        "n => { const c = document.querySelectorAll('.frame canvas')[n], d = c.getContext('2d').getImageData(0, 0, "
        "c.width, c.height).data; return btoa(String.fromCharCode(...d.filter((_, i) => i % 4 === 3))) }",
        number,
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(96, 96)


def test_a_patch_shows_its_neurons(watched: Watched, index_path: Path) -> None:
    watched.open("#/image/91")
    with Index(index_path) as index:
        top = index.arrays["blocks.5.mlp.fc1/token_top"][91]
    box = watched.page.locator(".patches").bounding_box()
    watched.page.mouse.move(box["x"] + box["width"] * 2.5 / 8, box["y"] + box["height"] * 6.5 / 8)
    assert watched.page.inner_text("#where") == "Patch in row 7, column 3"
    chips = watched.page.locator(".tops .row").last.locator(".chip").all_inner_texts()
    assert [int(text.split()[0]) for text in chips] == top[1 + 6 * 8 + 2].tolist()
    watched.page.focus(".patches")
    watched.page.keyboard.press("ArrowUp")
    assert watched.page.inner_text("#where") == "Patch in row 6, column 3"


def test_the_map_leads_to_neurons(watched: Watched) -> None:
    watched.open("#/map")
    page = watched.page
    canvas = page.locator(".stage canvas").bounding_box()
    middle = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -600)
    for right in range(1, 400, 4):  # where points lie differs from processor to processor
        page.mouse.move(middle[0] + right, middle[1])
        page.wait_for_timeout(50)
        if page.locator(".tip:not([hidden])").count():
            break
    place, unit = page.inner_text(".tip b").split(" · ")
    if page.evaluate("document.querySelectorAll('#nav a[data-kind=sql]').length"):  # the export holds some neurons
        page.mouse.click(middle[0] + right, middle[1])
        watched.heading(f"{place} · neuron {unit}")


def test_points_lie_where_their_neurons_are(watched: Watched) -> None:
    """The outermost points as drawn: under the pointer is the neuron that the data has there, in its colour."""
    watched.open("#/map")
    page = watched.page
    page.click("button:text-is('block')")
    page.wait_for_timeout(300)
    canvas = page.locator(".stage canvas")
    box, data = canvas.bounding_box(), page.evaluate("fetch('data/map.json').then(r => r.json())")
    neurons = [(place, unit) for place, units in data["layers"] for unit in range(units)]
    seen = _pixels(canvas)
    points = np.abs(seen - seen[2, -2]).max(2) > 60
    points[:, :60] = points[-40:] = False  # the axes
    rows, columns = np.nonzero(points)
    for axis, which in (("x", columns.argmax()), ("y", rows.argmin())):
        codes = np.frombuffer(base64.b64decode(data["spaces"]["scores"][axis]), "<u2")
        place, unit = neurons[int(codes.argmax())]
        page.mouse.move(box["x"] + int(columns[which]), box["y"] + int(rows[which]))
        page.wait_for_function(
            "t => document.querySelector('.tip b')?.textContent === t", arg=f"Block {place} · {unit}"
        )
        button = page.locator(f".maplegend button:text-is('block {place}')")
        button.click()  # all others are faint
        page.wait_for_timeout(300)
        colour = [int(n) for n in re.findall(r"\d+", button.locator(".dot").evaluate("d => d.style.background"))]
        near = _pixels(canvas)[rows[which] - 5 : rows[which] + 6, columns[which] - 5 : columns[which] + 6]
        assert np.abs(near - colour).max(2).min() < 15
        button.click()


def _pixels(canvas: Any) -> Any:
    """Red, green and blue of a canvas, [row, column, 3]."""
    text, width = canvas.evaluate(
        "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let t = ''; "
        "for (let i = 0; i < d.length; i += 9999) t += String.fromCharCode(...d.subarray(i, i + 9999)); "
        "return [btoa(t), c.width] }"
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, width, 4)[..., :3].astype(int)


def test_a_map_says_how_it_was_made(watched: Watched) -> None:
    """Of neighbours: how many it keeps, and no axes; of principal components: their shares, and axes."""

    def four(data: Any) -> None:
        for one in data["spaces"].values():
            if one["kept"]:
                one["kept"] = {"near": 10, "within": 100, "share": 0.42, "chance": 0.003}

    _altered(watched, "map", four)
    watched.open("#/map")
    page = watched.page
    assert page.locator("main select option").all_inner_texts() == [
        f"{what}, {how}"
        for how in ("neighbours (t-SNE)", "principal components")
        for what in ("value vectors", "class scores")
    ]
    said = "Of a neuron's 10 nearest in the full space, 42 % are among the nearest 100 points here; by chance 0.30 %."
    assert page.locator("main select").input_value() == "scores"
    assert "t-SNE" in page.inner_text(".card > .note")
    assert said in page.inner_text(".card > .note")
    assert not _has_axes(page)
    page.select_option("main select", "scores-axes")
    page.wait_for_timeout(200)
    assert page.url.endswith("#/map/scores-axes")
    assert "% of the variance" in page.inner_text(".card > .note")
    assert said in page.inner_text(".card > .note")
    assert _has_axes(page)


def _has_axes(page: Any) -> bool:
    """Whether a straight line of one colour, not the paper's, stands at the left edge of the map."""
    line = _pixels(page.locator(".stage canvas"))[20:-60, 48]
    colours, counts = np.unique(line, axis=0, return_counts=True)
    return bool(colours[counts.argmax()][0] < 200)


def test_sql_is_asked_of_the_served_atlas_alone(watched: Watched) -> None:
    watched.open("#/sql")
    if "Nothing" in watched.page.inner_text("h1"):
        assert "below" in watched.base
        return
    watched.page.fill("textarea", "SELECT '<b>' AS \"<i>\", 7 AS n")
    watched.page.click("text=Run")
    watched.page.wait_for_selector("td")
    assert watched.page.locator("td, th").all_inner_texts() == ["<i>", "n", "<b>", "7"]
    watched.page.fill("textarea", "DROP TABLE classes")
    watched.page.click("text=Run")
    watched.page.wait_for_selector(".error")
