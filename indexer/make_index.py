"""An index by this process alone, by several workers that join, or by the workers of a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..schemas.errors import BadRequest

if TYPE_CHECKING:
    from .build import Listener
    from .plan import Request


def make_index(
    request: Request, listener: Listener, join: bool, finish: bool, ray: str | None, ray_workers: int | None
) -> bool:
    """Make the index that `request` describes; whether it is finished. Raises BadRequest for words at odds."""
    if join and ray is not None:
        raise BadRequest("join and ray are two ways to have several workers", "Leave one out.")
    if not finish and not join:
        raise BadRequest("the end can be left to others (no finish) only with join", "Add it, or finish.")
    if ray_workers and ray is None:
        raise BadRequest("a number of Ray's workers wants a Ray cluster", "Give its address by ray.")
    if ray is not None:
        from .workers.by_ray import index_by_ray

        return index_by_ray(request, listener, ray, ray_workers)
    if join or isinstance(request.out, str):  # at an address leases alone keep runs apart
        from .workers.join import join as join_others

        return join_others(request, listener, finish)
    from .build import build

    build(request, listener)
    return True
