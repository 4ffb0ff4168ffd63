"""Many workers, one folder: each takes free parts until there is none, and one of them finishes.

All read and write one folder, or one place at an address; nothing else connects them. They may come and go at any time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from ..errors import BadIndex
from ..storage.only_writer import AnotherWrites
from .filling import Filling
from .leases import Leases, beating, must_be_alone
from .site import Site

POLL_SECONDS = 2.0


class Joint(ABC):
    """One worker's share. What its parts and the end are made of, subclasses know."""

    def __init__(self, site: Site, leases: Leases, told: Callable[[str], object]) -> None:
        self.site, self.leases, self.told = site, leases, told

    @abstractmethod
    def work(self) -> None:
        """Make parts until none is free."""

    @abstractmethod
    def all_hold(self) -> bool:
        """Whether every part is done for good. Those that are not are free again by then."""

    @abstractmethod
    def finish(self) -> None:
        """Make what is made once, last of all the manifest."""

    def run(self, finish_it: bool = True) -> bool:
        """Make parts until the folder is finished; whether it is. finish_it: with False, until no part is free."""
        with beating(self.leases.filling):
            finished = self._run(finish_it)
        if finished:
            self.site.clean_up()  # this worker's beat among it
        return finished

    def _run(self, finish_it: bool) -> bool:
        parts, waiting = len(self.leases.spec.parts), False
        while not self._is_finished():
            try:
                self.work()
            except BadIndex:
                if not self._is_finished():  # what this worker had counted went with the end
                    raise
            missing = parts - len(self.leases.done())
            if self._is_finished():  # what is counted as missing went with the end
                break
            if not missing and finish_it and self._finish():
                return True
            if not finish_it:
                self.told(f"no part is free; {missing} of {parts} are not done")
                return False
            if not waiting:
                waiting = True
                self.told(_what_is_waited_for(missing))
            time.sleep(POLL_SECONDS)
        self.told(f"another worker has finished {self.site.name}")
        return True

    def _is_finished(self) -> bool:
        return self.leases.filling.is_finished()

    def _finish(self) -> bool:
        """Whether this worker has finished; False where another is at it, or parts have to be made again."""
        if not self.leases.take_finish():
            return False
        try:
            with self.site.only_writer():
                if self._is_finished():
                    return False
                if not self.all_hold():
                    self.leases.give_finish_back()
                    return False
                self.finish()
        except AnotherWrites:
            return False
        return True


def open_to_others(site: Site, filling: Filling, begin: Callable[[], None]) -> None:
    """Mark a place as one that several workers fill; before the first does, `begin`, where no run fills it alone."""
    joined = filling.layout.key(filling.layout.joined)
    if filling.files.content(joined) is None:
        with site.only_writer():
            begin()
            filling.files.create(joined, b"")


def clear(site: Site, filling: Filling) -> None:
    """Remove what stands at an address. Raises BadIndex where a worker fills it."""
    must_be_alone(filling)
    site.files.remove(site.layout.manifest.name)
    site.files.clear("")


def check_alone(filling: Filling, overwrite: bool) -> None:
    """Raise BadIndex where several workers fill the folder; with `overwrite`, where one of them lives."""
    layout = filling.layout
    if not layout.joined.exists():
        return
    if not overwrite:
        raise BadIndex(f"several workers fill {layout.root}", "Join them by --join, or give --overwrite.")
    must_be_alone(filling)


def _what_is_waited_for(missing: int) -> str:
    if not missing:
        return "all parts are done; another worker makes the tables"
    return f"no part is free; waiting for {missing} that other workers make"
