"""Whether notes can be written beside an index: into files of its own folder, never through a link, and with room."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from ...schemas.errors import QueryError
from ...schemas.layout import Layout
from ...schemas.sizes import bytes_text

TRANSACTION = 2**22  # bytes that DuckDB may need beside those of the rows


def check_place(layout: Layout, adding: int = 0) -> None:
    """Raise QueryError where notes of so many bytes cannot be written: to be asked before long work.

    A link in place of the notes would lead what is written, or removed, to where it points.
    """
    log = layout.notes.with_name(f"{layout.notes.name}.wal")  # DuckDB writes there first
    for path, is_ours in ((layout.notes, S_ISREG), (log, S_ISREG), (layout.notes_folder, S_ISDIR)):
        if os.path.lexists(path) and not is_ours(os.lstat(path).st_mode):
            raise QueryError(f"{path} is in the way: a link, or nothing that vitdex has made", "Move it away.")
    for path in (layout.root, layout.notes, layout.notes_folder):
        if path.exists() and not os.access(path, os.W_OK):
            raise QueryError(f"{path} cannot be written", "Ask for its permissions, or copy the index elsewhere.")
    _check_room(layout.root, TRANSACTION + adding)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        fact = f"notes in {folder} may need {bytes_text(needed)} and {bytes_text(free)} are free"
        raise QueryError(fact, "Make space, or copy the index elsewhere.")
