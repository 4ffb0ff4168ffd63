"""A web server of a folder that answers ranges, in a thread; it counts what it is asked, and can be slow or broken."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


@dataclass
class Web:
    """What lies in a folder, at an address."""

    folder: Path
    address: str = ""
    delay: float = 0.0  # seconds before every answer
    ranges: bool = True  # whether it knows what a range is
    breaks: Callable[[str], bool] = lambda path: False  # whether the connection ends in the middle of this answer
    status: Callable[[str], int] = lambda path: 200  # what it answers instead of the file, where that is not 200
    asked: list[tuple[float, str, int]] = field(default_factory=list)  # when, path, bytes sent

    def journeys(self, since: int) -> int:
        """How often somebody waited: requests that overlap in time are one journey."""
        end, count = -1.0, 0
        for began, _, _ in sorted(self.asked[since:]):
            if began > end:
                count, end = count + 1, began + self.delay
        return count

    def bytes(self, since: int) -> int:
        return sum(sent for _, _, sent in self.asked[since:])


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *told: Any) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            began = time.monotonic()
            time.sleep(web.delay)
            key = unquote(self.path.split("?")[0]).lstrip("/")
            status, file = web.status(key), web.folder / key
            if status == 200 and not file.is_file():
                status = 404
            if status != 200:
                self._say(status, {}, b"")
                return
            content, headers = file.read_bytes(), {}
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if asked and web.ranges:
                first, size = int(asked[1]), len(content)
                last = min(int(asked[2] or size), size - 1)
                content, status = content[first : last + 1], 206
                headers = {"Content-Range": f"bytes {first}-{last}/{size}"}
            web.asked.append((began, key, len(content)))
            self._say(status, headers, content, len(content) // 2 if web.breaks(key) else None)

        def _say(self, status: int, headers: dict[str, str], content: bytes, sent: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else content[:sent])
            self.close_connection = sent is not None

    return Handler


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def on_the_web(folder: Path) -> Iterator[Web]:
    """A folder served on this machine."""
    web = Web(folder)
    with serving(_handler(web)) as web.address:
        yield web
