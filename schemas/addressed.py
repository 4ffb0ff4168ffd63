"""Addresses of indexes, and the folders of the user's cache that stand for these: tables are there, arrays are not.

A folder is one of these by where it lies: what a stranger's index says of itself makes nobody ask an address.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from .errors import QueryError
from .user_folders import user_folder

SCHEMES = re.compile(r"(https?|s3|gs|az|hf)://[^/]", re.ASCII)
ADDRESS = "address.json"  # in the folder: where the arrays are; written last


def is_address(text: str) -> bool:
    """Whether a text names an index elsewhere, and no folder."""
    return SCHEMES.match(text) is not None


def shown_address(address: str) -> str:
    """An address as it may be written anywhere: without a name, a password, or words that sign it."""
    return re.sub(r"[?#].*", "", re.sub(r"//[^/@]*@", "//", address))


def cache_folder() -> Path:
    """Where these folders are."""
    return (user_folder("cache") / "indexes").resolve()


def address_of(root: Path) -> str | None:
    """Where the arrays of a folder of the cache lie; None for every other folder."""
    marker = root / ADDRESS
    if not marker.is_file() or root.resolve().parent != cache_folder():
        return None
    return str(json.loads(marker.read_text(encoding="utf-8"))["address"])


def must_lie_here(root: Path, why: str) -> None:
    """Raise QueryError where the arrays of an index lie at an address. `why`: what it is that works on this machine."""
    if (address := address_of(root)) is not None:
        raise QueryError(f"{why}, and this one lies at {shown_address(address)}", "Download it first.")
