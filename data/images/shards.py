"""WebDataset shards as one source: 'train-{000000..000099}.tar', each a tar of its own."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

from ...schemas.errors import SourceError
from .entries import Entry, Skipped, Source, class_folders, shown_name
from .tar import Listed, TarSource, open_tar

RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
MOST = 100_000  # shards: a range that was mistyped would be listed for hours


@dataclass(frozen=True)
class ShardsSource(Source):
    """An entry's path is its shard's name without '.tar', then its name in there, which may come again."""

    shards: tuple[TarSource, ...]  # sorted by name
    firsts: tuple[int, ...]  # of each, its first entry

    @cached_property
    def _opened(self) -> list[TarSource]:
        return []

    def read(self, i: int) -> bytes:
        place = bisect_right(self.firsts, i) - 1  # of shards without entries, which begin where the next does, none
        shard, opened = self.shards[place], self._opened
        if not opened or opened[0] is not shard:  # one at a time: thousands are more than a process may hold open
            for other in opened:
                other.close()
            opened[:] = [shard]
        return shard.read(i - self.firsts[place])


def has_range(where: str) -> bool:
    """Whether a name ends like shards: a range of numbers in it."""
    return RANGE.search(Path(where).name) is not None


def open_shards(where: str) -> ShardsSource:
    """List every shard of a range. Raises SourceError where one is missing or no whole uncompressed tar."""
    folder = Path(where).parent
    paths = [folder / name for name in names_of(where)]
    if missing := next((path for path in paths if not path.is_file()), None):
        raise no_shard(where, missing.name)
    shards = tuple(open_tar(path, packed_folder=False) for path in paths)
    joined = join_shards([path.name for path in paths], shards)
    return ShardsSource(shown_name(Path(where)), joined.entries, joined.skipped, shards, joined.firsts)


def no_shard(where: str, name: str) -> SourceError:
    """What is said where one of a range is missing."""
    return SourceError(f"{where!r}: there is no file {name!r}", "Give the range of the shards that there are")


def names_of(where: str) -> list[str]:
    """The files that a range names, as many digits wide as its first number, sorted. Raises SourceError."""
    name = Path(where).name
    found = RANGE.search(name)
    assert found is not None
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < MOST or RANGE.search(name, found.end()):
        raise SourceError(f"{where!r} is no range of shards", f"One range, upwards, of at most {MOST:,}")
    numbers = range(int(first), int(last) + 1)
    return sorted(f"{name[: found.start()]}{number:0{len(first)}}{name[found.end() :]}" for number in numbers)


class Joined(NamedTuple):
    """Shards as one list; of each shard its first entry."""

    entries: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]
    firsts: tuple[int, ...]


def join_shards(names: Sequence[str], shards: Sequence[TarSource | Listed]) -> Joined:
    """What all shards hold, by their names, sorted."""
    labels = iter(_labels(shards))
    entries: list[Entry] = []
    skipped: list[Skipped] = []
    for name, shard in zip(names, shards, strict=True):
        stem = shown_name(Path(name)).removesuffix(".tar")
        entries += (Entry(f"{stem}/{entry.path}", next(labels), entry.size) for entry in shard.entries)
        skipped += (Skipped(f"{stem}/{one.path}", one.reason) for one in shard.skipped)
    firsts = accumulate((len(shard.entries) for shard in shards[:-1]), initial=0)
    return Joined(tuple(entries), tuple(skipped), tuple(firsts))


def _labels(shards: Sequence[TarSource | Listed]) -> list[str | None]:
    """Labels of all entries: what a KEY.cls says, else the class folder, which only all shards together show."""
    folders = class_folders([entry.path for shard in shards for entry in shard.entries])
    alone = chain.from_iterable(class_folders([entry.path for entry in shard.entries]) for shard in shards)
    own = (entry.label for shard in shards for entry in shard.entries)
    return [label if label != folder else of_all for label, folder, of_all in zip(own, alone, folders, strict=True)]
