"""`vitdex publish`: an index, copied to where others read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from ...schemas.addressed import is_address
from ...schemas.numbers_shown import number_of
from ...schemas.sizes import bytes_text
from ..export.publish import Cut, publish
from ..stored.stored_index import StoredIndex
from .options import INDEX, FileType
from .terminal import progress_bar, say, tell


class DestinationType(FileType):
    """A folder to be written, or an address as it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_address(value):
            return value
        return super().convert(value, param, ctx)


@click.command("publish")
@INDEX
@click.argument("dest", metavar="DEST", type=DestinationType(path_type=Path))
@click.option("--maps", type=click.Choice(get_args(Cut)), help="Of all maps only those of each neuron's exemplars.")
@click.option("--overwrite", is_flag=True, help="Replace another index that is there, and its data card.")
def publish_command(index_path: Path, dest: str | Path, maps: Cut | None, overwrite: bool) -> None:
    """Copy a finished index to where others read it, with a data card, and compare every file there.

    \b
    vitdex publish INDEX FOLDER
    vitdex publish INDEX s3://BUCKET/FOLDER --maps exemplars
    vitdex publish INDEX hf://datasets/OWNER/NAME

    Extensions go along, notes do not. Stopped at any point, the same command goes on.
    """
    with StoredIndex(index_path) as index:
        try:
            with progress_bar("publishing", "B") as progress:
                done = publish(index, dest, maps=maps, overwrite=overwrite, progress=progress)
        except KeyboardInterrupt:
            raise click.Abort("The same command goes on where it was.") from None
    for note in done.notes:
        say(note)
    before = f", {done.there_before:,} of them there before" if done.there_before else ""
    files = number_of(done.files, "file")
    tell(f"{done.where} is published: {files}, {bytes_text(done.bytes)}{before}; each was read back")
