"""The bytes of images at an address, read here before they are wanted: the processes that decode cannot ask for them.

A forked process has none of the threads that make requests; a spawned one has, but would load torch and a list of all
images anew, seconds and hundreds of MB for each. So batches go to them with their images' bytes, in pieces of a bounded
size, which are put together again when they come back: a model is given the same batches as from a disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import chain
from typing import NamedTuple

from ...data.images.elsewhere import AT_ONCE, SourceElsewhere, many_at_once

PIECE_BYTES = 16_000_000  # of images that one process is sent at once, or a single one
AHEAD_BYTES = 64_000_000  # of images that are on their way or wait here
SENT = 2  # pieces that wait for each process: torch's prefetch_factor


class Sent(NamedTuple):
    """An image's number with its bytes, or with why there are none."""

    i: int
    found: bytes | str


def pieces(source: SourceElsewhere, batch: list[int]) -> Iterator[list[int]]:
    """A batch in pieces that are small enough to be sent."""
    piece: list[int] = []
    held = 0
    for i in batch:
        size = source.entries[i].size
        if piece and held + size > PIECE_BYTES:
            yield piece
            piece, held = [], 0
        piece.append(i)
        held += size
    yield piece


def read_ahead(source: SourceElsewhere, wanted: Iterable[list[int]], batch_size: int) -> Iterator[list[Sent]]:
    """The images of every piece, in order, while those after it are read: a batch more, or as many as fit."""
    under_way: deque[tuple[list[int], list[Future[list[bytes | str]]]]] = deque()
    images = held = 0

    def arrived() -> list[Sent]:
        nonlocal images, held
        piece, reads = under_way.popleft()
        images, held = images - len(piece), held - _bytes(source, piece)
        return list(map(Sent, piece, chain.from_iterable(read.result() for read in reads)))

    with many_at_once() as pool:
        for piece in wanted:
            under_way.append((piece, [pool.submit(source.read_together, group) for group in source.together(piece)]))
            images, held = images + len(piece), held + _bytes(source, piece)
            while images > batch_size + AT_ONCE or held > AHEAD_BYTES:
                yield arrived()
        while under_way:
            yield arrived()


def held_bytes(source: SourceElsewhere, images: int, batch_size: int, decoders: int) -> int:
    """The memory of images that are ahead, or sent to processes and not decoded, where they are of the mean size."""
    mean = sum(entry.size for entry in source.entries[:images]) // images
    return AHEAD_BYTES + PIECE_BYTES + SENT * decoders * min(PIECE_BYTES, batch_size * mean)


def _bytes(source: SourceElsewhere, ids: list[int]) -> int:
    return sum(source.entries[i].size for i in ids)
