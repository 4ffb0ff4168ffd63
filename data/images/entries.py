"""What every source lists: entries in their order for ever, and what is skipped with its reason."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Self

from ...schemas.errors import UnreadableImage

KINDS = "Give a folder of images, an uncompressed tar, or hf:NAME:SPLIT"  # the remedy where a source is none of them

MAX_BYTES = 2**28  # of an encoded image: more than a photograph has, less than would fill a machine's memory
# folders that are no class
AROUND = {"train", "training", "val", "valid", "validation", "test", "testing", "images", "imgs"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its name below the root with '/' between folders, its class folder, its bytes when listed.

    Bytes of a name that are not UTF-8 are written as backslash escapes. `label` is None outside class folders.
    """

    path: str
    label: str | None
    size: int


HIDDEN = "hidden"


@dataclass(frozen=True)
class Skipped:
    """What was found but is not listed, and why."""

    path: str
    reason: str


def left_out(skipped: Sequence[Skipped]) -> list[str]:
    """A line where more than hidden files is left out."""
    unexpected = [one for one in skipped if one.reason != HIDDEN]
    if not unexpected:
        return []
    first = f"the first is {unexpected[0].path!r} ({unexpected[0].reason})"
    return [f"{len(unexpected):,} of what was found is left out: {first}. 'vitdex info' names them"]


@dataclass(frozen=True)
class Source(ABC):
    """A fixed list of files. It pickles, holds no open file when pickled, and survives a fork."""

    name: str  # the last component of what the user pointed at
    entries: tuple[Entry, ...]  # sorted by path, by code point: the position is the image_id for ever
    skipped: tuple[Skipped, ...]

    @abstractmethod
    def read(self, i: int) -> bytes:
        """The encoded bytes of entry `i`. Raises UnreadableImage where they cannot be had."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The data set's own list of classes in its order, where it has one."""
        return None

    def relabelled(self, labels: Sequence[str | None]) -> Self:
        """The same files with other labels, one for each entry."""
        entries = (replace(entry, label=label) for entry, label in zip(self.entries, labels, strict=True))
        return replace(self, entries=tuple(entries))


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
            skipped.append(Skipped(path, HIDDEN))
        elif entries and entries[-1].path == path.removeprefix(around):
            skipped.append(Skipped(path, "its name is not UTF-8 and would be recorded like another file's"))
        else:
            entries.append(Entry(path.removeprefix(around), None, size))
            names.append(name)
    labels = class_folders([entry.path for entry in entries])
    labelled = tuple(Entry(entry.path, label, entry.size) for entry, label in zip(entries, labels, strict=True))
    return labelled, tuple(skipped), tuple(names)


def class_folders(paths: Sequence[str]) -> list[str | None]:
    """The class folder of every file: its outermost folder, without folders that stand around classes.

    Those are levels of nothing but 'train', 'val', 'images' and their like, and one folder that holds all others.
    """
    folders = [path.split("/")[:-1] for path in paths]
    deep = folders  # those that reach so deep: names of a million folders take no longer than their letters
    depth = 0
    while True:
        inside = [names for names in deep if len(names) > depth]
        here = {names[depth] for names in inside}
        direct = any(len(names) == depth + 1 for names in inside)
        around = len(here) == 1 and not direct and len(inside) == len(folders)
        if not here or not (around or all(name.casefold() in AROUND for name in here)):
            return [names[depth] if len(names) > depth else None for names in folders]
        deep, depth = inside, depth + 1


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


def check_size(size: int) -> None:
    """Raise UnreadableImage where a file is larger than any image that can be meant."""
    if size > MAX_BYTES:
        raise UnreadableImage(f"the file has {size:,} bytes, and of an image at most {MAX_BYTES:,} are read")


def read_file(path: str) -> bytes:
    """The bytes of a file. Raises UnreadableImage where they cannot be had, and of a pipe or device, without end."""
    try:
        status = Path(path).stat()
        if not S_ISREG(status.st_mode):
            raise UnreadableImage("neither a file nor a folder")
        check_size(status.st_size)
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
