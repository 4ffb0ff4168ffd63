"""A page of the atlas in a notebook: framed by pages of this machine, gone with the object, the `with`, the index."""

from __future__ import annotations

import gc
import html
import http.server
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from atlas_carriers import ask, served
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError

pytest.importorskip("starlette", reason="the extra vitdex[atlas] is not installed")
pytest.importorskip("uvicorn", reason="the extra vitdex[atlas] is not installed")

from vitdex.query.atlas.notebook import AtlasPage, place_of

NEURON = "blocks.5.mlp.fc1:16"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def index(sample_path: Path) -> Iterator[Index]:
    with Index(sample_path) as opened:
        yield opened


def listens(page: AtlasPage) -> bool:
    place = urlsplit(page.address)
    try:
        socket.create_connection((place.hostname, place.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def ends(page: AtlasPage) -> bool:
    """Whether a port is free within a few seconds: what nobody waits for takes a moment."""
    for _ in range(100):
        if not listens(page):
            return True
        time.sleep(0.1)
    return False


def servers() -> int:
    return sum(thread.name.startswith("vitdex atlas") for thread in threading.enumerate())


def policy_of(address: str) -> str:
    return ask(address, "/").headers["content-security-policy"]


def test_a_page_serves_what_it_names_until_it_is_closed(index: Index) -> None:
    with index.atlas(NEURON) as page:
        assert page.address.endswith("/#/neuron/blocks.5.mlp.fc1/16")
        assert urlsplit(page.address).hostname == "127.0.0.1"
        assert ask(page.address, "/data/neuron/5/16.json").json["unit"] == 16
        assert not page.closed
        assert page.address in repr(page)
    assert page.closed
    assert not listens(page)
    assert "closed" in repr(page)
    assert "iframe" not in page._repr_html_()
    page.close()


def test_pages_of_an_index_share_a_server_that_ends_with_the_last(index: Index) -> None:
    one, two = index.atlas(NEURON), index.atlas(class_="coin")
    assert urlsplit(one.address).port == urlsplit(two.address).port
    assert servers() == 1
    one.close()
    assert (one.closed, two.closed) == (True, False)
    assert ask(two.address, "/data/start.json").status == 200
    two.close()
    assert not listens(two)
    with index.atlas() as again:
        assert ask(again.address, "/data/start.json").status == 200


def test_it_ends_with_its_index(sample_path: Path) -> None:
    with Index(sample_path) as index:
        page = index.atlas(NEURON)
        assert listens(page)
    assert page.closed
    assert not listens(page)
    assert servers() == 0
    with pytest.raises(QueryError, match="closed"):
        index.atlas(NEURON)


def test_it_ends_with_the_object_that_nothing_holds(index: Index) -> None:
    page = index.atlas(NEURON)
    page = index.atlas(class_="coin")  # a cell run again: the new page comes before the old one goes
    assert listens(page)
    place = AtlasPage(page.server, object(), "", "", 1)
    del page
    gc.collect()
    assert ends(place)


def test_it_keeps_no_program_from_ending(sample_path: Path) -> None:
    code = f"from vitdex.query import Index; page = Index({str(sample_path)!r}).atlas(); print(page.address)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "asked",
    [
        {"neuron": "blocks.5.mlp.fc1:768"}, {"neuron": "blocks.9.mlp.fc1:0"}, {"neuron": "16"}, {"class_": "coyn"},
        {"class_": 99}, {"image": "no.jpg"}, {"image": -1}, {"neuron": NEURON, "class_": "coin"},
    ],
)  # fmt: skip
def test_a_wrong_name_is_said_before_anything_is_served(asked: dict[str, str | int], index: Index) -> None:
    with pytest.raises(QueryError):
        index.atlas(**asked)  # type: ignore[arg-type]
    assert servers() == 0


def test_a_port_may_be_named_and_is_not_silently_another(index: Index) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(QueryError, match="cannot be used"):
            index.atlas(port=port)
    with index.atlas(port=port) as page:
        assert urlsplit(page.address).port == port
        with index.atlas(NEURON, port=port):
            assert servers() == 1
        with pytest.raises(QueryError, match=f"at port {port}"):
            index.atlas(port=port + 1)
        assert ask(page.address, "/data/start.json").status == 200
    assert not listens(page)


def test_what_is_missing_is_said_and_only_where_it_is_asked_for(sample_path: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from vitdex.query import Index\n"
        f"index = Index({str(sample_path)!r})\n"
        "assert 'starlette' not in sys.modules\n"
        "try:\n    index.atlas()\n"
        "except Exception as error:\n    print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.strip() == "QueryError uvicorn is not installed. Install vitdex[atlas]."


def test_only_pages_of_this_machine_may_frame_it_and_the_served_atlas_nobody(index: Index, sample_path: Path) -> None:
    with index.atlas() as page:
        ancestors = re.search(r"frame-ancestors ([^;]*)", policy_of(page.address))
        assert ancestors is not None
        for one in ancestors[1].split():
            assert re.fullmatch(r"https?://(127\.0\.0\.1|localhost):\*", one)
        for host, origin in (("evil.example", None), (None, "http://evil.example"), (None, "http://127.0.0.1:1")):
            own = urlsplit(page.address).netloc
            sent = {"Host": host or own, **({"Origin": origin} if origin else {})}
            assert ask(page.address, "/data/start.json", headers=sent).status in (403, 421)
    with served(sample_path) as address:
        assert "frame-ancestors 'none'" in policy_of(address)


def test_names_of_an_index_are_text_in_the_frame(sample_path: Path, tmp_path: Path) -> None:
    hostile = tmp_path / "\"><script>alert(1)<script>\u202e'&.vitdex"
    shutil.copytree(sample_path, hostile)
    with Index(hostile) as index, index.atlas(NEURON) as page:
        shown = page._repr_html_()
        assert "<script" not in shown
        assert "\u202e" not in shown
        title = re.search(r'title="([^"]*)"', shown)
        assert title is not None
        assert html.unescape(title[1]) == "Atlas of " + hostile.name.replace("\u202e", "\\u202e")
        assert f'src="{page.address}"' in shown


def test_classes_are_found_by_what_the_front_end_knows_them_by(index: Index) -> None:
    assert place_of(index, class_="coin") == "#/class/coin"
    index.classes.loc[[0, 1], "name"] = "a/b 'c'"
    index.classes.loc[2, "name"] = "1"
    assert place_of(index, class_=2) == "#/class/1"
    assert place_of(index, class_=0) == f"#/class/{index.classes.wnid[0] if index.classes.wnid.notna()[0] else 0}"
    index.classes.loc[1, "name"] = "other"
    assert place_of(index, class_=0) == "#/class/a%2Fb%20%27c%27"
    assert place_of(index, image=91) == "#/image/91"


def test_the_notebook_asks_while_the_server_answers(index: Index) -> None:
    names = [f"/data/neuron/{place}/{unit}.json" for place in range(6) for unit in range(4)]
    expected = index.sql("SELECT layer, unit, pre_mean FROM neurons ORDER BY ALL LIMIT 50")
    with index.atlas() as page, ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda name: ask(page.address, name), names * 4)
        for _ in range(60):
            assert index.db.execute("SELECT 7 FROM range(3)").fetchall() == [(7,)] * 3
            assert index.sql("SELECT layer, unit, pre_mean FROM neurons ORDER BY ALL LIMIT 50").equals(expected)
        assert {answer.status for answer in answers} == {200}


def test_closing_the_index_amid_answers_is_no_fault(sample_path: Path) -> None:
    index = Index(sample_path)
    page = index.atlas()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, page.address, f"/data/class/{row}.json") for row in range(8)]
        time.sleep(0.05)
        index.close()
        states = {one.exception() is None and one.result().status for one in asked}
    assert states <= {200, False}  # answered, or refused as the port is
    assert not listens(page)


