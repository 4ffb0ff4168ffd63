"""Many workers, one index: each takes free parts until there is none, and one of them finishes.

All read and write one folder, or one place at an address; nothing else connects them. They may come and go at any time.
"""

from __future__ import annotations

import time

from ...data.models.remembered_weights import remember_weights
from ...schemas.array_specs import part_bytes
from ...schemas.errors import BadIndex, BadRequest
from ...schemas.manifest import Manifest
from ...schemas.run_spec import RunSpec
from ...schemas.storage.only_writer import AnotherWrites
from ..build import Listener, finish, own_weights, recorder, taken_up
from ..ledger import Ledger
from ..plan import Plan, Request, check_space, make_plan
from ..run.part_runner import run_parts
from .leases import Leases, Superseded, beating, must_be_alone, worker_name
from .site import Site, site_at

POLL_SECONDS = 2.0


def join(request: Request, listener: Listener, finish_it: bool = True) -> bool:
    """Help to make the index that `request` describes, until it is finished; whether it is.

    finish_it: with False, only until no part is free.
    """
    with site_at(request.out) as site:
        if request.overwrite and site.address is None:
            raise BadRequest("--join goes with other workers, and --overwrite would take their work", "Leave one out.")
        if not request.overwrite and site.manifest() is None:
            site.check()
        plan = make_plan(request)
        if request.overwrite:
            _clear(site)
        if (there := site.manifest()) is not None:
            _must_be_same(site, there, plan.spec)
            listener.planned(plan.announced(), plan.spec.images)
            listener.told(f"{site.name} is finished already")
            return True
        ledger = _begin(site, plan)
        with beating(ledger):
            finished = _Joint(plan, site, ledger, listener).run(finish_it)
        if finished:
            site.clean_up()  # once more: this worker's beat was among them
    if finished and (place := own_weights(request)) is not None:
        remember_weights(plan.spec.weights_sha256, place)
    return finished


def _clear(site: Site) -> None:
    """Remove what stands at an address. Raises BadIndex where a worker fills it."""
    must_be_alone(Ledger(site.layout, site.files))
    site.files.remove(site.layout.manifest.name)
    site.files.clear("")


def _begin(site: Site, plan: Plan) -> Ledger:
    """A ledger of this worker's own, in a place that no run fills alone."""
    layout, files = site.layout, site.files
    layout.parts.mkdir(parents=True, exist_ok=True)  # for the lock
    ledger, joined = Ledger(layout, files, worker_name()), layout.key(layout.joined)
    if files.content(joined) is None:
        with site.only_writer():
            if not ledger.is_finished():  # by others, since this worker has looked
                site.check()
            ledger.begin(plan.spec)
            files.create(joined, b"")
    ledger.begin(plan.spec)
    return ledger


def _must_be_same(site: Site, there: Manifest, spec: RunSpec) -> None:
    if different := spec.differences(RunSpec.from_json(there["run"])):
        fact = f"{site.name} is a finished index of another run ({'; '.join(different)})"
        raise BadIndex(fact, "Choose another name, or remove it.")


class _Joint:
    """One worker's share of an index."""

    def __init__(self, plan: Plan, site: Site, ledger: Ledger, listener: Listener) -> None:
        self.plan, self.site, self.ledger, self.listener = plan, site, ledger, listener
        self.leases = Leases(ledger, plan.spec, listener.advance)

    def run(self, finish_it: bool) -> bool:
        spec, entered = self.plan.spec, self.ledger.entered()
        here = len(entered) if self.site.address is None else len(spec.parts)  # parts go elsewhere
        check_space(self.plan, self.site.layout.root, here * part_bytes(spec))
        self.listener.planned(self.plan.announced(), sum(spec.parts[part].images for part in entered))
        waiting = False
        while not self.ledger.is_finished():
            self._work()
            missing = len(spec.parts) - len(self.leases.done())
            if self.ledger.is_finished():  # what is counted as missing went with the end
                break
            if not missing and finish_it and self._finish():
                return True
            if not finish_it:
                self.listener.told(f"no part is free; {missing} of {len(spec.parts)} are not done")
                return False
            if not waiting:
                waiting = True
                self.listener.told(_what_is_waited_for(missing))
            time.sleep(POLL_SECONDS)
        self.listener.told(f"another worker has finished {self.site.name}")
        return True

    def _work(self) -> None:
        """Make parts until none is free."""
        while True:
            statistics, _ = taken_up(self.plan, self.ledger)  # who may make the rest, leases say
            try:
                run_parts(
                    self.plan,
                    self.leases.parts(),
                    statistics,
                    self.listener.advance,
                    recorder(self.ledger, self.leases),
                )
            except Superseded:
                self.leases.begin_again()
                continue
            return

    def _finish(self) -> bool:
        """Whether this worker has finished the index; False where another is at it, or parts have to be made again."""
        if not self.leases.take_finish():
            return False
        try:
            with self.site.only_writer():
                if self.ledger.is_finished():
                    return False
                if not self._all_hold():
                    self.leases.give_finish_back()
                    return False
                self.listener.finishing()
                statistics, _ = taken_up(self.plan, self.ledger)
                end = finish(self.plan, self.site.layout, self.ledger, statistics, self.site.store)
                self.site.clean_up()
                self.listener.finished(*end)
        except AnotherWrites:
            return False
        return True

    def _all_hold(self) -> bool:
        """Whether every part is counted once, by the worker that its entry names. Tallies of which a part has become
        another's are removed: their other parts are free again."""
        parts = len(self.plan.spec.parts)
        made_by = {entry.part: entry.worker for entry in self.ledger.entries(parts)}
        held: set[int] = set()
        for tally in self.ledger.tallies():
            if all(made_by.get(part) == tally.worker for part in tally.parts):
                held |= tally.parts
            else:
                self.ledger.drop_tally(tally)
        return held == set(range(parts))


def _what_is_waited_for(missing: int) -> str:
    if not missing:
        return "all parts are done; another worker makes the tables"
    return f"no part is free; waiting for {missing} that other workers make"
