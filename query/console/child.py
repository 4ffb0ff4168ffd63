"""SQL of people, asked in a child process that can be ended whatever it does. The parent's side; light to import.

with ask_in_child("sample.vitdex", "FROM classes", ["json"], timeout=10) as answer:
    records = json.loads(answer.files["json"].read_text(encoding="utf-8"))

DuckDB counts neither what its functions take nor what Python makes of an answer, and its long functions hear no
interrupt. So the child opens the index, asks, and writes the answer as the files that are wanted. Nothing but these
files and a record in JSON come back, which whoever had made the child his own could not turn into code here, as he
could a pickle. All it leaves on the disk lies in a folder that goes with it.

What holds its memory: on Linux the operating system (RLIMIT_DATA); elsewhere the parent looks ten times a second and
ends it, except on Windows, where nothing does but DuckDB's own limits.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...schemas import errors
from ..stored.limits import TOO_MUCH, late

Kind = Literal["table", "csv", "json", "parquet"]

MEMORY_BYTES = 2_250_000_000  # of its own; with the libraries' pages and the parent 2.5 GB are never reached
GRACE = 1.0  # seconds beyond the timeout, for a start and for DuckDB to stop by itself
LOOKS = 0.1  # seconds between two looks at a child's memory, where the system does not hold it
REQUEST, SAID, NOISE = "request.json", "said.json", "noise.txt"
CODE = "import sys; sys.path[:] = {path!r}; from vitdex.query.console.answering import main; main()"
SURROUNDINGS = {  # allocators that give back what is free, and reserve nothing: RLIMIT_DATA counts that too
    "DUCKDB_JE_MALLOC_CONF": "retain:false",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Answer:
    """An answer as files, one of each kind that was asked for."""

    rows: int
    files: Mapping[Kind, Path]


@contextmanager
def ask_in_child(index: str | Path, query: str, kinds: Collection[Kind], timeout: float) -> Iterator[Answer]:
    """The answer to one reading statement. Its files last as long as the `with`.

    Args:
        kinds: what to make of the answer: 'table' is the text that the command line prints.
        timeout: seconds; the child is ended a second after them at the latest.

    Raises:
        QueryError: as Index.sql, and where the child needs more memory or time than it may have, or fails.
        BadIndex: as Index.
    """
    with tempfile.TemporaryDirectory(prefix="vitdex-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        request = {"index": str(index), "query": query, "kinds": list(kinds), "timeout": timeout}
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        said = _run(folder, timeout)
        if "error" in said:
            raise getattr(errors, said["error"])(said["fact"], said["remedy"])
        yield Answer(said["rows"], {kind: folder / kind for kind in kinds})


def _run(folder: Path, timeout: float) -> Any:
    """What a child said of the request in a folder. None is left when this ends, however it does."""
    guard = _Guard(time.monotonic() + timeout + GRACE)
    with (
        (folder / NOISE).open("wb") as noise,
        subprocess.Popen(
            [sys.executable, "-c", CODE.format(path=sys.path), str(folder)],
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends, and the child ends with it
            stdout=noise,
            stderr=noise,
            env={**os.environ, **SURROUNDINGS, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)},
        ) as child,
    ):
        try:
            guard.watch(child)
            status = child.wait()
        finally:
            child.kill()
            guard.done.set()
    if guard.reason == "time":
        raise errors.QueryError(*late(timeout))
    if guard.reason == "memory":
        raise errors.QueryError(*TOO_MUCH)
    if status or not (folder / SAID).exists():
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        fact = f"the query ended its process ({how}): DuckDB failed on it, or there was no memory left"
        failed = errors.QueryError(fact, "Ask for less, or in another way.")
        failed.add_note((folder / NOISE).read_text(encoding="utf-8", errors="replace")[-5000:])
        raise failed
    return json.loads((folder / SAID).read_text(encoding="utf-8"))


class _Guard:
    """What ends a child from outside, when its time is over or where the system does not hold its memory."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.done = threading.Event()
        self.reason: Literal["", "time", "memory"] = ""

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        threading.Thread(target=self._watch, args=[child], daemon=True).start()

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        looks = sys.platform not in ("linux", "win32")
        while not self.done.wait(LOOKS if looks else max(self.deadline - time.monotonic(), 0)):
            if time.monotonic() >= self.deadline:
                self.reason = "time"
            elif looks and resident(child.pid) > MEMORY_BYTES:
                self.reason = "memory"
            if self.reason:
                child.kill()
                return


def resident(process: int) -> int:
    """The memory in bytes that a process holds; 0 where it has ended."""
    told = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True).stdout
    return int(told or 0) * 1024


def end_with_the_parent(folder: Path) -> None:
    """In a child: end, with its folder, when the parent ends."""
    sys.stdin.buffer.read()  # until the parent's end of it is closed
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
