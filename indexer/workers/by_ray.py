"""An index by workers of a Ray cluster: each is an actor that joins (join.py), restarted elsewhere when it dies.

All of them must reach OUT, the images and the weights under the same names. Ray places and restarts; who makes which
part, and whether it counts, is settled in OUT, as without Ray.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ...schemas.errors import BadRequest, VitdexError
from ..build import Listener, Quiet
from ..plan import Announced, Request, default_workers
from .site import site_at

if TYPE_CHECKING:
    from ..tables.class_order import Accuracy

LOOK_SECONDS = 0.5
CONNECT_SECONDS = 10.0


class Share(NamedTuple):
    """What each worker takes of its node."""

    workers: int
    cores: int
    gpus: int


@dataclass
class Board:
    """What the workers tell, gathered beside the driver."""

    announced: Announced | None = None
    first: int = 0  # images that were done when the run was announced
    done: int = 0
    lines: list[str] = field(default_factory=list)
    finishing: bool = False
    end: tuple[list[str], Accuracy | None] | None = None

    def put(self, **news: Any) -> None:
        for name, value in news.items():
            if name == "line":
                self.lines.append(value)
            elif name == "done":
                self.done = max(self.done, value)
            elif name != "announced" or self.announced is None:
                setattr(self, name, value)

    def look(self) -> Board:
        seen = replace(self)
        self.lines = []
        return seen


class Worker(Quiet):
    """One worker, in a process of Ray's."""

    def __init__(self, request: Request, board: Any) -> None:
        self.request, self.board, self.done = request, board, 0

    def work(self) -> bool:
        from .join import join

        return join(self.request, self)

    def planned(self, announced: Announced, done: int) -> None:
        self.done = done
        self.board.put.remote(announced=announced, first=done, done=done)

    def advance(self, images: int, written: int) -> None:
        self.done += images
        self.board.put.remote(done=self.done)

    def finishing(self) -> None:
        self.board.put.remote(finishing=True)

    def finished(self, notes: list[str], accuracy: Accuracy | None) -> None:
        self.board.put.remote(end=(notes, accuracy))


def index_by_ray(request: Request, listener: Listener, address: str, workers: int | None) -> bool:
    """Make the index that `request` describes by actors of a Ray cluster. Returns whether it is finished.

    address: as ray.init takes it, such as 'auto', 'local' or 'ray://HEAD:10001'. workers: by default one a GPU, or one
    a node where there are none. Raises BadRequest where there is no Ray or no such cluster, else what a worker raises.
    """
    with _connected(address) as ray:
        share = _share(ray.nodes(), request.device, workers)
        if request.workers is None:
            request = replace(request, workers=default_workers("cuda" if share.gpus else "cpu", share.cores))
        here = ray.get_runtime_context().get_node_id()
        beside = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(here, soft=True)
        board = ray.remote(Board).options(num_cpus=0, max_restarts=-1, scheduling_strategy=beside).remote()
        placed = ray.remote(Worker).options(
            num_cpus=share.cores, num_gpus=share.gpus, max_restarts=-1, max_task_retries=-1
        )
        actors = [placed.remote(request, board) for _ in range(share.workers)]
        finished = _watch(ray, board, actors, listener)
    with site_at(request.out) as site:
        site.clean_up()  # workers that ended with the cluster leave their beats
    return finished


def _watch(ray: Any, board: Any, actors: list[Any], listener: Listener) -> bool:
    """Tell what is on the board until the first worker has seen the index finished; raises what a worker raises."""
    told = _Told(listener)
    working = {actor.work.remote(): actor for actor in actors}
    while True:
        ready, _ = ray.wait(list(working), timeout=LOOK_SECONDS)
        told.tell(_looked_at(ray, board))
        for answer in ready:
            try:
                finished = bool(ray.get(answer))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, VitdexError):
                    raise error.cause from None
                raise
            except ray.exceptions.RayActorError:  # it died; Ray starts it again, but may not repeat what it was at
                actor = working.pop(answer)
                working[actor.work.remote()] = actor
                continue
            told.tell(_looked_at(ray, board))
            return finished


def _looked_at(ray: Any, board: Any) -> Board:
    """What is new on the board; nothing while it is started again, after its node has died."""
    try:
        seen: Board = ray.get(board.look.remote())
    except ray.exceptions.RayActorError:
        return Board()
    return seen


class _Told:
    """Passes on what is new on the board."""

    def __init__(self, listener: Listener) -> None:
        self.listener, self.seen = listener, Board()

    def tell(self, board: Board) -> None:
        if board.announced is None:
            return
        listener, seen, self.seen = self.listener, self.seen, board
        if seen.announced is None:
            listener.planned(board.announced, board.first)
        before = max(seen.done, board.first)
        if board.done > before:
            listener.advance(board.done - before, 0)
        for line in board.lines:
            listener.told(line)
        if board.finishing and not seen.finishing:
            listener.finishing()
        if board.end is not None and seen.end is None:
            listener.finished(*board.end)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise BadRequest("--ray needs the extra 'ray'", "pip install 'vitdex[ray]'") from error
    try:
        if found := re.fullmatch(r"(?:ray://)?([^/:]+):(\d+)", address):  # Ray itself tries for five minutes
            socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadRequest(f"there is no Ray cluster at {address!r}", "Start one by 'ray start --head'.") from error
    try:
        yield ray
    finally:
        ray.shutdown()  # the actors end with their driver


def _share(nodes: list[dict[str, Any]], device: str | None, workers: int | None) -> Share:
    """How many workers a cluster takes, and what each has."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(node.get("GPU", 0)) for node in alive) if device != "cpu" else 0
    with_cores = [node for node in alive if node.get("CPU", 0) >= 1 and (node.get("GPU", 0) or not gpus)]
    if not with_cores:
        raise BadRequest("no node of the Ray cluster has a core to work on", "Add nodes, or start Ray with --num-cpus.")
    count = workers or gpus or len(with_cores)
    if gpus:
        if count > gpus:
            raise BadRequest(f"{count} workers are asked for and the cluster has {gpus} GPUs", "One a GPU at most.")
        cores = min(int(node["CPU"] // max(1, node["GPU"])) for node in with_cores)
        return Share(count, max(1, cores), 1)
    for cores in range(int(min(node["CPU"] for node in with_cores)), 0, -1):
        if sum(int(node["CPU"] // cores) for node in with_cores) >= count:
            return Share(count, cores, 0)
    total = sum(int(node["CPU"]) for node in with_cores)
    raise BadRequest(f"{count} workers are asked for and the cluster has {total} cores", "One a core at most.")
