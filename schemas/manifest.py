"""The manifest: written last, read first. It describes the run, lists every other file, and vouches for itself."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast

from .array_specs import ARRAYS, ArraySpec, arrays
from .errors import REPAIR, STRANGE, BadIndex, DamagedIndex
from .facts import FileFacts, Files
from .layout import Layout
from .run_bounds import beyond_bounds
from .run_spec import FORMAT, FORMAT_VERSION, RunSpec
from .shapes import misfit
from .storage.plain_files import read_plain

LARGEST = 64_000_000  # bytes: 600,000 files. Read it is ten times as large
FILE = re.compile(r"(?:(?!\.{1,2}(?:/|$))[\w.-]+(?:/(?!$)|$))+", re.ASCII)  # a path that stays inside, without '..'
CHECKSUM = re.compile("[0-9a-f]{32}")


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


class SourceIndex(TypedDict):
    """The index whose arrays one with another head shares."""

    name: str  # of its folder
    sha256: str  # of its manifest


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
    source_index: NotRequired[SourceIndex]  # of an index that `vitdex head` made
    files: Mapping[str, tuple[int, str]]  # every other file: [bytes, checksum]


def seal_manifest(content: Mapping[str, object]) -> bytes:
    """A manifest's bytes: format and version first, its own sha256 last."""
    return sealed({"format": FORMAT, "format_version": FORMAT_VERSION, **content})


def sealed(whole: Mapping[str, object]) -> bytes:
    """What a manifest says as its bytes, with its own sha256 at the end."""
    return json.dumps({**whole, "sha256": digest(whole)}, indent=1, ensure_ascii=False).encode(errors="surrogatepass")


def this_machine(cpu_threads: int, gpu: str | None) -> Machine:
    """Where something is made now."""
    return {"python": platform.python_version(), "system": platform.system(), "cpu_threads": cpu_threads, "gpu": gpu}


def manifest_sha256(manifest: Manifest) -> str:
    """The sha256 with which a manifest is sealed."""
    return digest({"format": FORMAT, "format_version": FORMAT_VERSION, **manifest})


def content_sha256(manifest: Manifest) -> str:
    """What tells an index from every other, though its tables be made again: its run and its arrays' files."""
    files = {path: facts for path, facts in manifest["files"].items() if path.startswith(f"{ARRAYS}/")}
    return digest({"run": manifest["run"], "files": files})


def read_manifest(layout: Layout) -> Manifest:
    """The manifest of a finished index. Raises BadIndex for anything else, with the remedy."""
    root = layout.root
    if not root.exists():
        raise BadIndex(f"there is no index at {root}", "Make one with 'vitdex index'.")
    if not root.is_dir():
        raise BadIndex(f"{root} is a file, not an index", "An index is a folder.")
    content = _read(layout)
    described = isinstance(content, dict) and content.get("format") == FORMAT
    if not described and not layout.run.exists():
        raise BadIndex(f"{root} is not a vitdex index", "Make one with 'vitdex index'.")
    claimed = content.pop("sha256", None) if isinstance(content, dict) else None
    if not described or claimed != digest(content):
        raise DamagedIndex(f"the manifest of {root} is damaged", REPAIR)
    if content.get("format_version") != FORMAT_VERSION:
        raise BadIndex(
            f"{root} has format {str(content.get('format_version'))[:20]}, this vitdex reads {FORMAT_VERSION}",
            "Install the vitdex that made it, or a newer one.",
        )
    if fault := _fault(content):
        raise BadIndex(f"the manifest of {root} describes no index: {fault}", STRANGE)
    return cast(Manifest, content)


def _read(layout: Layout) -> Any:
    """What the manifest's file holds; None where that is no JSON. Raises BadIndex where there is no such file."""
    root = layout.root
    try:
        return json.loads(read_plain(root, layout.manifest.name, LARGEST))
    except FileNotFoundError:
        verb = next((verb for verb, run in layout.filling.items() if run.exists()), None)
        if verb is not None:
            raise BadIndex(f"{root} is unfinished", f"Repeat the 'vitdex {verb}' command that began it.") from None
        raise BadIndex(f"{root} is not a vitdex index", "Make one with 'vitdex index'.") from None
    except OSError as error:
        raise BadIndex(f"{layout.manifest} cannot be read: {error.strerror}", "Mend it and repeat.") from error
    except (ValueError, RecursionError):
        return None


def _fault(content: dict[str, Any]) -> str | None:
    """What no index's manifest says, though whoever wrote it sealed it: types, bounds, names, files and their sizes."""
    files = content.get("files")
    if not isinstance(files, dict):
        return "it lists no files"
    layers = content["run"].get("layers") if isinstance(content.get("run"), dict) else None
    if isinstance(layers, list) and len(layers) > len(files):
        return f"{len(files)} files for {len(layers)} layers"
    fault = misfit({**content, "files": {}}, Manifest, "manifest") or misfit(content["run"], RunSpec, "run")
    fault = fault or fault_of_files(files)
    if fault:
        return fault
    run = RunSpec.from_json(content["run"])
    if fault := beyond_bounds(run):
        return f"run.{fault}"
    if run.images / run.part_images > len(files):
        return f"{len(files)} files for so many parts"
    return fault_of_ends(arrays(run), files)


def fault_of_ends(specs: Mapping[str, ArraySpec], files: Mapping[str, Any]) -> str | None:
    """The first array whose last file is not listed as it must be: with it an array is as long as it says."""
    for array in specs.values():
        last = [-(-n // f) - 1 for n, f in zip(array.shape, array.file_shape, strict=True)]
        if files.get(array.file(*last), (0,))[0] != array.file_bytes:
            return f"no file of {array.file_bytes} bytes ends {array.path}"
    return None


def fault_of_files(files: dict[str, Any]) -> str | None:
    """An entry that is no [bytes, checksum] of a path inside the index; by hand, for there are tens of thousands."""
    for path, facts in files.items():
        if not (type(facts) is list and [type(fact) for fact in facts] == [int, str]):
            return f"nothing is said of {path[:80]!r}"
        if not (FILE.fullmatch(path) and 0 <= facts[0] < 2**63 and CHECKSUM.fullmatch(facts[1])):
            return f"{path[:80]!r} is no file of an index"
    return None


def salvage_files(raw: bytes) -> Files:
    """Files that a damaged manifest still lists; a claim that a file meets is true."""
    claims = re.findall(r'^  "(.+)": \[\n   (\d+),\n   "([0-9a-f]{32})"\n', raw.decode(errors="replace"), re.MULTILINE)
    return {path: FileFacts(int(size), checksum) for path, size, checksum in claims}


def digest(content: Mapping[str, object]) -> str:
    """sha256, in hex, of what a manifest says."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
