"""The manifest: written last, read first. It describes the run, lists every other file, and vouches for itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast

from .errors import REPAIR, BadIndex, DamagedIndex
from .facts import FileFacts, Files
from .layout import Layout
from .run_spec import FORMAT, FORMAT_VERSION, RunSpec


class ImageCounts(TypedDict):
    """What became of the images: found = indexed + failed + skipped + beyond_limit."""

    found: int
    indexed: int
    failed: int
    skipped: list[list[str]]  # [path, reason]
    beyond_limit: int


class Machine(TypedDict):
    """Where the index was made."""

    python: str
    system: str
    cpu_threads: int
    gpu: str | None


class Tables(TypedDict):
    """Who wrote index.duckdb, and in which version of DuckDB's file format."""

    duckdb: str
    storage_version: str


class Accuracy(TypedDict):
    """How often the model is right: shares from 0 to 1 of the images with a class."""

    images: int
    top1: float
    top5: float | None  # from ten classes on
    chance: float  # if the same answers were dealt at random


class Manifest(TypedDict):
    """What a manifest says beside the format, its version and its own sha256."""

    created: str
    run: dict[str, Any]  # RunSpec's JSON
    images: ImageCounts
    machine: Machine
    seconds: float
    notes: list[str]
    tables: NotRequired[Tables]  # indexes made before it was named have none
    accuracy: NotRequired[Accuracy]  # where images have a class
    files: Mapping[str, tuple[int, str]]  # every other file: [bytes, checksum]; integrity.listed_files checks it


def seal_manifest(content: Mapping[str, object]) -> bytes:
    """A manifest's bytes: format and version first, its own sha256 last."""
    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **content}
    return json.dumps({**whole, "sha256": _digest(whole)}, indent=1, ensure_ascii=False).encode(errors="surrogatepass")


def read_manifest(layout: Layout) -> Manifest:
    """The manifest of a finished index. Raises BadIndex for anything else, with the remedy."""
    root = layout.root
    if not root.exists():
        raise BadIndex(f"there is no index at {root}", "Make one with 'vitdex index'.")
    if not root.is_dir():
        raise BadIndex(f"{root} is a file, not an index", "An index is a folder.")
    try:
        raw = layout.manifest.read_bytes()
    except FileNotFoundError:
        if layout.run.exists():
            raise BadIndex(f"{root} is unfinished", "Repeat the 'vitdex index' command that began it.") from None
        raise BadIndex(f"{root} is not a vitdex index", "Make one with 'vitdex index'.") from None
    except OSError as error:
        raise BadIndex(f"{layout.manifest} cannot be read: {error.strerror}", "Mend it and repeat.") from error
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        content = None
    described = isinstance(content, dict) and content.get("format") == FORMAT
    if not described and not layout.run.exists():
        raise BadIndex(f"{root} is not a vitdex index", "Make one with 'vitdex index'.")
    claimed = content.pop("sha256", None) if isinstance(content, dict) else None
    if not described or claimed != _digest(content):
        raise DamagedIndex(f"the manifest of {root} is damaged", REPAIR)
    if content.get("format_version") != FORMAT_VERSION:
        raise BadIndex(
            f"{root} has format {content.get('format_version')}, this vitdex reads {FORMAT_VERSION}",
            "Install the vitdex that made it, or a newer one.",
        )
    try:
        RunSpec.from_json(content["run"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BadIndex(f"the manifest of {root} describes no run", "Make the index again.") from error
    return cast(Manifest, content)


def salvage_files(raw: bytes) -> Files:
    """Files that a damaged manifest still lists; a claim that a file meets is true."""
    claims = re.findall(r'^  "(.+)": \[\n   (\d+),\n   "([0-9a-f]{32})"\n', raw.decode(errors="replace"), re.MULTILINE)
    return {path: FileFacts(int(size), checksum) for path, size, checksum in claims}


def _digest(content: Mapping[str, object]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
