"""Where images come from: a folder, a tar, a Hugging Face data set. Every source lists its files once, in fixed order."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..schemas.errors import SourceError, UnreadableImage


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its path below the root, its class folder (None in a flat folder), its bytes."""

    path: str
    label: str | None
    size: int


@dataclass(frozen=True)
class Skipped:
    """A file that is no entry, and why."""

    path: str
    reason: str


class Source(Protocol):
    """Images in a fixed order: the position in `entries` is the image_id. `name` holds no folder above the root."""

    @property
    def name(self) -> str: ...
    @property
    def entries(self) -> tuple[Entry, ...]: ...
    @property
    def skipped(self) -> tuple[Skipped, ...]: ...
    def read(self, i: int) -> bytes: ...


def open_source(where: str) -> Source:
    """A folder of class folders, a flat folder, a tar of either, 'hf:NAME[@CONFIG]:SPLIT', or a data set saved to disk.

    Raises SourceError where nothing can be listed.
    """
    if where.startswith("hf:"):
        return _hugging_face(where)
    path = Path(where)
    if not path.exists():
        raise SourceError(f"there are no images at {where}", "Check --images.")
    if path.is_dir():
        if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
            return _hugging_face(where)
        source: Source = _folder(path)
    elif tarfile.is_tarfile(path):
        source = _tar(path)
    else:
        raise SourceError(f"{where} is neither a folder nor a tar", "Give a folder of images, or a tar of one.")
    if not source.entries:
        raise SourceError(f"no files in {where}", "Give a folder with images in it.")
    return source


def list_hash(entries: Iterable[Entry]) -> str:
    """sha256 over path, label and size of every entry, in order."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.path, entry.label, entry.size)).encode())
    return digest.hexdigest()


def _entry(path: str, size: int) -> Entry:
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    folder, slash, _ = shown.partition("/")
    return Entry(shown, folder if slash else None, size)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


@dataclass(frozen=True)
class FolderSource:
    """Files below a folder."""

    name: str
    root: Path
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    names: tuple[str, ...]  # as the file system spells them

    def read(self, i: int) -> bytes:
        return (self.root / self.names[i]).read_bytes()


def _folder(root: Path) -> FolderSource:
    skipped: list[Skipped] = []
    found = sorted(_walk(root, "", (os.path.realpath(root),), skipped))
    entries = tuple(_entry(name, size) for name, size in found)
    skipped.sort(key=lambda s: s.path)
    return FolderSource(root.resolve().name, root, entries, tuple(skipped), tuple(name for name, _ in found))


def _walk(root: Path, below: str, above: tuple[str, ...], skipped: list[Skipped]) -> Iterator[tuple[str, int]]:
    """Regular files below a folder, links followed; `above` are the folders we are in, to break cycles."""
    try:
        with os.scandir(root / below) as found:
            items = sorted(found, key=lambda item: item.name)
    except OSError as error:
        skipped.append(Skipped(_entry(below, 0).path, error.strerror or "unreadable folder"))
        return
    for item in items:
        path = f"{below}/{item.name}" if below else item.name
        shown = _entry(path, 0).path
        try:
            status = item.stat()
        except OSError:
            skipped.append(Skipped(shown, "a link to nothing"))
            continue
        if stat.S_ISDIR(status.st_mode):
            real = os.path.realpath(item.path)
            if real in above:
                skipped.append(Skipped(shown, "a link to a folder above it"))
            else:
                yield from _walk(root, path, (*above, real), skipped)
        elif _hidden(path):
            skipped.append(Skipped(shown, "hidden"))
        elif stat.S_ISREG(status.st_mode):
            yield path, status.st_size
        else:
            skipped.append(Skipped(shown, "not a regular file"))


@dataclass(frozen=True)
class TarSource:
    """Members of an uncompressed tar, read by their place in it."""

    name: str
    file: Path
    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    places: tuple[tuple[int, int] | None, ...]

    def read(self, i: int) -> bytes:
        place = self.places[i]
        if place is None:
            raise UnreadableImage("a link to nothing")
        with self.file.open("rb") as file:
            file.seek(place[0])
            return file.read(place[1])


def _tar(file: Path) -> TarSource:
    try:
        with tarfile.open(file, "r:") as archive:
            members = archive.getmembers()
            found, skipped = {}, []
            for member in members:
                path = "/".join(part for part in member.name.split("/") if part not in ("", ".", ".."))
                if member.isdir():
                    continue
                if _hidden(path):
                    skipped.append(Skipped(_entry(path, 0).path, "hidden"))
                elif member.isreg() or member.issym() or member.islnk():
                    found[path] = _place(archive, member)
                else:
                    skipped.append(Skipped(_entry(path, 0).path, "not a regular file"))
    except tarfile.TarError as error:
        raise SourceError(
            f"{file} is compressed or damaged: {error}", "Decompress it first; vitdex reads plain tars."
        ) from error
    names = sorted(found)
    entries = tuple(_entry(n, place[1] if (place := found[n]) else 0) for n in names)
    return TarSource(file.name, file, entries, tuple(skipped), tuple(found[n] for n in names))


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[int, int] | None:
    for _ in range(8):  # links to links
        if member.isreg():
            return member.offset_data, member.size
        target = member.linkname
        if member.issym():
            target = os.path.normpath(os.path.join(os.path.dirname(member.name), target))  # noqa: PTH118, PTH120
        try:
            member = archive.getmember(target)
        except KeyError:
            return None
    return None


@dataclass(frozen=True)
class HuggingFaceSource:
    """Rows of a data set, in its own order: the path begins with the row's number."""

    name: str
    entries: tuple[Entry, ...]
    rows: Any = field(repr=False)
    column: str = "image"
    skipped: tuple[Skipped, ...] = ()

    def read(self, i: int) -> bytes:
        image = self.rows[i][self.column]
        if image is None:
            raise UnreadableImage("no image in this row")
        return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _hugging_face(where: str) -> HuggingFaceSource:
    try:
        import datasets
    except ImportError as error:
        raise SourceError("Hugging Face data sets need the package 'datasets'", 'pip install "vitdex[hf]"') from error
    try:
        if where.startswith("hf:"):
            match = re.fullmatch(r"hf:([^@:]+)(?:@([^:]+))?:(.+)", where)
            if not match:
                raise SourceError(f"'{where}' names no split", "Write hf:NAME:SPLIT.")
            rows = datasets.load_dataset(match[1], match[2], split=match[3])
        else:
            rows = datasets.load_from_disk(where)
    except SourceError:
        raise
    except Exception as error:  # the hub's client raises errors of many libraries
        fact = " ".join(str(error).split())[:200]
        raise SourceError(
            f"'{where}' cannot be loaded: {fact}", "Check the name, the split and the network."
        ) from error
    columns = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not columns:
        raise SourceError(f"'{where}' has no image column among {', '.join(rows.features)}", "Choose a set of images.")
    rows = rows.cast_column(columns[0], datasets.Image(decode=False))
    return HuggingFaceSource(where.rsplit("/", 1)[-1], tuple(_hf_entries(datasets, rows, columns[0])), rows, columns[0])


def _hf_entries(datasets: Any, rows: Any, column: str) -> Iterator[Entry]:
    labels = next((n for n, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)), None)
    names = rows.features[labels].int2str if labels else None
    width = len(str(max(len(rows) - 1, 0)))
    for i, row in enumerate(rows):
        image = row[column] or {}
        label = row[labels] if labels else None
        blob = image.get("bytes")
        stem = Path(image.get("path") or "image").name
        yield Entry(f"{i:0{width}}-{stem}", None if label is None or label < 0 else names(label), len(blob or b""))
