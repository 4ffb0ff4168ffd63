"""What the served atlas needs beside vitdex itself. Light."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ...schemas.errors import QueryError

LIBRARIES = ("starlette", "uvicorn")


@contextmanager
def needing_extra() -> Iterator[None]:
    """Around imports: where a library of the extra is missing, QueryError says so."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in LIBRARIES:
            raise
        raise QueryError(f"{error.name} is not installed", "Install vitdex[atlas].") from error
