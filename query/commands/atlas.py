"""`vitdex atlas`: an index in a browser, served on this machine or written to a folder."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from ...schemas.numbers_shown import number_of
from ...schemas.sizes import bytes_text
from ..atlas.extra import needing_extra
from ..stored.stored_index import StoredIndex
from .options import INDEX, OUT
from .terminal import progress_bar, tell


@click.group("atlas")
def atlas_group() -> None:
    """Every neuron, class and image a page in the browser."""


@atlas_group.command("serve")
@INDEX
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 takes any.")
@click.option("--open", "opened", is_flag=True, help="Open a browser.")
def serve_command(index_path: Path, port: int, opened: bool) -> None:
    """Serve an index's atlas on this machine, and to nobody else, until Ctrl-C."""
    with needing_extra():
        from ..atlas.serve import serve

    def ready(address: str) -> None:
        tell(address)
        if opened:
            webbrowser.open(address)

    with StoredIndex(index_path) as index:
        serve(index, port, ready)


@atlas_group.command("export")
@INDEX
@OUT
@click.option("--layer", "layers", multiple=True, help="Only neurons of this layer; may be repeated.")
@click.option("--top", type=click.IntRange(1), help="Only the first K neurons of every class, by each ranking.")
def export_command(index_path: Path, out: Path, layers: tuple[str, ...], top: int | None) -> None:
    """Write an index's atlas to a folder that any static host carries; repeat the command to go on with it.

    Look at it with: python -m http.server --directory OUT
    """
    from ..atlas.export import plan_export, write_export
    from ..atlas.writers import workers_for

    with StoredIndex(index_path) as index:
        with progress_bar("arranging the map", "step") as progress:
            plan = plan_export(index, out, layers, top, progress=progress)
        files = number_of(len(plan.addresses), "file")
        tell(f"{number_of(plan.neurons, 'neuron')}: {files}, about {bytes_text(plan.bytes)}")
        with progress_bar(out.name, "file") as progress:
            try:
                write_export(plan, workers=workers_for(len(plan.addresses)), progress=progress)
            except KeyboardInterrupt:
                raise click.Abort("The same command goes on where it was.") from None
    tell(f"{out / 'index.html'} is ready.")
