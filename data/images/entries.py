"""What every source lists: entries in their order for ever, and what is skipped with its reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...schemas.errors import UnreadableImage

KINDS = "Give a folder of images, an uncompressed tar, or hf:NAME:SPLIT"  # the remedy where a source is none of them


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its name below the root with '/' between folders, its class folder, its bytes when listed.

    Bytes of a name that are not UTF-8 are written as backslash escapes. `label` is None outside class folders.
    """

    path: str
    label: str | None
    size: int


@dataclass(frozen=True)
class Skipped:
    """What was found but is not listed, and why."""

    path: str
    reason: str


def sort_names(
    files: Iterable[tuple[str, int | str]], around: str = ""
) -> tuple[tuple[Entry, ...], tuple[Skipped, ...], tuple[str, ...]]:
    """Entries, what is skipped and the entries' own names, from (name, bytes) or (name, reason to skip).

    `around`, a folder around everything, is left out of the entries' paths.
    """
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    names: list[str] = []
    for path, name, size in sorted(((_recorded(n), n, size) for n, size in files), key=lambda item: item[:2]):
        if isinstance(size, str):
            skipped.append(Skipped(path, size))
        elif is_hidden(name):
            skipped.append(Skipped(path, "hidden"))
        elif entries and entries[-1].path == path.removeprefix(around):
            skipped.append(Skipped(path, "its name is not UTF-8 and would be recorded like another file's"))
        else:
            inner = path.removeprefix(around)
            entries.append(Entry(inner, _label(inner), size))
            names.append(name)
    return tuple(entries), tuple(skipped), tuple(names)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder around it begins with a dot."""
    return "/." in f"/{name}"


def shown_name(path: Path) -> str:
    """The last component of a path, whatever it is written like: '.' has one too."""
    own = path.name not in ("", "..")
    return _recorded(path.name if own else path.resolve().name)


def why(error: Exception) -> str:
    """An error's reason without the path, which is said beside it."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def read_file(path: str) -> bytes:
    """The bytes of a file. Raises UnreadableImage where they cannot be had."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"the file cannot be read: {why(error)}") from None


def _recorded(name: str) -> str:
    """A name as Python decoded it from bytes, as text that any file can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return name


def _label(path: str) -> str | None:
    folder, slash, _ = path.partition("/")
    return folder if slash else None
