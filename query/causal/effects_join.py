"""Several workers, one run of effects (schemas/workers/joint.py). A part is done where its entry and its files are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ...schemas.errors import BadRequest
from ...schemas.progress import Progress, counted
from ...schemas.run_spec import Part
from ...schemas.workers.filling import Filling
from ...schemas.workers.joint import Joint, clear, open_to_others
from ...schemas.workers.leases import Leases, worker_name
from .effects_fill import fill, finish
from .effects_place import EffectsSite, begin, check_place, clean_up, entry_of, must_be_same
from .effects_plan import EffectsPlan


def join_effects(
    plan: EffectsPlan, site: EffectsSite, progress: Progress | None, told: Callable[[str], object]
) -> None:
    """Help to make the effects that are planned, until they are finished."""
    filling = Filling(site.layout, site.files, worker_name())
    if plan.overwrite and site.address is None:
        raise BadRequest("--join goes with other workers, and --overwrite would take their work", "Leave one out.")
    if filling.is_finished() and not plan.overwrite:
        must_be_same(plan, site)
        clean_up(site)
        told(f"{site.name} is finished already")
        return
    check_place(plan, site)
    if plan.overwrite:
        clear(site, filling)
    site.layout.parts.mkdir(parents=True, exist_ok=True)  # for the lock
    open_to_others(site, filling, lambda: begin(plan, site))
    must_be_same(plan, site)
    done = sum(plan.spec.parts[part].images for part in filling.entered())
    _Joint(plan, site, filling, counted(progress, plan.spec.images, done), told).run()


class _Joint(Joint):
    """One worker's share of a run of effects."""

    site: EffectsSite

    def __init__(
        self,
        plan: EffectsPlan,
        site: EffectsSite,
        filling: Filling,
        advance: Callable[[int], object],
        told: Callable[[str], object],
    ) -> None:
        super().__init__(site, Leases(filling, plan.spec, advance), told)
        self.plan, self.advance = plan, advance

    def work(self) -> None:
        fill(self.plan, self.site, self._parts(), self.advance)

    def _parts(self) -> Iterator[Part]:
        for part in self.leases.parts():
            yield part
            self.leases.settled({part.index})  # its entry is written by then

    def all_hold(self) -> bool:
        """Whether every part has its entry and its files; entries without are removed, and the parts free again."""
        lost = [part for part in self.plan.spec.parts if entry_of(self.plan, self.site, part) is None]
        for part in lost:
            self.site.files.remove(self.site.layout.key(self.site.layout.entry(part.index)))
        return not lost

    def finish(self) -> None:
        finish(self.plan, self.site)
