"""Files of one index under a second name in another: by hard links, or as copies where none can be made.

No file of an index is written again once it has its name, so both may hold the same one, and either can be removed.
"""

from __future__ import annotations

import os
from pathlib import Path

import xxhash

from ..schemas.errors import DamagedIndex
from ..schemas.facts import BLOCK_BYTES, FileFacts, Files
from ..schemas.layout import Layout
from ..schemas.storage.plain_files import open_plain, plain_size, replacing
from ..schemas.storage.room import FULL, check_room

LINKED_ITSELF = {"follow_symlinks": False} if os.link in os.supports_follow_symlinks else {}


def share_files(source: Layout, out: Layout, files: Files) -> str | None:
    """Give files of `source` the same places in `out`. Returns why they are copies; None where they are links.

    Raises DamagedIndex where one is missing, no file or of another size, or, copied, has another checksum; QueryError
    where copies would not fit on the disk.
    """
    reason: str | None = None
    for path, facts in files.items():
        _check(source, path, facts)
        (out.root / path).parent.mkdir(parents=True, exist_ok=True)
        if reason is None and (reason := _link(source.root / path, out.root / path)) is not None:
            check_room(out.root, sum(size for size, _ in files.values()))
        if reason is not None:
            _copy(source.root, path, out.root / path, facts)
    return reason


def _check(source: Layout, path: str, facts: FileFacts) -> None:
    try:
        size = plain_size(source.root, path)
    except FileNotFoundError as error:
        raise DamagedIndex(f"{source.root / path} is missing") from error
    except OSError as error:
        raise DamagedIndex(f"{source.root / path} is {error.strerror}") from error
    if size != facts.size:
        raise DamagedIndex(f"{source.root / path} has {size} bytes instead of {facts.size}")


def _link(file: Path, target: Path) -> str | None:
    """Why no link could be made; None where it was."""
    try:
        os.link(file, target, **LINKED_ITSELF)
    except OSError as error:
        if error.errno in FULL:
            raise
        return error.strerror or "not supported"
    return None


def _copy(root: Path, path: str, target: Path, facts: FileFacts) -> None:
    digest = xxhash.xxh3_128()
    with open_plain(root, path) as file, replacing(target) as temporary, temporary.open("r+b") as copy:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            copy.write(block)
        if digest.hexdigest() != facts.checksum:
            raise DamagedIndex(f"{root / path} has a wrong checksum")
        copy.flush()
        os.fsync(copy.fileno())
