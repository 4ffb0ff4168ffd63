"""The served atlas answers its own pages, on this machine, and gives nobody anything else."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from atlas_carriers import Answer, ask, served
from conftest import vitdex
from vitdex.query.atlas.atlas import Atlas
from vitdex.query.atlas.files import data_file, front_end
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError

pytest.importorskip("starlette", reason="the extra vitdex[atlas] is not installed")
pytest.importorskip("uvicorn", reason="the extra vitdex[atlas] is not installed")

from vitdex.query.atlas.serve import QUERY_BYTES, listen


@pytest.fixture(scope="module")
def address(sample_path: Path) -> Iterator[str]:
    with served(sample_path) as found:
        yield found


def sql(address: str, query: str) -> Answer:
    return ask(address, "/sql", "POST", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"})


def test_it_serves_the_front_end_and_the_data_of_the_pages(address: str, sample_path: Path) -> None:
    for name, file in front_end().items():
        assert ask(address, f"/{name}").content == file.content
    assert ask(address, "/").content == front_end()["index.html"].content
    with Index(sample_path) as index:
        atlas = Atlas(index)
        for name in ("data/neuron/4/473.json", "data/neuron/4/473.jpgs", "data/class/2.json", "data/image/17.jpg"):
            assert ask(address, f"/{name}").content == data_file(atlas, name).content
    start = ask(address, "/data/start.json")
    assert start.headers["content-type"] == "application/json"
    assert start.json["console"] is True


def test_what_a_browser_has_is_not_sent_again_and_text_is_zipped(address: str) -> None:
    first = ask(address, "/data/neuron/4/473.json", headers={"Accept-Encoding": "gzip"})
    assert first.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(first.content))["unit"] == 473
    tag = first.headers["etag"]
    again = ask(address, "/data/neuron/4/473.json", headers={"If-None-Match": tag})
    assert (again.status, again.content) == (304, b"")
    assert ask(address, "/data/neuron/4/474.json", headers={"If-None-Match": tag}).status == 200


@pytest.mark.parametrize("path", ["/", "/data/start.json", "/nothing", "/data/neuron/99/0.json"])
def test_every_answer_forbids_foreign_code(path: str, address: str) -> None:
    policy = ask(address, path).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:{port}.evil.example", ""]
)
def test_another_host_is_refused(host: str, address: str) -> None:
    named = host.format(port=urlsplit(address).port)
    for path in ("/", "/data/start.json"):
        answer = ask(address, path, headers={"Host": named})
        assert answer.status in (400, 421)
        assert b"vit_tiny" not in answer.content
    answer = ask(
        address, "/sql", "POST", b'{"query": "FROM classes"}', {"Host": named, "Content-Type": "application/json"}
    )
    assert answer.status in (400, 421)


def test_pages_of_others_are_refused_and_our_own_names_are_not(address: str) -> None:
    port = urlsplit(address).port
    body, kind = b'{"query": "SELECT 1 AS a"}', {"Content-Type": "application/json"}
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", "http://127.0.0.1:1"):
        assert ask(address, "/data/start.json", headers={"Origin": origin}).status == 403
        assert ask(address, "/sql", "POST", body, {**kind, "Origin": origin}).status == 403
    for name in ("127.0.0.1", "localhost"):
        own = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
        assert ask(address, "/sql", "POST", body, {**kind, **own}).json == {"rows": 1, "records": [{"a": 1}]}


@pytest.mark.parametrize(
    "path",
    [
        "/../manifest.json", "/data/../../manifest.json", "/static/../manifest.json", "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd", "/etc/passwd", "/static/..%2f..%2fpyproject.toml", "/data/neuron/..%2f..%2fx/0.json",
        "/static/", "/data", "/manifest.json", "/data/neuron/0/0.json%00.html", "/static\\..\\x", "/data/image/1e3",
        "/" + "a" * 8000,
    ],
)  # fmt: skip
def test_no_other_path_leads_anywhere(path: str, address: str) -> None:
    answer = ask(address, path)
    assert answer.status == 404
    assert set(answer.json) == {"error"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(method: str, address: str) -> None:
    answer = ask(address, "/data/start.json", method, b"")
    assert answer.status == 405
    assert "default-src 'none'" in answer.headers["content-security-policy"]


HOSTILE = [
    "COPY classes TO '/tmp/atlas-was-here.csv'", "DELETE FROM classes", "CREATE TABLE t AS SELECT 1", "INSTALL httpfs",
    "FROM read_text('/etc/passwd')", "ATTACH '/tmp/x.duckdb'", "SET threads = 64", "SELECT 1; DROP TABLE classes",
    "FROM nothing", "SELECT", "", "SELECT getenv('HOME')", "PRAGMA database_list",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE)
def test_hostile_sql_is_refused_in_words(query: str, address: str) -> None:
    answer = sql(address, query)
    assert answer.status == 400
    assert len(answer.json["error"].splitlines()) == 1
    assert "root:" not in answer.json["error"]


def test_sql_answers_within_its_limits(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sql(address, "SELECT count(*) AS n FROM neurons").json == {"rows": 1, "records": [{"n": 6 * 768}]}
    assert sql(address, "FROM class_scores").status == 413
    assert sql(address, "SELECT '" + "x" * QUERY_BYTES + "'").status == 413
    for body in (b"", b"{", b"[]", b'"x"', b'{"query": 3}', b'{"query": null}', b"[" * 5000, b"\xff"):
        assert ask(address, "/sql", "POST", body, {"Content-Type": "application/json"}).status == 400
    assert ask(address, "/sql", "POST", b'{"query": "SELECT 1"}', {"Content-Type": "text/plain"}).status == 415
    with ThreadPoolExecutor(6) as pool:  # each takes a second at least
        states = [
            a.status for a in pool.map(lambda _: sql(address, "SELECT sum(a.score) FROM class_scores a"), range(6))
        ]
    assert set(states) == {200, 429}


def test_answers_wait_for_nobody() -> None:
    """An answer's body goes out at once, and not when the browser has confirmed the headers."""

    async def sends_at_once() -> int:
        loop = asyncio.get_running_loop()
        connected: asyncio.Future[socket.socket] = loop.create_future()

        class Met(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                connected.set_result(transport.get_extra_info("socket"))

        async with await loop.create_server(Met, sock=(own := listen(0))):
            with socket.create_connection(own.getsockname()):
                return (await connected).getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    assert asyncio.run(sends_at_once())


def test_it_listens_on_this_machine_alone_and_a_taken_port_is_said(sample_path: Path) -> None:
    with listen(0) as own:
        host, port = own.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(QueryError, match=f"port {port} cannot be used"):
            listen(port)
        ended = vitdex("atlas", "serve", sample_path, "--port", str(port))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "--port N" in ended.stderr


def test_many_ask_at_once_and_the_index_stays_as_it_is(address: str, sample_path: Path) -> None:
    names = [
        f"/data/neuron/{place}/{unit}.{kind}" for place in range(6) for unit in (1, 2) for kind in ("json", "jpgs")
    ]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda name: ask(address, name), names * 2))
    assert {answer.status for answer in answers} == {200}
    half = len(names)
    assert [a.content for a in answers[:half]] == [a.content for a in answers[half:]]
    with Index(sample_path) as index:
        assert index.verify() == []
    assert not (sample_path / "notes.duckdb").exists()