@contextmanager
def notebook(page: AtlasPage, folder: Path) -> Iterator[str]:
    """The address of a page of this machine, as a notebook is one, that holds what the cell shows."""
    text = f'<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body>{page._repr_html_()}'
    (folder / "cell.html").write_text(text, encoding="utf-8")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as host:
        thread = threading.Thread(target=host.serve_forever, daemon=True)
        thread.start()
        yield f":{host.server_address[1]}/cell.html"
        host.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_real_browser_shows_it_inside_the_notebook(index: Index, sample_path: Path, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with index.atlas(NEURON) as page, notebook(page, tmp_path) as cell, sync_api.sync_playwright() as drives:
        browser = drives.chromium.launch(executable_path=CHROMIUM)
        for host in ("127.0.0.1", "localhost"):
            tab = browser.new_page()
            faults: list[str] = []
            tab.on("console", lambda said, into=faults: into.append(said.text) if said.type == "error" else None)
            tab.on("pageerror", lambda error, into=faults: into.append(str(error)))
            tab.goto(f"http://{host}{cell}")
            frame = tab.frame_locator("iframe")
            assert frame.locator("main h1").inner_text(timeout=20_000) == "Block 5 · neuron 16"
            frame.locator("main img, main canvas").first.wait_for(timeout=20_000)
            assert faults == []
            tab.close()
        with served(sample_path) as closed_to_all:
            shown = page._repr_html_().replace(page.address.split("#")[0], closed_to_all)
            (tmp_path / "cell.html").write_text(shown, encoding="utf-8")
            tab = browser.new_page()
            tab.goto(f"http://127.0.0.1{cell}")
            tab.wait_for_timeout(1500)
            assert tab.frame_locator("iframe").locator("main h1").count() == 0
        browser.close()
