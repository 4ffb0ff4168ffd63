"""What the command line prints: everything but usage goes through here, escaped."""

from __future__ import annotations

import sys

import click

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
