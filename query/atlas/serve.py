"""The atlas served to browsers on this machine, and to nobody else.

It listens on 127.0.0.1 alone. A page of another host cannot ask it, not even under a name that it has made to mean
127.0.0.1: the Host header must be ours, and the Origin, where there is one. What comes out is data, pictures and the
front end's own files; the path of a request is looked up among addresses and never opened. Nothing is written.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
import xxhash
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...schemas.errors import DamagedIndex, QueryError, VitdexError
from ..console.child import ask_in_child
from ..stored.stored_index import StoredIndex
from .atlas import Atlas
from .files import JSON, START, File, data_file, front_end
from .other_pages import start_page
from .placing import placing
from .plain import json_bytes

HERE = "127.0.0.1"
NAMES = (HERE, "localhost")
QUERY_BYTES = 20_000
ANSWER_BYTES = 4_000_000
PAGES_AT_ONCE = 2  # one computes while one reads; with more, fifty readers have half as many pages a second
SQL_SECONDS = 20.0
SQL_AT_ONCE = 2
SMALLEST_ZIPPED = 1_000  # bytes
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # ask again with the ETag: notes may have been added
}


NOBODY = "'none'"
THIS_MACHINE = " ".join(f"{scheme}://{name}:*" for scheme in ("http", "https") for name in NAMES)  # at any port


class OurOwnHost:
    """Refuses what was sent to another host's name, or from another host's page, and adds HEADERS to every answer.

    ancestors: whose pages may show ours in a frame.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], ancestors: str) -> None:
        self.app, self.hosts = app, hosts
        self.headers = {name: text.format(ancestors=ancestors) for name, text in HEADERS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = Request(scope)
        send = _with_headers(send, self.headers)
        hosts = request.headers.getlist("host")
        origins = {f"http://{host}" for host in self.hosts}
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            await _said(421, "This server answers to its own name alone.")(scope, receive, send)
        elif not origins.issuperset(request.headers.getlist("origin")):
            await _said(403, "This server answers its own pages alone.")(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return sent


def _said(status: int, text: str) -> Response:
    return Response(json_bytes({"error": text}), status, media_type=JSON)


def app_of(atlas: Atlas, port: int, framed: bool = False) -> Starlette:
    """The application that answers for an atlas at a port. framed: pages of this machine may show it in a frame."""
    hosts = frozenset(f"{name}:{port}" for name in NAMES) | (frozenset(NAMES) if port == 80 else frozenset())
    waiting = threading.BoundedSemaphore(SQL_AT_ONCE)
    pages = ThreadPoolExecutor(PAGES_AT_ONCE, thread_name_prefix="page")

    async def answer(request: Request) -> Response:
        address = request.url.path.removeprefix("/")
        return await asyncio.get_running_loop().run_in_executor(pages, _file, atlas, address, request)

    async def console(request: Request) -> Response:
        return await _console(atlas, waiting, request)

    routes = [
        Route("/sql", console, methods=["POST"]),
        Route("/{address:path}", answer, methods=["GET", "HEAD"]),
    ]
    middleware = [
        Middleware(OurOwnHost, hosts=hosts, ancestors=THIS_MACHINE if framed else NOBODY),
        Middleware(GZipMiddleware, minimum_size=SMALLEST_ZIPPED, compresslevel=5),
    ]
    return Starlette(routes=routes, middleware=middleware)


def _file(atlas: Atlas, address: str, request: Request) -> Response:
    """The file at an address, or 304 where the browser has it already."""
    try:
        file = front_end().get(address or "index.html") or _data(atlas, address)
    except QueryError as error:
        return _said(404, str(error))
    except DamagedIndex as error:
        return _said(500, str(error))
    tag = f'W/"{xxhash.xxh3_64_hexdigest(file.content)}"'
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": tag})
    return Response(file.content, headers={"ETag": tag}, media_type=file.kind)


def _data(atlas: Atlas, address: str) -> File:
    """As data_file; the start says that there is a console here, and who asks for the map sets its arranging off."""
    if address == "data/map.json":
        placing(atlas).begin()
    if address == START:
        return File(json_bytes({**start_page(atlas), "console": True}), JSON)
    return data_file(atlas, address)


async def _console(atlas: Atlas, waiting: threading.BoundedSemaphore, request: Request) -> Response:
    """The answer to a query of SQL: {"query": ...} -> {"rows": count, "records": [...]}."""
    if request.headers.get("content-type", "").split(";")[0].strip() != JSON:
        return _said(415, f"Send {JSON}.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > QUERY_BYTES:
            return _said(413, f"A query may have {QUERY_BYTES:,} bytes.")
    try:
        query = json.loads(bytes(body))["query"]
    except (ValueError, KeyError, TypeError, RecursionError):
        query = None
    if not isinstance(query, str):
        return _said(400, 'Send {"query": "..."}.')
    if not waiting.acquire(blocking=False):
        return _said(429, f"{SQL_AT_ONCE} queries are running. Try again when one has ended.")
    try:
        return await run_in_threadpool(_answered, atlas.index.layout.root, query)
    finally:
        waiting.release()


def _answered(root: Path, query: str) -> Response:
    try:
        with ask_in_child(root, query, ["json"], SQL_SECONDS) as answer:
            size = answer.files["json"].stat().st_size
            if size > ANSWER_BYTES:
                return _said(413, f"The answer has {answer.rows:,} rows, too much for a page. Add LIMIT, or aggregate.")

            records = answer.files["json"].read_bytes()
            return Response(b'{"rows":%d,"records":%s}' % (answer.rows, records), media_type=JSON)
    except VitdexError as error:
        return _said(400, str(error))


def listen(port: int) -> socket.socket:
    """A socket at a port of this machine alone; 0 for any that is free. Raises QueryError where it is taken.

    It says that it is TCP: asyncio sends small pieces at once (TCP_NODELAY) only where a socket says so, and an
    answer's body would else wait 40 ms for the browser to confirm its headers.
    """
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":  # elsewhere it would let two servers have one port
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind((HERE, port))
        own.listen(128)
    except (OSError, OverflowError) as error:
        own.close()
        raise QueryError(f"port {port} cannot be used: {error}", "Choose another: --port N; 0 takes any.") from error
    return own


def server_of(atlas: Atlas, port: int, framed: bool = False) -> uvicorn.Server:
    """What answers for an atlas at a port; its `run` takes the socket. framed: as app_of."""
    config = uvicorn.Config(
        app_of(atlas, port, framed),
        loop="asyncio",  # never one that is made the default of the whole process
        log_level="warning",
        server_header=False,
        date_header=False,
        ws="none",
    )
    return uvicorn.Server(config)


def serve(index: StoredIndex, port: int = 0, ready: Callable[[str], None] | None = None) -> None:
    """Serve an index's atlas until it is stopped (Ctrl-C).

    Args:
        port: of 127.0.0.1; 0 for any that is free.
        ready: told the address once it listens.

    Raises:
        QueryError: the port is taken.
    """
    with listen(port) as own:
        port = own.getsockname()[1]
        server = server_of(Atlas(index), port)
        if ready is not None:
            ready(f"http://{HERE}:{port}/")
        server.run(sockets=[own])
