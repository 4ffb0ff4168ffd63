"""The lines that the command line prints: everything but tables and usage goes through here, escaped."""

from __future__ import annotations

import click

from ...schemas.shown_text import escaped


def tell(line: str) -> None:
    """A line that is the answer."""
    click.echo(escaped(line))


def say(line: str) -> None:
    """A line about the answer, where it does not mix with it."""
    click.echo(escaped(line), err=True)
