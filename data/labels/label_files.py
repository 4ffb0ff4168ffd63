"""Names of classes as files bring them: a text of one a line, or a JSON list in a head's metadata."""

from __future__ import annotations

import json
from pathlib import Path

from ...schemas.errors import ModelError


def read_names(file: Path) -> tuple[str, ...]:
    """The names in a text file, one a line; empty lines do not count. Raises ModelError where it cannot be read."""
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"no readable class names in {file}", "Give one name a line.") from error
    return tuple(line for line in lines if line)


def parse_names(text: str, rows: int, file: Path) -> tuple[str, ...]:
    """The names in a head's metadata, a JSON list of one a row. Raises ModelError for anything else."""
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list):
        raise ModelError(f"the class names in {file.name} are not a JSON list", "Write a JSON list of names.")
    if len(names) != rows:
        raise ModelError(f"{file.name} names {len(names)} classes for {rows} rows", "Name every row.")
    return tuple(str(name) for name in names)
