"""Which parts of an index a worker may make, where several fill one: each part has a lease, each worker a beat.

Leases save work, they protect nothing: a part's files have the same content whoever writes them, and what counts is
decided by its entry (ledger.py). A worker whose beat stands still for LEASE_SECONDS, by the clock of whoever looks, is
taken for dead, and its parts are leased anew, under the next number: so a lease is only ever created, which folders
and object stores can both do for one worker of many.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from ...schemas.errors import BadIndex
from ...schemas.run_spec import Part, RunSpec
from ..ledger import Ledger, PartEntry

LEASE_SECONDS = 60.0
BEATS = 6  # of a living worker in that time
AHEAD_SECONDS = 5.0  # of work that is leased at once
FEW = 8  # of the parts that nobody has, a worker leases at most one in so many: the others shall have work too
FINISH = "finish"  # the lease of the end of a run


class Superseded(Exception):
    """Another worker has made a part that this one has counted: it begins again from its own last tally."""


def worker_name() -> str:
    """A name that no other worker has: letters and digits of this machine's, and chance."""
    machine = re.sub(r"[^a-z0-9]", "", socket.gethostname().lower())[:20]
    return f"{machine or 'worker'}-{uuid4().hex[:8]}"


@contextmanager
def beating(ledger: Ledger) -> Iterator[None]:
    """While inside, this worker is seen to live. Afterwards, when the process dies, or when another has finished the
    index, it is not; a repair begins with a finished one."""
    key, ended = ledger.layout.key(ledger.layout.beat(ledger.worker)), threading.Event()
    finished = ledger.is_finished()

    def beat() -> None:
        number = 0
        while not ended.wait(LEASE_SECONDS / BEATS):
            with suppress(BadIndex):  # of a store that stays away the work itself tells
                if ledger.is_finished() != finished:
                    return
                number += 1
                ledger.files.write(key, str(number).encode())

    ledger.files.write(key, b"0")
    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(BadIndex):  # a beat that stays there stands still
            ledger.files.remove(key)


def must_be_alone(ledger: Ledger) -> None:
    """Raise BadIndex where a worker fills or repairs the index."""
    if any_alive(ledger):
        raise BadIndex(f"a worker is filling {ledger.files.shown('')}", "Stop all workers first.")


def any_alive(ledger: Ledger) -> bool:
    """Whether any worker's beat changes while one looks, for two beats of a living one."""
    layout, files = ledger.layout, ledger.files

    def beats() -> dict[str, bytes | None]:
        names = files.names(layout.key(layout.working))
        return {name: files.content(layout.key(layout.working / name)) for name in names if name.endswith(".beat")}

    before = beats()
    if before:
        time.sleep(2 * LEASE_SECONDS / BEATS)
    return any(content != before.get(name) for name, content in beats().items())


