"""An index by workers of a Ray cluster of three nodes: the same bytes, and so where workers and nodes are killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_resume import content, request
from test_workers import Told
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.workers import by_ray
from vitdex.indexer.workers.by_ray import Share, _share, index_by_ray
from vitdex.schemas.errors import BadIndex, BadRequest
from vitdex.schemas.integrity import verify

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402 - not on every system


class Hasty(by_ray.Worker):
    """A worker that tallies every part and is taken for dead after three seconds."""

    def work(self) -> bool:
        from vitdex.indexer.run import part_runner
        from vitdex.schemas.workers import joint, leases

        part_runner.STATE_SECONDS, leases.LEASE_SECONDS, joint.POLL_SECONDS = 0, 3.0, 0.2
        return super().work()


@pytest.fixture(scope="module")
def cluster(s3: dict[str, str]) -> Iterator[Any]:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the nodes cannot import tests
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.items():  # the nodes have the rights to buckets
            patch.setenv(name, value)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 80_000_000})
        for _ in range(2):
            nodes.add_node(num_cpus=1, object_store_memory=80_000_000)
        yield nodes
        nodes.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_ray, "Worker", Hasty)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By one worker, of one thread as each of the cluster's is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return content(build(request(tmp_path_factory.mktemp("whole") / "a"), Quiet()))
    finally:
        torch.set_num_threads(before)


class Watched(Told):
    """Also knows what was announced, and of the end."""

    def planned(self, run: Any, done: int) -> None:
        self.run, self.images = run, done

    def finished(self, notes: list[str], accuracy: Any) -> None:
        self.accuracy = accuracy


def test_a_cluster_leaves_the_bytes_of_one(cluster: Any, hasty: None, tmp_path: Path, whole: dict[str, Any]) -> None:
    watched = Watched()
    assert index_by_ray(request(tmp_path / "a"), watched, cluster.address, None)
    assert content(tmp_path / "a") == whole
    assert verify(tmp_path / "a") == []
    assert watched.images == 96
    assert watched.accuracy.top1 > 0.5
    assert not ray.is_initialized()


def test_a_cluster_leaves_them_in_a_bucket(cluster: Any, hasty: None, bucket: str, whole: dict[str, Any]) -> None:
    pytest.importorskip("obstore")
    from test_workers_elsewhere import at, content_at

    assert index_by_ray(at(f"{bucket}/a"), Quiet(), cluster.address, None)
    assert content_at(f"{bucket}/a") == whole


def test_what_a_worker_raises_is_raised_here(cluster: Any, hasty: None, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(BadIndex, match="holds other files"):
        index_by_ray(request(tmp_path / "a"), Quiet(), cluster.address, 1)
    with pytest.raises(BadRequest, match=r"4 workers are asked for and the cluster has 3 cores"):
        index_by_ray(request(tmp_path / "b"), Quiet(), cluster.address, 4)
    with pytest.raises(BadRequest, match=r"there is no Ray cluster at '127.0.0.1:9'"):
        index_by_ray(request(tmp_path / "b"), Quiet(), "127.0.0.1:9", 1)


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, **({"GPU": gpus} if gpus else {})}}


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "share"),
    [
        ([node(8), node(4), node(64, alive=False)], None, None, Share(2, 4, 0)),
        ([node(8), node(4)], None, 3, Share(3, 4, 0)),
        ([node(8), node(4)], None, 5, Share(5, 2, 0)),
        ([node(64, 8), node(16, 1), node(8)], None, None, Share(9, 8, 1)),
        ([node(64, 8)], None, 3, Share(3, 8, 1)),
        ([node(64, 8)], "cpu", None, Share(1, 64, 0)),
    ],
)
def test_what_each_worker_has_of_its_node(nodes: Any, device: str | None, workers: int | None, share: Share) -> None:
    assert _share(nodes, device, workers) == share


@pytest.mark.soak
@pytest.mark.parametrize("turn", range(10))
def test_killed_workers_and_nodes_change_nothing(
    turn: int, cluster: Any, hasty: None, tmp_path: Path, whole: dict[str, Any]
) -> None:
    """SIGKILL of a worker, or of a node with all that is on it, at a random moment; a node that died comes back."""
    chance, parts = random.Random(turn), tmp_path / "a" / "parts"
    with ThreadPoolExecutor(1) as driver:  # nodes are started by the main thread alone
        ended = driver.submit(index_by_ray, request(tmp_path / "a", workers=0), Quiet(), cluster.address, 3)
        wanted = chance.randrange(1, 4)
        while not ended.done() and len(list(parts.glob("0*.json"))) < wanted:
            time.sleep(0.01)
        time.sleep(chance.random() / 4)
        if turn % 2:
            cluster.remove_node(chance.choice(list(cluster.worker_nodes)), allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
        else:
            lines = {p.pid: " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])}
            os.kill(chance.choice([pid for pid, line in lines.items() if "ray::Hasty" in line]), signal.SIGKILL)
        assert ended.result(timeout=120)
    assert content(tmp_path / "a") == whole
    assert verify(tmp_path / "a") == []
