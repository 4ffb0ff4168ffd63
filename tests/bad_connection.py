"""What lies between a client and a server of HTTP and serves it badly: connections lost, errors answered, delays."""

from __future__ import annotations

import http.client
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal

from web_server import serving

Fate = Literal["lost request", "lost answer", "error", "passed"]
OF_A_CONNECTION = ("connection", "transfer-encoding", "server", "date")
FATES: tuple[Fate, ...] = ("lost request", "lost answer", "error")


@dataclass
class BadConnection:
    """Of all requests a `share` is lost half sent, a share done and its answer lost half sent, a share refused."""

    server: str  # HOST:PORT
    share: float = 0.0
    delay: float = 0.0  # seconds before a request is passed on, at most
    away: bool = False  # whether nothing is answered at all
    address: str = ""
    chance: random.Random = field(default_factory=lambda: random.Random(3))
    met: Counter[tuple[str, Fate]] = field(default_factory=Counter)  # requests by method and fate

    def fate(self) -> Fate:
        drawn = self.chance.random()
        return FATES[int(drawn / self.share)] if drawn < len(FATES) * self.share else "passed"


def _handler(bad: BadConnection) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *told: Any) -> None: ...

        def pass_on(self) -> None:
            size, fate = int(self.headers.get("Content-Length") or 0), bad.fate()
            bad.met[self.command, fate] += 1
            self.close_connection = bad.away or fate != "passed"
            if bad.away or fate == "lost request":
                self.rfile.read(size // 2)
                return
            content = self.rfile.read(size)
            time.sleep(bad.chance.random() * bad.delay)
            if fate == "error":
                self.wfile.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            server = http.client.HTTPConnection(bad.server)
            server.request(self.command, self.path, content, dict(self.headers))
            answer = server.getresponse()
            body = answer.read()
            head = [f"HTTP/1.1 {answer.status} {answer.reason}"]
            head += [f"{name}: {value}" for name, value in answer.getheaders() if name.lower() not in OF_A_CONNECTION]
            server.close()
            sent = "\r\n".join([*head, "", ""]).encode() + body
            self.wfile.write(sent[: len(sent) // 2] if fate == "lost answer" else sent)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on

    return Handler


@contextmanager
def badly_connected(server: str) -> Iterator[BadConnection]:
    """A bad connection to http://HOST:PORT, on this machine."""
    bad = BadConnection(server.removeprefix("http://"))
    with serving(_handler(bad)) as bad.address:
        yield bad
