"""Many workers, one index (schemas/workers/joint.py)."""

from __future__ import annotations

from ...data.models.remembered_weights import remember_weights
from ...schemas.array_specs import part_bytes
from ...schemas.errors import BadIndex, BadRequest
from ...schemas.manifest import Manifest
from ...schemas.run_spec import RunSpec
from ...schemas.workers.joint import Joint, clear, open_to_others
from ...schemas.workers.leases import worker_name
from ..build import Listener, finish, own_weights, recorder, taken_up
from ..ledger import Ledger
from ..plan import Plan, Request, check_space, make_plan
from ..run.part_runner import run_parts
from .leases import CountedLeases, Superseded
from .site import IndexSite, site_at


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
            clear(site, Ledger(site.layout, site.files))
        if (there := site.manifest()) is not None:
            _must_be_same(site, there, plan.spec)
            listener.planned(plan.announced(), plan.spec.images)
            listener.told(f"{site.name} is finished already")
            return True
        finished = _Joint(plan, site, _begin(site, plan), listener).run(finish_it)
    if finished and (place := own_weights(request)) is not None:
        remember_weights(plan.spec.weights_sha256, place)
    return finished


def _begin(site: IndexSite, plan: Plan) -> Ledger:
    """A ledger of this worker's own, in a place that no run fills alone."""
    site.layout.parts.mkdir(parents=True, exist_ok=True)  # for the lock
    ledger = Ledger(site.layout, site.files, worker_name())

    def begin() -> None:
        if not ledger.is_finished():  # by others, since this worker has looked
            site.check()
        ledger.begin(plan.spec)

    open_to_others(site, ledger, begin)
    ledger.begin(plan.spec)
    return ledger


def _must_be_same(site: IndexSite, there: Manifest, spec: RunSpec) -> None:
    if different := spec.differences(RunSpec.from_json(there["run"])):
        fact = f"{site.name} is a finished index of another run ({'; '.join(different)})"
        raise BadIndex(fact, "Choose another name, or remove it.")


class _Joint(Joint):
    """One worker's share of an index."""

    site: IndexSite
    leases: CountedLeases

    def __init__(self, plan: Plan, site: IndexSite, ledger: Ledger, listener: Listener) -> None:
        self.plan, self.ledger, self.listener = plan, ledger, listener
        leases = CountedLeases(ledger, plan.spec, lambda images: listener.advance(images, 0))
        super().__init__(site, leases, listener.told)

    def run(self, finish_it: bool = True) -> bool:
        spec, entered = self.plan.spec, self.ledger.entered()
        here = len(entered) if self.site.address is None else len(spec.parts)  # parts go elsewhere
        check_space(self.plan, self.site.layout.root, here * part_bytes(spec))
        self.listener.planned(self.plan.announced(), sum(spec.parts[part].images for part in entered))
        return super().run(finish_it)

    def work(self) -> None:
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

    def finish(self) -> None:
        self.listener.finishing()
        statistics, _ = taken_up(self.plan, self.ledger)
        end = finish(self.plan, self.site.layout, self.ledger, statistics, self.site.store)
        self.site.clean_up()
        self.listener.finished(*end)

    def all_hold(self) -> bool:
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
