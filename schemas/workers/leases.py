"""Which parts of a folder a worker may make, where several fill one: each part has a lease, each worker a beat.

Leases save work, they protect nothing: a part's files have the same content whoever writes them, and what counts is
decided by its entry. A worker whose beat stands still for LEASE_SECONDS, by the clock of whoever looks, is
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

from ..errors import BadIndex
from ..run_spec import Part, PartsSpec
from .filling import Filling

LEASE_SECONDS = 60.0
BEATS = 6  # of a living worker in that time
AHEAD_SECONDS = 5.0  # of work that is leased at once
FEW = 8  # of the parts that nobody has, a worker leases at most one in so many: the others shall have work too
FINISH = "finish"  # the lease of the end of a run


def worker_name() -> str:
    """A name that no other worker has: letters and digits of this machine's, and chance."""
    machine = re.sub(r"[^a-z0-9]", "", socket.gethostname().lower())[:20]
    return f"{machine or 'worker'}-{uuid4().hex[:8]}"


@contextmanager
def beating(filling: Filling) -> Iterator[None]:
    """While inside, this worker is seen to live. Afterwards, when the process dies, or when another has finished the
    folder, it is not; a repair begins with a finished one."""
    key, ended = filling.layout.key(filling.layout.beat(filling.worker)), threading.Event()
    finished = filling.is_finished()

    def beat() -> None:
        number = 0
        while not ended.wait(LEASE_SECONDS / BEATS):
            with suppress(BadIndex):  # of a store that stays away the work itself tells
                if filling.is_finished() != finished:
                    return
                number += 1
                filling.files.write(key, str(number).encode())

    filling.files.write(key, b"0")
    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(BadIndex):  # a beat that stays there stands still
            filling.files.remove(key)


def must_be_alone(filling: Filling) -> None:
    """Raise BadIndex where a worker fills or repairs the folder."""
    if any_alive(filling):
        raise BadIndex(f"a worker is filling {filling.files.shown('')}", "Stop all workers first.")


def any_alive(filling: Filling) -> bool:
    """Whether any worker's beat changes while one looks, for two beats of a living one."""
    layout, files = filling.layout, filling.files

    def beats() -> dict[str, bytes | None]:
        names = files.names(layout.key(layout.working))
        return {name: files.content(layout.key(layout.working / name)) for name in names if name.endswith(".beat")}

    before = beats()
    if before:
        time.sleep(2 * LEASE_SECONDS / BEATS)
    return any(content != before.get(name) for name, content in beats().items())


class Leases:
    """The leases of a folder as one worker sees and takes them."""

    def __init__(self, filling: Filling, spec: PartsSpec, advance: Callable[[int], object]) -> None:
        """advance: told the images of parts that others have made, when they are seen."""
        self.filling, self.spec, self._advance = filling, spec, advance
        self._mine: set[int] = set()  # that this worker has taken
        self._open: set[int] = set()  # of these, those that it works on, or that are not done for good
        self._seen = filling.entered()
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

    def settled(self, parts: set[int]) -> None:
        """Parts that are done for good: until then they are nobody's to take, this worker's neither."""
        self._open -= parts

    def has(self, part: int) -> bool:
        """Whether the lease of a part that holds is this worker's."""
        held = self._numbers().get(_name(part))
        return held is not None and self._holder(_name(part), held) == self.filling.worker

    def done(self) -> set[int]:
        """The parts that are done, as far as can be seen at a glance."""
        entered = self.filling.entered()
        self._tell_of(entered)
        return entered

    def take_finish(self) -> bool:
        """Whether this worker may finish the folder: no living one is at it."""
        held = self._numbers().get(FINISH)
        if held is not None:
            holder = self._holder(FINISH, held)
            if holder == self.filling.worker or self._is_alive(holder):
                return holder == self.filling.worker
        return self._create(FINISH, 0 if held is None else held + 1)

    def give_finish_back(self) -> None:
        """Let go of the finish: parts have to be made before."""
        held = self._numbers()[FINISH]
        self.filling.files.remove(self.filling.layout.key(self.filling.layout.lease(FINISH, held)))

    def _take(self, wanted: int) -> list[int]:
        """Lease some parts that nobody has, at most so many, of few left one; else one whose worker has died."""
        leased, entered = self._numbers(), self.filling.entered()
        if self.filling.is_finished():  # looked at last: what is listed above goes when the manifest is there
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
        own = set(self._open)  # looked at first: what is settled in the meantime is done by then
        done = self.done()
        if self.filling.is_finished():
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
        return holder != self.filling.worker and self._is_alive(holder)

    def _numbers(self) -> dict[str, int]:
        """The number of the lease that holds, by what is leased."""
        found: dict[str, int] = {}
        for name in self.filling.files.names(self.filling.layout.key(self.filling.layout.working)):
            what, _, rest = name.partition(".")
            number, _, kind = rest.partition(".")
            if kind == "lease" and number.isdigit():
                found[what] = max(found.get(what, 0), int(number))
        return found

    def _holder(self, what: str, number: int) -> str:
        content = self.filling.files.content(self.filling.layout.key(self.filling.layout.lease(what, number)))
        return (content or b"").decode()

    def _create(self, what: str, number: int) -> bool:
        key = self.filling.layout.key(self.filling.layout.lease(what, number))
        return self.filling.files.create(key, self.filling.worker.encode())

    def _is_alive(self, worker: str) -> bool:
        """Whether a worker's beat has changed of late, or was not looked at long enough."""
        beat = self.filling.files.content(self.filling.layout.key(self.filling.layout.beat(worker))) if worker else None
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
            self._advance(self.spec.parts[part].images)
        self._seen |= entered


def _name(part: int) -> str:
    return f"{part:05d}"
