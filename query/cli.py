"""The command line. Errors become one line and exit status 2; `--debug` shows where they come from."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import click

from ..schemas.errors import VitdexError
from .console import OUT, show, table_options
from .index import Index

# Commands of their own files, imported when asked for.
COMMANDS = {
    "index": "vitdex.indexer.command:index_command",
    "top": "vitdex.query.top_command:top_command",
    "neighbours": "vitdex.query.top_command:neighbours_command",
    "heatmap": "vitdex.query.heatmap_command:heatmap_command",
    "dissect": "vitdex.query.dissect_command:dissect",
    "milan": "vitdex.query.milan_command:milan",
    "clip-dissect": "vitdex.query.export_command:clip_dissect",
    "export": "vitdex.query.export_command:export",
    "generate": "vitdex.query.generate_command:generate_command",
    "verify": "vitdex.query.verify:verify_command",
}


class LazyGroup(click.Group):
    """A group whose larger commands are imported only when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module, attribute = COMMANDS[name].split(":")
            command: click.Command = getattr(import_module(module), attribute)
            return command
        return super().get_command(ctx, name)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("vitdex"), prog_name="vitdex")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """What every MLP neuron of a Vision Transformer does: make an index, ask it."""


@cli.command()
@OUT
@click.option("--tables", is_flag=True, help="The tables and their columns.")
def info(out: Path, tables: bool) -> None:
    """What an index holds, how it was made, what failed."""
    with Index(out) as index:
        if tables:
            shown = index.sql(
                "SELECT table_name AS 'table', string_agg(column_name, ', ' ORDER BY column_index) AS columns "
                "FROM duckdb_columns() WHERE database_name = 'vitdex_index' GROUP BY table_name ORDER BY table_name"
            )
            for name, columns in shown.itertuples(index=False):
                click.echo(f"{name}: {columns}")
            return
        spec, made = index.spec, index.manifest
        images, seconds = made["images"], made["seconds"]
        size = sum(count for count, _ in made["files"].values())
        rate = f", {images['indexed'] / seconds:.1f} images/s" if seconds else ""
        lines = {
            "model": f"{spec.model}, weights {spec.weights_sha256[:12]}",
            "layers": f"{len(spec.layers)}, {spec.layers[0].name} ... {spec.layers[-1].name}; {spec.neurons:,} neurons",
            "patches": f"{spec.grid[0]} x {spec.grid[1]}, {spec.prefix} tokens before them",
            "images": f"{images['indexed']:,} indexed, {images['failed']} failed, {len(images['skipped'])} skipped, "
            f"{images['found']:,} found in {spec.source}",
            "classes": f"{index.sql('SELECT count(*) AS n FROM classes').n[0]} ({spec.class_names})",
            "head": f"{spec.head}; reads {spec.readout}",
            "maps": spec.maps,
            "made": f"{made['created']} on {spec.device} in {spec.precision}, {seconds:.0f} s{rate}",
            "size": f"{size / 1e6:,.1f} MB in {len(made['files'])} files",
            "versions": ", ".join(f"{name} {number}" for name, number in spec.versions.items()),
        }
        for name, value in lines.items():
            click.echo(f"{name:9} {value}")
        for path, reason in index.sql("FROM failures LIMIT 20").itertuples(index=False):
            click.echo(f"failed    {path!r}: {reason}")


@cli.command()
@OUT
@click.argument("query")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=300, show_default=True, help="Seconds.")
@table_options
def sql(out: Path, query: str, timeout: float, form: str | None) -> None:
    """Ask an index in SQL (read-only)."""
    with Index(out) as index:
        show(index.sql(query, timeout=timeout), form)


def main() -> None:
    """Entry point."""
    try:
        cli(standalone_mode=False)
    except VitdexError as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nStopped. The same command goes on where it was.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except ValueError as error:  # what zarr raises for a damaged chunk
        if "--debug" in sys.argv or "checksum" not in str(error):
            raise
        click.echo("Error: the index is damaged. See 'vitdex verify'.", err=True)
        sys.exit(2)
    except OSError as error:  # a full or failing disk, a folder without permission
        if "--debug" in sys.argv:
            raise
        click.echo(
            f"Error: {error.strerror or error}: {error.filename or 'writing failed'}. Mend it and repeat.", err=True
        )
        sys.exit(2)
