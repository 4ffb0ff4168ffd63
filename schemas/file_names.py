"""Names of files as this system has them."""

from __future__ import annotations

import os


def file_name(text: str) -> str:
    """A name, or a path, as this system can open it: its bytes are UTF-8 even where the locale is ASCII."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape")) if os.name == "posix" else text
