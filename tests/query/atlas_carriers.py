"""An atlas as browsers meet it: served by the command line, and exported to a folder of a plain static host."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CODE = "from vitdex.query.commands.main import main; main()"


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@contextmanager
def served(index: Path) -> Iterator[str]:
    """The address of `vitdex atlas serve INDEX`, in a process of its own."""
    command = [sys.executable, "-u", "-c", CODE, "atlas", "serve", str(index), "--port", "0"]
    with _running(command) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """The address of a folder on Python's own static host, which ignores Range."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with _running(command) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split("(")[1].split(")")[0]


@contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        if process.stdout is not None:
            process.stdout.close()


def ask(
    address: str, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """What a server says to a request whose path goes out as it is written."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=120)
    sent = {"Host": place.netloc, **(headers or {})}
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {**sent, **({"Content-Length": str(len(body))} if body is not None else {})}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    found = connection.getresponse()
    answer = Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
    connection.close()
    return answer
