"""The page of all commands, out of click: what `--help` says, command by command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
from vitdex.query.commands.main import cli

HEAD = """# Commands

`vitdex VERB INDEX ...`: what is read is INDEX, what is made is OUT. `-o FILE` writes to a file, whose suffix decides
between a picture and a table; `--format`, or `--csv` and `--json` for short, is the form of the answer on the terminal.
`vitdex --debug VERB ...` shows a traceback with an error, and every command has `--help`.

Exit status: 0 all is well; 1 `vitdex verify` found something; 2 an error, said in one line; 130 stopped by Ctrl-C.
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name, groups before their members."""
    yield from _below("vitdex", cli)


def _below(name: str, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    ctx = click.Context(group)
    for verb in group.list_commands(ctx):
        command = group.get_command(ctx, verb)
        assert command is not None
        yield f"{name} {verb}", command
        if isinstance(command, click.Group):
            yield from _below(f"{name} {verb}", command)


def command_page() -> str:
    """Markdown: a section for every command."""
    return HEAD + "".join(_section(name, command) for name, command in commands())


def _section(name: str, command: click.Command) -> str:
    ctx = click.Context(command, info_name=name)
    lines = [f"\n{'#' * (name.count(' ') + 1)} {name}\n", _help(command), ""]
    if not isinstance(command, click.Group):
        lines += [f"```text\n{name} {' '.join(command.collect_usage_pieces(ctx))}\n```\n"]
        options = [parameter for parameter in command.get_params(ctx) if isinstance(parameter, click.Option)]
        records = filter(None, (option.get_help_record(ctx) for option in options))
        lines += [f"- `{words}`: {text}" for words, text in records if "--help" not in words]
    return "\n".join(lines) + "\n"


def _help(command: click.Command) -> str:
    """The help text; what it marks as not to be wrapped (examples) becomes a block."""
    text = inspect.cleandoc(command.help or "")
    return re.sub(r"\x08\n(.*?)(?:\n\n|\Z)", r"```text\n\1\n```\n\n", text, flags=re.DOTALL).strip() + "\n"
