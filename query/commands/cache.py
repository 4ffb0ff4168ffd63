"""`vitdex cache`: what is kept on this machine of indexes at addresses."""

from __future__ import annotations

from datetime import datetime

import click

from ...schemas.addressed import cache_folder, shown_address
from ...schemas.sizes import bytes_text
from ..stored.elsewhere import LIMIT, cached, forget
from .terminal import tell


@click.command("cache")
@click.option("--clear", is_flag=True, help="Remove all of it; what is asked again is downloaded again.")
def cache_command(clear: bool) -> None:
    """What is kept here of indexes at addresses: their tables.

    Beyond 20 GB the longest unused go by themselves.
    """
    held = cached()
    for one in held:
        if clear:
            forget(one)
        used = datetime.fromtimestamp(one.used).isoformat(" ", "minutes")
        tell(f"{'removed' if clear else used}  {bytes_text(one.bytes):>8}  {shown_address(one.address)}")
    size = bytes_text(sum(one.bytes for one in held))
    verb = "removed" if clear else "held"
    tell(f"{len(held)} indexes, {size} of at most {bytes_text(LIMIT)}, {verb} in {cache_folder()}")
