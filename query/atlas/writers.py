"""The files of an export, written by as many processes as the machine has room for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import psutil

from ...schemas.errors import QueryError
from ...schemas.progress import Progress, silent
from ...schemas.storage.plain_files import replacing
from ..stored.stored_index import StoredIndex
from .atlas import Atlas
from .files import data_file

MEMORY = 1_500_000_000  # bytes that a process takes for ViT-B/16 and 50,000 images
AT_ONCE = 128  # files that a process is given: neurons one after the other are cheaper
FEWEST = 2_000  # files that are worth the second that a process takes to begin

_held: list[Atlas] = []  # in a worker: the atlas of which it writes


def workers_for(files: int) -> int:
    """How many processes should write so many files: as many as there are cores and memory for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(psutil.virtual_memory().available // MEMORY), files // FEWEST))


def write_files(atlas: Atlas, out: Path, addresses: Sequence[str], workers: int, progress: Progress = silent) -> None:
    """Write what lies at addresses below a folder; what is there already stays.

    Raises:
        QueryError: a worker was ended from outside.
        DamagedIndex: as the pages do.
    """
    missing = [address for address in addresses if not (out / address).exists()]
    done = len(addresses) - len(missing)
    progress(done, len(addresses))
    for count in _by_workers(atlas, out, missing, workers) if workers > 1 else _alone(atlas, out, missing):
        done += count
        progress(done, len(addresses))


def write_file(file: Path, content: bytes) -> None:
    """A file that is whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as part:
        part.write_bytes(content)


def _alone(atlas: Atlas, out: Path, addresses: Sequence[str]) -> Iterator[int]:
    for address in addresses:
        write_file(out / address, data_file(atlas, address).content)
        yield 1


def _by_workers(atlas: Atlas, out: Path, addresses: Sequence[str], workers: int) -> Iterator[int]:
    groups = iter([addresses[first : first + AT_ONCE] for first in range(0, len(addresses), AT_ONCE)])
    with _pool(atlas, workers) as pool:
        running: set[Future[int]] = set()
        while True:
            running |= {pool.submit(_write, out, group) for group in islice(groups, 2 * workers - len(running))}
            if not running:
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for one in ended:
                yield one.result()


@contextmanager
def _pool(atlas: Atlas, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that have opened the same index."""
    context = get_context("spawn")  # a fork would copy locks that threads of ours hold
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(atlas.index.layout.root,))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise QueryError("a process that wrote the atlas was ended", "Repeat the command: it goes on.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(root: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is heard by who gives the work
    _held.append(Atlas(StoredIndex(root)))


def _write(out: Path, addresses: Sequence[str]) -> int:
    for address in addresses:
        write_file(out / address, data_file(_held[0], address).content)
    return len(addresses)
