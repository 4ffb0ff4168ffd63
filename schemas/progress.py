"""How long work tells how far it is: one optional callable. Bars are drawn by whoever gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TypeVar

Progress = Callable[[int, int], object]  # (done, total), in whatever unit the work counts

T = TypeVar("T")


def silent(done: int, total: int) -> None:
    """No progress at all."""


def tracked(items: Sequence[T], progress: Progress | None) -> Iterator[T]:
    """The items, telling `progress` after each of them."""
    tell = progress or silent
    for done, item in enumerate(items, start=1):
        yield item
        tell(done, len(items))


def counted(progress: Progress | None, total: int, done: int = 0) -> Callable[[int], object]:
    """What is to be told the steps of work, by several threads perhaps, where `progress` wants their sum."""
    lock = Lock()

    def advance(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            (progress or silent)(done, total)

    return advance
