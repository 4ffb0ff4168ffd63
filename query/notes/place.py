"""Whether notes can be written beside an index: into files of its own folder, never through a link, and with room."""

from __future__ import annotations

import os
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from ...schemas.addressed import must_lie_here
from ...schemas.errors import QueryError
from ...schemas.layout import Layout
from ...schemas.storage.room import check_room

TRANSACTION = 2**22  # bytes that DuckDB may need beside those of the rows


def log_of(layout: Layout) -> Path:
    """Where DuckDB writes first what belongs into the notes."""
    return layout.notes.with_name(f"{layout.notes.name}.wal")


def check_place(layout: Layout, adding: int = 0) -> None:
    """Raise QueryError where notes of so many bytes cannot be written: to be asked before long work.

    A link in place of the notes would lead what is written, or removed, to where it points.
    """
    must_lie_here(layout.root, "notes are written beside an index on this machine")
    for path, is_ours in ((layout.notes, S_ISREG), (log_of(layout), S_ISREG), (layout.notes_folder, S_ISDIR)):
        if os.path.lexists(path) and not is_ours(os.lstat(path).st_mode):
            raise QueryError(f"{path} is in the way: a link, or nothing that vitdex has made", "Move it away.")
    if layout.notes.exists() and not os.access(layout.notes, os.W_OK):
        raise QueryError(f"{layout.notes} cannot be written", "Ask for its permissions, or copy the index elsewhere.")
    for folder in (layout.root, layout.notes_folder):
        check_room(folder, TRANSACTION + adding)
