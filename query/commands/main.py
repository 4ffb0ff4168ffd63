"""The command line. Errors become one line and exit status 2; `--debug` shows where they come from."""

from __future__ import annotations

import io
import os
import sys
import warnings
from importlib import import_module
from typing import Any

import click

from ...schemas.errors import VitdexError, VitdexWarning
from ...schemas.shown_text import escaped
from .terminal import say

# Every command: where it lies, and what the list of commands says of it. Imported when it is asked for, and not to be
# listed.
COMMANDS = {
    "index": ("vitdex.indexer.command:index_command", "Read images once with a ViT and leave an index."),
    "head": ("vitdex.indexer.command:head_command", "Make an index with another head from a finished one."),
    "info": ("vitdex.query.commands.info:info_command", "What an index holds, how it was made, what failed."),
    "verify": ("vitdex.query.commands.info:verify_command", "Compare every file of an index with its checksum."),
    "publish": (
        "vitdex.query.commands.publish:publish_command",
        "Copy an index to a folder, a bucket or the hub, and check it.",
    ),
    "sql": ("vitdex.query.commands.sql:sql_command", "Ask an index in SQL (read-only)."),
    "top": ("vitdex.query.commands.lookups:top_command", "Key neurons of a class, or images that drive neurons."),
    "neighbours": (
        "vitdex.query.commands.lookups:neighbours_command",
        "Images nearest to one, as some neurons see it.",
    ),
    "heatmap": ("vitdex.query.commands.heatmap:heatmap_command", "Neurons over the images that the model saw."),
    "dissect": ("vitdex.query.commands.dissect:dissect_group", "Classes and neurons taken apart: tables, figures."),
    "effects": (
        "vitdex.query.commands.effects:effects_command",
        "What each answer loses without each neuron (estimate).",
    ),
    "faithfulness": (
        "vitdex.query.commands.faithfulness:faithfulness_command",
        "Which view finds the patches that matter.",
    ),
    "ablate": ("vitdex.query.commands.ablate:ablate_command", "What answers lose without neurons, by forward passes."),
    "subject": ("vitdex.query.commands.subject:subject_command", "How much of what neurons cause lies on the object."),
    "rankings": ("vitdex.query.commands.rankings:rankings_command", "Which ranking finds the neurons that matter."),
    "generate": ("vitdex.query.commands.generate:generate_command", "Make images that excite a neuron."),
    "atlas": ("vitdex.query.commands.atlas:atlas_group", "Every neuron, class and image a page in the browser."),
    "export": ("vitdex.query.commands.exchange:export_group", "Write what other tools read."),
    "import": ("vitdex.query.commands.exchange:import_group", "Read what other tools have said of neurons."),
    "cache": ("vitdex.query.commands.cache:cache_command", "What is kept here of indexes at addresses."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vitdex", prog_name="vitdex")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """What every MLP neuron of a Vision Transformer does: make an index, ask it."""


def words() -> list[str]:
    """The words of the command line, read as UTF-8 where Python took them for ASCII: names and SQL have any letters.

    FileType gives paths back their bytes; `vitdex index` and `vitdex head` take nothing but paths.
    """
    if sys.argv[1:2] in (["index"], ["head"]):
        return sys.argv[1:]
    return [os.fsencode(word).decode("utf-8", "surrogateescape") if _is_raw(word) else word for word in sys.argv[1:]]


def _is_raw(word: str) -> bool:
    """Whether there are bytes in a word that Python could not read."""
    return any("\udc80" <= letter <= "\udcff" for letter in word)


_format_warning = warnings.formatwarning


def _warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
    """Our own as a line. A library's may hold a name: matplotlib's of a letter that the font lacks does."""
    if category is VitdexWarning:
        return escaped(f"Warning: {message}.") + "\n"
    return escaped(_format_warning(message, category, *where, **more), lines=True)


def _lacks_memory(error: RuntimeError) -> bool:
    """Whether torch, which is not loaded here, says that a device or the machine has too little memory."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def main() -> None:
    """Entry point."""
    # an older timm uses what a newer torch will drop one day: nothing that a user can act on
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
    warnings.formatwarning = _warning
    for stream in (sys.stdout, sys.stderr):  # to a file or program in UTF-8; a letter that a terminal lacks as \\u
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    try:
        cli(words(), standalone_mode=False)
    except VitdexError as error:
        if "--debug" in sys.argv:
            raise
        line = str(error)
        say(f"Error: {line}{'' if line.endswith(('.', '?')) else '.'}")
        sys.exit(2)
    except click.ClickException as error:
        error.show(shown := io.StringIO())
        click.echo(escaped(shown.getvalue(), lines=True), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as stop:  # a command that can be taken up again says so
        say("")
        say(" ".join(["Stopped.", *map(str, stop.args)]))
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except MemoryError:
        if "--debug" in sys.argv:
            raise
        say("Error: there is not enough memory for that. Ask for less.")
        sys.exit(2)
    except RuntimeError as error:
        if "--debug" in sys.argv or not _lacks_memory(error):
            raise
        say("Error: there is not enough memory for that, on the GPU if it is one. A smaller --batch-size needs less.")
        sys.exit(2)
    except OSError as error:  # a full or failing disk, a folder without permission
        if "--debug" in sys.argv:
            raise
        say(f"Error: {error.strerror or error}: {error.filename or 'writing failed'}. Mend it and repeat.")
        sys.exit(2)
