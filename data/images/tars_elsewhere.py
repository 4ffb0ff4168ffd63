"""Tars at an address as a source: one, or WebDataset shards. Members are read by ranges, neighbours together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...schemas.addressed import shown_address
from ...schemas.errors import SourceError
from ...schemas.storage.elsewhere import Elsewhere
from .elsewhere import AT_ONCE, GONE, SourceElsewhere, many_at_once
from .header_walks import Window, walk, walks
from .shards import join_shards, names_of, no_shard
from .tar import Listed, list_tar

TOGETHER = 1_000_000  # bytes of images that are asked for at once


@dataclass(frozen=True)
class TarsElsewhere(SourceElsewhere):
    """Tars in one folder."""

    tars: tuple[str, ...]  # their names
    firsts: tuple[int, ...]  # of each, its first entry
    starts: tuple[int | str, ...]  # where an entry's bytes begin in its tar, or why there are none

    def together(self, ids: Iterable[int]) -> Iterator[list[int]]:
        group: list[int] = []
        held = 0
        for i in ids:
            size = self.entries[i].size
            if group and (self._tar(i) != self._tar(group[0]) or held + size > TOGETHER):
                yield group
                group, held = [], 0
            group.append(i)
            held += size
        if group:
            yield group

    def _tar(self, i: int) -> int:
        return bisect_right(self.firsts, i) - 1  # of tars without entries, which begin where the next does, none

    def _read(self, ids: list[int]) -> dict[int, bytes | str]:
        found: dict[int, bytes | str] = {}
        spans: dict[int, tuple[int, int]] = {}
        for i in ids:
            start, size = self.starts[i], self.entries[i].size
            if isinstance(start, str):
                found[i] = start
            elif size == 0:
                found[i] = b""
            else:
                spans[i] = (start, size)
        if not spans:
            return found
        tar = self.tars[self._tar(ids[0])]
        starts, sizes = map(list, zip(*spans.values(), strict=True))
        for i, size, blob in zip(spans, sizes, self.there.ranges(tar, starts, sizes), strict=True):
            if len(blob) != size:
                raise SourceError(f"{self.there.shown(tar)} is shorter than when it was listed", GONE)
            found[i] = blob.tobytes()
        return found


def open_tar(folder: str, name: str, size: int) -> TarsElsewhere:
    """List a tar of so many bytes in the folder at an address. Raises SourceError."""
    (listed,) = _list(Elsewhere(folder), {name: size}, packed_folder=True)
    return TarsElsewhere(name, listed.entries, listed.skipped, folder, (name,), (0,), listed.starts)


def open_shards(folder: str, name: str) -> TarsElsewhere:
    """List every shard of a range in the folder at an address. Raises SourceError."""
    there, names = Elsewhere(folder), names_of(name)
    with many_at_once() as pool:
        sizes = dict(zip(names, pool.map(there.find, names), strict=True))
    if missing := next((one for one, size in sizes.items() if size is None), None):
        raise no_shard(f"{shown_address(folder)}/{name}", missing)
    shards = _list(there, {one: size for one, size in sizes.items() if size is not None}, packed_folder=False)
    joined = join_shards(names, shards)
    starts = tuple(start for shard in shards for start in shard.starts)
    return TarsElsewhere(name, joined.entries, joined.skipped, folder, tuple(names), joined.firsts, starts)


def _list(there: Elsewhere, sizes: dict[str, int], packed_folder: bool) -> list[Listed]:
    """What each tar holds, by many requests at once, however many tars there are."""

    def window(name: str) -> Window:
        return Window(lambda size, at: there.ranges(name, [at], [size])[0].tobytes(), sizes[name])

    listed = []
    with many_at_once() as pool:
        walking = {
            name: [pool.submit(walk, window(name), *ends) for ends in walks(size, AT_ONCE // len(sizes))]
            for name, size in sizes.items()
        }
        for name, size in sizes.items():
            known = {at: step for walked in walking.pop(name) for at, step in walked.result().items()}
            listed.append(list_tar(repr(there.shown(name)), window(name).read, size, packed_folder, known))
    return listed
