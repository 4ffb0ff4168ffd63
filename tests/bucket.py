"""A bucket of S3 on this machine, by moto's server in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

ACCESS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "hidden",
    "AWS_REGION": "us-east-1",
}


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """What a process must have in its environment to reach the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert server.poll() is None, "moto's server has ended"
                assert time.monotonic() < end, "moto's server does not answer"
                time.sleep(0.05)
            yield {**ACCESS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        finally:
            server.kill()


def make_bucket(name: str) -> str:
    """A new bucket at the server that the environment names. Returns its address."""
    import urllib.request

    request = urllib.request.Request(f"{os.environ['AWS_ENDPOINT_URL']}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{name}"
