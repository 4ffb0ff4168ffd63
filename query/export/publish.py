"""A finished index, copied to where others read it: a folder, a bucket, a data set of the hub. Its manifest comes last.

Stopped at any point, the same call goes on. What tells it what is there: a small file that names the index which is
being published, and the sizes of files, which appear whole. In the end every file is read back and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, get_args

import xxhash

from ...schemas.addressed import is_address, must_lie_here
from ...schemas.errors import BadIndex, DamagedIndex, QueryError
from ...schemas.facts import FileFacts, Files, content_facts
from ...schemas.integrity import CARD
from ...schemas.progress import Progress, silent
from ...schemas.storage.room import check_room
from ..stored.stored_index import StoredIndex
from .data_card import data_card
from .destinations import Bucket, Destination, Folder, Outgoing
from .hub import Hub
from .map_cut import MapCut
from .publish_place import Place
from .published import WholeIndex

Cut = Literal["exemplars"]


@dataclass(frozen=True)
class Published:
    """What was published, and where."""

    where: str
    files: int
    bytes: int
    there_before: int  # files that an earlier call had sent
    notes: list[str]  # what did not go along, and why


def publish(
    index: StoredIndex,
    dest: str | Path,
    *,
    maps: Cut | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Published:
    """Copy a finished index with its extensions, and a data card, to where others read it; compare every file there.

    Stopped, the same call goes on. The manifest is written last, so that what is half there is no index. Notes stay.

    Args:
        index: on this machine.
        dest: a folder, s3://, gs://, az:// or hf://datasets/OWNER/NAME[/FOLDER].
        maps: 'exemplars' leaves out all maps but those of each neuron's top exemplars; from an index with all in bytes.
        overwrite: replace another index that is there, and its data card.
        progress: told (bytes, all bytes) of what is sent, then read back.

    Returns:
        How many files and bytes are where, and what was left out.

    Raises:
        BadIndex: another index or other files lie there, or it cannot be written.
        DamagedIndex: a file of the index is not what its manifest says.
        QueryError: the index lies at an address, or does not hold the maps for a cut.

    Example:
        >>> publish(index, "s3://bucket/imagenet.vitdex", maps="exemplars").files
        2311
    """
    must_lie_here(index.layout.root, "'vitdex publish' reads an index on this machine")
    if maps not in (None, *get_args(Cut)):
        raise QueryError(f"no cut by maps '{maps}'", "The only one is 'exemplars'.")
    source = WholeIndex(index) if maps is None else MapCut(index)
    return _Publishing(source, _destination(index, dest), overwrite, progress).run()


def _destination(index: StoredIndex, dest: str | Path) -> Destination:
    """Where to. Raises BadIndex where nothing can be written, or the index itself lies."""
    text = str(dest).rstrip("/")
    if is_address(text):
        return Hub(text) if text.startswith("hf://") else Bucket(text)
    root, here, there = Path(dest), index.layout.root, Path(dest).resolve()
    if here == there or here in there.parents or there in here.parents:
        raise BadIndex(f"{root} and the index lie in each other", "Choose a place beside the index.")
    if root.exists() and not root.is_dir():
        raise BadIndex(f"{root} is a file", "Name a folder.")
    return Folder(root)


class _Publishing:
    """One call. `known` grows to the facts of all files but those that vouch for others."""

    def __init__(self, source: WholeIndex, there: Destination, overwrite: bool, progress: Progress | None) -> None:
        self.source, self.there, self.overwrite = source, there, overwrite
        self.place = Place(source, there)
        self.known: Files = {**source.copied, **{key: content_facts(one) for key, one in source.written.items()}}
        self.progress, self._lock, self._done, self._total = progress or silent, Lock(), 0, 0
        self._stopping = False

    def run(self) -> Published:
        self.place.take(self.overwrite)
        self.known |= self.place.made
        missing = {key for key, facts in self.known.items() if self.place.sizes.get(key) != facts.size}
        missing |= self.source.to_make.keys() - self.known.keys()
        self._count(missing)
        self._send(missing)
        self._compare_all()
        notes = [*self.source.left_out, *self._put_card()]
        last = self.source.last(self.place.made)
        self._put_last(last)
        self.place.clean_up({*self.known, *last})
        sizes = [facts.size for facts in self.known.values()]
        sizes += [len(one) for key, one in last.items() if key not in self.source.manifest_keys]
        before = len(self.known) - len(missing)
        return Published(self.there.shown("").rstrip("/"), len(sizes), sum(sizes), before, notes)

    def _count(self, missing: set[str]) -> None:
        """What is sent and then read back, in bytes; and whether a folder has room for it."""
        sizes = {key: facts.size for key, facts in self.known.items()} | self.source.to_make
        sending = sum(sizes[key] for key in missing)
        self._total = sending + sum(sizes.values())
        if isinstance(self.there, Folder):
            check_room(self.there.root, sending)

    def _advance(self, count: int) -> None:
        with self._lock:
            if self._stopping:
                raise _Stopped
            self._done = min(self._done + count, self._total)  # what was damaged there goes twice
            self.progress(self._done, self._total)

    def _send(self, keys: set[str]) -> None:
        """Send files, several at once; each is compared with its checksum while it is read. Last what is made first."""
        self._each(self._send_one, sorted(keys - self.source.to_make.keys()))
        self.there.settle()
        for key in sorted(keys & self.source.to_make.keys()):
            content = self.source.make(key)
            facts = self.known[key] = self.place.made[key] = content_facts(content)
            self.there.put(Outgoing(key, facts, content), self._advance)
            self.place.mark()
            self.there.settle()

    def _send_one(self, key: str) -> None:
        content = self.source.written.get(key)
        place = self.source.layout.root if content is None else content
        self.there.put(Outgoing(key, self.known[key], place), self._advance)

    def _compare_all(self) -> None:
        """Read every file back and compare it; what differs is sent once more."""
        wrong = self._differing(self.known)
        if wrong:
            self._send(wrong)
            wrong = self._differing(wrong)
        if wrong:
            raise _not_sent(self.there.shown(min(wrong)))

    def _differing(self, keys: Iterable[str]) -> set[str]:
        wrong = set()

        def compare(key: str) -> None:
            if not self._is_right(key, self.known[key]):
                wrong.add(key)

        self._each(compare, keys)
        return wrong

    def _is_right(self, key: str, facts: FileFacts) -> bool:
        digest, size = xxhash.xxh3_128(), 0
        try:
            for piece in self.there.pieces(key):
                digest.update(piece)
                size += len(piece)
                self._advance(len(piece))
                if size > facts.size:
                    return False
        except DamagedIndex:  # it is missing
            return False
        return FileFacts(size, digest.hexdigest()) == facts

    def _each(self, work: Callable[[str], None], keys: Iterable[str]) -> None:
        """Do it for every key, several at once. Where one fails, or at Ctrl-C, the others end too."""
        pool = ThreadPoolExecutor(self.there.at_once)
        try:
            for _ in pool.map(work, keys):
                pass
        except BaseException:
            self._stopping = True
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _put_card(self) -> list[str]:
        """A card that is there may be its owner's: it stays. Returns a line where it is not this index's."""
        card = data_card(self.source, self.place.made, self.there.name).encode()
        if CARD not in self.place.sizes or self.overwrite:
            self.place.put(CARD, card)
        elif self.there.content(CARD) != card:
            return [f"{CARD} was there and stays as it is"]
        return []

    def _put_last(self, last: dict[str, bytes]) -> None:
        """One after the other, each there before the next, and compared."""
        for key, content in last.items():
            if self.there.content(key) != content:
                self.place.put(key, content)
                self.there.settle()
                if self.there.content(key) != content:
                    raise _not_sent(self.there.shown(key))


class _Stopped(Exception):
    """Ends what other threads are doing."""


def _not_sent(file: str) -> BadIndex:
    return BadIndex(f"{file} is not what was sent", "Look at that place, and repeat.")
