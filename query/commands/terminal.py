"""What the command line prints: everything but usage goes through here, escaped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from ...schemas.progress import Progress
from ...schemas.shown_text import escaped


def tell(line: str) -> None:
    """A line that is the answer."""
    click.echo(escaped(line))


def say(line: str) -> None:
    """A line about the answer, where it does not mix with it."""
    click.echo(escaped(line), err=True)


def hand_out(text: str, end: bool = True) -> None:
    """A table's text or a piece of it. A program gets it as it is, a terminal what it can show."""
    click.echo(escaped(text, lines=True) if sys.stdout.isatty() else text, nl=end)


@contextmanager
def progress_bar(what: str, unit: str = "it") -> Iterator[Progress]:
    """A bar on stderr for long work, where that is a terminal; given to it as `progress`."""
    from tqdm import tqdm

    with tqdm(
        desc=escaped(what), unit=unit, unit_scale=unit == "B", disable=not sys.stderr.isatty(), leave=False
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
