"""The leases of an index: what its workers count they count together, so that a part can be counted by one alone."""

from __future__ import annotations

from collections.abc import Callable

from ...schemas.run_spec import RunSpec
from ...schemas.workers.leases import Leases
from ..ledger import Ledger, PartEntry


class Superseded(Exception):
    """Another worker has made a part that this one has counted: it begins again from its own last tally."""


class CountedLeases(Leases):
    """The leases of an index as one worker sees and takes them."""

    def __init__(self, ledger: Ledger, spec: RunSpec, advance: Callable[[int], object]) -> None:
        """advance: told the images of parts that others have made, when they are seen."""
        super().__init__(ledger, spec, advance)
        self.ledger = ledger

    def begin_again(self) -> None:
        """What this worker has begun and not tallied is free again, for itself too."""
        self._open.clear()

    def enter(self, entry: PartEntry) -> None:
        """Write a part's entry. Raises Superseded where another worker's stands, and holds."""
        ledger = self.ledger
        if ledger.create_entry(entry):
            return
        there = ledger.entry(entry.part)
        if there is not None:
            if entry.part in ledger.tally_of(there.worker).parts:  # this worker's own too: nothing is counted twice
                raise Superseded
            if there.worker != ledger.worker and not self.has(entry.part):
                raise Superseded
        ledger.finish_part(entry)

    def check_own(self, parts: set[int]) -> None:
        """Raise Superseded where a part that is about to be tallied has become another's."""
        for part in sorted(parts & self._open):
            entry = self.ledger.entry(part)
            if entry is None or entry.worker != self.ledger.worker:
                raise Superseded

    def done(self) -> set[int]:
        """The parts that are done, as far as entries and tallies say at a glance."""
        return super().done() & set().union(*(tally.parts for tally in self.ledger.tallies()))