class Leases:
    """The leases of an index as one worker sees and takes them."""

    def __init__(self, ledger: Ledger, spec: RunSpec, advance: Callable[[int, int], None]) -> None:
        """advance: told the images of parts that others have made, when they are seen."""
        self.ledger, self.spec, self._advance = ledger, spec, advance
        self._mine: set[int] = set()  # that this worker has taken
        self._open: set[int] = set()  # of these, those that it works on or has not tallied yet
        self._seen = ledger.entered()
        self._beats: dict[str, tuple[bytes, float]] = {}  # of other workers, and when they changed

    def parts(self) -> Iterator[Part]:
        """Parts that are free, each leased before it is asked for, until there is none.

        Where they are made quickly, several are leased at once: to look and to lease takes a tenth of a second in a
        bucket, as long as some GPUs need for a part.
        """
        began, made = time.monotonic(), 0
        while taken := self._take(int(made * AHEAD_SECONDS / max(time.monotonic() - began, 1e-9))):
            self._mine.update(taken)
            self._open.update(taken)
            for part in taken:
                yield self.spec.parts[part]
            made += len(taken)

    def begin_again(self) -> None:
        """What this worker has begun and not tallied is free again, for itself too."""
        self._open.clear()

    def enter(self, entry: PartEntry) -> None:
        """Write a part's entry. Raises Superseded where another worker's stands, and holds."""
        ledger, name = self.ledger, _name(entry.part)
        if ledger.create_entry(entry):
            return
        there = ledger.entry(entry.part)
        if there is not None:
            if entry.part in ledger.tally_of(there.worker).parts:  # this worker's own too: nothing is counted twice
                raise Superseded
            held = self._numbers().get(name)
            if there.worker != ledger.worker and (held is None or self._holder(name, held) != ledger.worker):
                raise Superseded
        ledger.finish_part(entry)

    def check_own(self, parts: set[int]) -> None:
        """Raise Superseded where a part that is about to be tallied has become another's."""
        for part in sorted(parts & self._open):
            entry = self.ledger.entry(part)
            if entry is None or entry.worker != self.ledger.worker:
                raise Superseded

    def tallied(self, parts: set[int]) -> None:
        """Parts whose tally is written: until then they are nobody's to take, this worker's neither."""
        self._open -= parts

    def done(self) -> set[int]:
        """The parts that are done, as far as entries and tallies say at a glance."""
        entered = self.ledger.entered()
        self._tell_of(entered)
        return entered & set().union(*(tally.parts for tally in self.ledger.tallies()))

    def take_finish(self) -> bool:
        """Whether this worker may finish the index: no living one is at it."""
        held = self._numbers().get(FINISH)
        if held is not None:
            holder = self._holder(FINISH, held)
            if holder == self.ledger.worker or self._is_alive(holder):
                return holder == self.ledger.worker
        return self._create(FINISH, 0 if held is None else held + 1)

    def give_finish_back(self) -> None:
        """Let go of the finish: parts have to be made before."""
        held = self._numbers()[FINISH]
        self.ledger.files.remove(self.ledger.layout.key(self.ledger.layout.lease(FINISH, held)))

    def _take(self, wanted: int) -> list[int]:
        """Lease some parts that nobody has, at most so many, of few left one; else one whose worker has died."""
        leased, entered = self._numbers(), self.ledger.entered()
        if self.ledger.is_finished():  # looked at last: what is listed above goes when the manifest is there
            return []
        self._tell_of(entered)
        fresh = [p for p in range(len(self.spec.parts)) if p not in entered and _name(p) not in leased]
        taken: list[int] = []
        most = max(1, min(wanted, len(fresh) // FEW))
        for part in fresh:
            if len(taken) == most:
                break
            if self._create(_name(part), 0):
                taken.append(part)
        return taken or self._take_over(leased)

    def _take_over(self, leased: dict[str, int]) -> list[int]:
        """Lease one part anew that is not done and that no living worker has."""
        own = set(self._open)  # looked at first: what is tallied in the meantime is done by then
        done = self.done()
        if self.ledger.is_finished():
            return []
        for part in range(len(self.spec.parts)):
            held = leased.get(_name(part))
            is_free = part not in done and part not in own and not self._is_busy(part, held)
            if is_free and self._create(_name(part), 0 if held is None else held + 1):
                return [part]
        return []

    def _is_busy(self, part: int, held: int | None) -> bool:
        """Whether a living worker other than this one has a part."""
        if held is None:
            return False
        holder = self._holder(_name(part), held)
        return holder != self.ledger.worker and self._is_alive(holder)

    def _numbers(self) -> dict[str, int]:
        """The number of the lease that holds, by what is leased."""
        found: dict[str, int] = {}
        for name in self.ledger.files.names(self.ledger.layout.key(self.ledger.layout.working)):
            what, _, rest = name.partition(".")
            number, _, kind = rest.partition(".")
            if kind == "lease" and number.isdigit():
                found[what] = max(found.get(what, 0), int(number))
        return found

    def _holder(self, what: str, number: int) -> str:
        content = self.ledger.files.content(self.ledger.layout.key(self.ledger.layout.lease(what, number)))
        return (content or b"").decode()

    def _create(self, what: str, number: int) -> bool:
        key = self.ledger.layout.key(self.ledger.layout.lease(what, number))
        return self.ledger.files.create(key, self.ledger.worker.encode())

    def _is_alive(self, worker: str) -> bool:
        """Whether a worker's beat has changed of late, or was not looked at long enough."""
        beat = self.ledger.files.content(self.ledger.layout.key(self.ledger.layout.beat(worker))) if worker else None
        if beat is None:
            return False
        now = time.monotonic()
        before, since = self._beats.get(worker, (b"", now))
        if beat != before:
            self._beats[worker] = beat, now
            return True
        return now - since < LEASE_SECONDS

    def _tell_of(self, entered: set[int]) -> None:
        """Tell the images of parts that others have made."""
        for part in entered - self._seen - self._mine:
            self._advance(self.spec.parts[part].images, 0)
        self._seen |= entered


def _name(part: int) -> str:
    return f"{part:05d}"
