"""Extensions of an index: `extensions/NAME/` in its folder, with a manifest of its own that names what it is made from.

An index stays as it was made: an extension is added to it, can be removed with its folder, and one that was made from
another index is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from .addressed import address_of
from .errors import BadIndex, DamagedIndex
from .layout import FilledFolder
from .manifest import LARGEST, Machine, Manifest, Tables, content_sha256, digest, fault_of_files, sealed
from .shapes import misfit
from .storage.plain_files import read_plain

EXTENSIONS = "extensions"  # their folder
EXTENSION_ARRAYS = "arrays.zarr"  # in an extension's folder
FORMAT = "vitdex extension"
VERSION = 1


class ExtensionLayout(FilledFolder):
    """The paths of one extension; `root` is its own folder, in an index."""

    @classmethod
    def of(cls, index: Path, name: str) -> ExtensionLayout:
        """The extension of this name, there or not, of the index in a folder."""
        return cls(index / EXTENSIONS / name)

    @property
    def name(self) -> str:
        return self.root.name

    @property
    def index(self) -> Path:
        return self.root.parents[1]

    @property
    def inside(self) -> str:
        """Where its folder lies inside the index."""
        return f"{EXTENSIONS}/{self.name}"

    @property
    def database(self) -> Path:
        return self.root / "tables.duckdb"

    @property
    def is_there(self) -> bool:
        """Whether it is finished, or claims to be."""
        return os.path.lexists(self.manifest)

    @property
    def is_unfinished(self) -> bool:
        return self.run.exists() and not self.is_there

    @property
    def remedy(self) -> str:
        if address_of(self.index) is not None:
            return f"Ask whoever put it there, or repeat 'vitdex {self.name}' with --overwrite."
        if self.is_unfinished:
            return f"Repeat the 'vitdex {self.name}' command that began it, without --overwrite: it goes on."
        return f"Move {self.root} away, or repeat 'vitdex {self.name}' with --overwrite: the index itself is whole."


class ExtensionManifest(TypedDict):
    """What an extension's manifest says beside the format, its version and its own sha256."""

    name: str
    index_sha256: str  # of the run and the arrays of the index (manifest.content_sha256)
    created: str
    run: dict[str, Any]
    machine: Machine
    seconds: float
    notes: list[str]
    tables: Tables
    files: Mapping[str, tuple[int, str]]  # every other file, by path inside the extension: [bytes, checksum]


def extensions_in(root: Path) -> list[ExtensionLayout]:
    """The extensions that an index has, finished or not, by name."""
    folder = root / EXTENSIONS
    if folder.is_symlink() or not folder.is_dir():
        return []
    there = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
    layouts = [ExtensionLayout.of(root, name) for name in there]
    return [layout for layout in layouts if layout.is_there or layout.is_unfinished]


def seal_extension(content: ExtensionManifest) -> bytes:
    """An extension's manifest as bytes, its own sha256 last."""
    return sealed({"format": FORMAT, "format_version": VERSION, **content})


def read_extension(layout: ExtensionLayout, index: Manifest) -> ExtensionManifest:
    """The manifest of a finished extension of this index.

    Raises DamagedIndex where it is damaged, BadIndex where it is another index's or of another format.
    """
    file = layout.manifest
    try:
        content = json.loads(read_plain(layout.index, f"{layout.inside}/{file.name}", LARGEST))
    except OSError as error:
        raise DamagedIndex(f"{file} cannot be read: {error.strerror}", layout.remedy) from error
    except (ValueError, RecursionError):
        content = None
    claimed = content.pop("sha256", None) if isinstance(content, dict) else None
    if not isinstance(content, dict) or claimed != digest(content):
        raise DamagedIndex(f"{file} is damaged", layout.remedy)
    if (content.get("format"), content.get("format_version")) != (FORMAT, VERSION):
        raise BadIndex(f"{file} is of a format that this vitdex does not read", layout.remedy)
    files = content.get("files")
    if not isinstance(files, dict):
        raise BadIndex(f"{file} lists no files", layout.remedy)
    fault = misfit({**content, "files": {}}, ExtensionManifest, "manifest") or fault_of_files(files)
    if fault or content["name"] != layout.name:
        raise BadIndex(f"{file} describes no extension: {fault or 'it has another name'}", layout.remedy)
    if content["index_sha256"] != content_sha256(index):
        raise BadIndex(f"{layout.root} was made from another index", layout.remedy)
    return cast(ExtensionManifest, content)
