"""Several workers, one index: the same bytes as one alone, whoever is stopped, killed or late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_resume import StopAfter, content, request
from vitdex.indexer.build import Quiet, build, taken_up
from vitdex.indexer.ledger import Ledger, PartEntry
from vitdex.indexer.plan import Plan, make_plan
from vitdex.indexer.workers.join import _Joint, join
from vitdex.indexer.workers.leases import CountedLeases, Superseded
from vitdex.indexer.workers.site import site_at
from vitdex.query.index import Index
from vitdex.schemas.errors import BadIndex, BadRequest
from vitdex.schemas.integrity import verify
from vitdex.schemas.layout import Layout
from vitdex.schemas.run_spec import RunSpec
from vitdex.schemas.workers import joint, leases
from vitdex.schemas.workers.leases import any_alive, beating, worker_name

pytestmark = pytest.mark.usefixtures("state_with_every_part", "short_leases")

WORKER = """
import sys
from pathlib import Path
from vitdex.indexer.plan import sample_request
from vitdex.indexer.build import Quiet
from vitdex.indexer.run import part_runner
from vitdex.indexer.workers import join
from vitdex.schemas.workers import joint, leases
part_runner.STATE_SECONDS, leases.LEASE_SECONDS, joint.POLL_SECONDS = float(sys.argv[2]), 3.0, 0.1
class Told(Quiet):
    def told(self, line):
        print(line, flush=True)
    def advance(self, images, written):
        print("images", images, flush=True)
out = sys.argv[1]
choices = dict(limit=96, part_images=16, batch_size=16, device="cpu", workers=0)
print(join.join(sample_request(Path(out), **choices), Told()))
"""


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(joint, "POLL_SECONDS", 0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return content(build(request(tmp_path_factory.mktemp("whole") / "a"), Quiet()))


@pytest.fixture
def started() -> Iterator[Any]:
    """Starts workers in processes of their own; none outlives the test."""
    with ExitStack() as stack:

        def start(out: Path, state_seconds: float = 0) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", WORKER, str(out), str(state_seconds)]
            run = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(run.kill)
            return run

        yield start


class Told(Quiet):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.images = 0

    def told(self, line: str) -> None:
        self.lines.append(line)

    def advance(self, images: int, written: int) -> None:
        self.images += images


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_leave_the_bytes_of_one(workers: int, started: Any, tmp_path: Path, whole: dict[str, Any]) -> None:
    out = tmp_path / "a"
    runs = [started(out) for _ in range(workers)]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0] * workers
    assert all(lines.endswith("True\n") for lines in said)
    assert sum("another worker has finished" in lines for lines in said) == workers - 1
    assert sum(lines.count("images 16") for lines in said) >= 6
    assert content(out) == whole
    assert verify(out) == []
    assert not Layout(out).working.exists()
    entries = [json.loads(path.read_text()) for path in sorted((out / "parts").glob("0*.json"))]
    assert len({entry["worker"] for entry in entries}) > 1


@pytest.mark.parametrize("state_seconds", [0, 1000])
def test_a_killed_workers_parts_are_made_by_others(
    state_seconds: float, started: Any, tmp_path: Path, whole: dict[str, Any]
) -> None:
    """With a tally of each part, and with none: then it takes its parts with it, whose entries stand."""
    out = tmp_path / "a"
    victim = started(out, state_seconds)
    while not (out / "parts/00002.json").exists():
        time.sleep(0.01)
        assert victim.poll() is None
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    told = Told()
    assert join(request(out, workers=0), told)
    assert content(out) == whole
    assert verify(out) == []


def test_a_stopped_worker_that_wakes_later_harms_nothing(started: Any, tmp_path: Path, whole: dict[str, Any]) -> None:
    out = tmp_path / "a"
    straggler = started(out, 1000)
    while not (out / "parts/00001.json").exists():
        time.sleep(0.01)
        assert straggler.poll() is None
    straggler.send_signal(signal.SIGSTOP)
    assert join(request(out, workers=0), Quiet())
    before = (out / "manifest.json").read_bytes()
    straggler.send_signal(signal.SIGCONT)
    said, _ = straggler.communicate(timeout=60)
    assert straggler.returncode == 0
    assert "another worker has finished" in said
    assert (out / "manifest.json").read_bytes() == before
    assert content(out) == whole
    assert verify(out) == []


def test_a_run_of_one_is_joined(tmp_path: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(request(tmp_path / "a"), StopAfter(40))
    told = Told()
    assert join(request(tmp_path / "a"), told)
    assert told.images == 96 - 32
    assert content(tmp_path / "a") == whole


def test_counts_that_go_with_the_end_are_no_damage(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that looks for a free part reads what it has counted, as another finishes and removes it."""
    place = "vitdex.indexer.workers.join.taken_up"

    def late(plan: Plan, ledger: Ledger) -> Any:
        monkeypatch.setattr(place, taken_up)
        if finished:
            assert join(request(tmp_path / "a"), Quiet())
        raise BadIndex("counts are missing")

    for finished in (False, True):
        monkeypatch.setattr(place, late)
        if finished:
            assert join(request(tmp_path / "a"), Quiet())
            assert content(tmp_path / "a") == whole
        else:
            with pytest.raises(BadIndex, match="counts are missing"):
                join(request(tmp_path / "a"), Quiet())


def test_exemplar_maps_of_several_workers(tmp_path: Path) -> None:
    choices = {"maps": "exemplars", "limit": 120, "part_images": 20}
    plain = content(build(request(tmp_path / "plain", **choices), Quiet()))
    for images in (50, 30):
        with pytest.raises(KeyboardInterrupt):
            join(request(tmp_path / "cut", **choices), StopAfter(images))
    assert join(request(tmp_path / "cut", **choices), Quiet())
    assert content(tmp_path / "cut") == plain


def test_the_end_can_be_left_to_others(tmp_path: Path, whole: dict[str, Any]) -> None:
    told = Told()
    assert not join(request(tmp_path / "a"), told, finish_it=False)
    assert told.lines == ["no part is free; 0 of 6 are not done"]
    with pytest.raises(BadIndex, match="is unfinished"):
        Index(tmp_path / "a")
    late = Told()
    assert join(request(tmp_path / "a"), late)
    assert late.images == 0
    assert content(tmp_path / "a") == whole
    assert join(request(tmp_path / "a"), late)
    assert late.lines[-1] == f"{tmp_path / 'a'} is finished already"
    with pytest.raises(BadIndex, match=r"finished index of another run \(images: 80 now, 96 there"):
        join(request(tmp_path / "a", limit=80), Quiet())


def test_who_fills_alone_keeps_out_of_it(tmp_path: Path) -> None:
    out = tmp_path / "a"
    with pytest.raises(BadRequest, match="--overwrite would take their work"):
        join(request(out, overwrite=True), Quiet())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BadIndex, match="holds other files"):
        join(request(tmp_path / "mine"), Quiet())
    with pytest.raises(KeyboardInterrupt):
        join(request(out), StopAfter(40))
    with pytest.raises(BadIndex, match=r"several workers fill .*\. Join them by --join"):
        build(request(out), Quiet())
    with pytest.raises(BadIndex, match="another run"):
        join(request(out, limit=80), Quiet())
    with beating(Ledger(Layout(out), worker="living")), pytest.raises(BadIndex, match="a worker is filling"):
        build(request(out, overwrite=True), Quiet())
    build(request(out, overwrite=True), Quiet())
    assert verify(out) == []


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return make_plan(request(Path("unused"))).spec


def worker(out: Path, spec: RunSpec, name: str) -> tuple[Ledger, CountedLeases]:
    ledger = Ledger(Layout(out), worker=name)
    ledger.begin(spec)
    return ledger, CountedLeases(ledger, spec, lambda images: None)


def entry(part: int) -> PartEntry:
    return PartEntry(part, {}, [], 0.0)


def test_a_part_has_one_living_worker(tmp_path: Path, spec: RunSpec) -> None:
    (a, of_a), (b, of_b) = (worker(tmp_path, spec, name) for name in "ab")
    with beating(b):
        with beating(a):
            assert any_alive(a)
            first = of_a.parts()
            assert [next(first).index for _ in range(4)] == [0, 1, 2, 3]
            assert [part.index for part in of_b.parts()] == [4, 5]  # and none of the living one's
            of_a.enter(entry(0))
            of_a.check_own({0})
            assert list(of_a.parts()) == []  # nor is it its own again before it is tallied
            a.save_counts({0}, b"")
            of_a.settled({0})
        # a has gone, and tallied one part of four
        assert [part.index for part in of_b.parts()] == [1, 2, 3]
        of_b.enter(entry(1))
        with pytest.raises(Superseded):  # it was b's by then
            of_a.enter(entry(1))
        of_b.check_own({1})
        of_b.settled({1})
        of_a.enter(entry(2))  # b has not come to it
        of_b.enter(entry(2))
        with pytest.raises(Superseded):
            of_a.check_own({0, 2})
    assert not any_alive(a)


def test_parts_that_are_made_quickly_are_leased_together(tmp_path: Path, spec: RunSpec) -> None:
    """Fewer the fewer are left, so that others have work too."""
    many = replace(spec, images=100, part_images=1)
    (a, of_a), (_, of_b) = (worker(tmp_path, many, name) for name in "ab")
    held, asked = [], of_a.parts()
    with beating(a):
        for _ in range(40):
            next(asked)
            held.append(len(list(Layout(tmp_path).working.glob("*.lease"))))
        assert held[:2] == [1, 1 + 99 // 8]
        assert [part.index for part in of_b.parts()] == [*range(held[-1], 100)]


def test_a_worker_is_dead_when_its_beat_stands_still(tmp_path: Path, spec: RunSpec) -> None:
    (a, of_a), (_, of_b) = (worker(tmp_path, spec, name) for name in "ab")
    a.files.write(a.layout.key(a.layout.beat("a")), b"7")
    assert [part.index for part in of_a.parts()] == [*range(6)]
    assert list(of_b.parts()) == []
    time.sleep(1.1)
    assert [part.index for part in of_b.parts()] == [*range(6)]


def test_one_finishes(tmp_path: Path, spec: RunSpec) -> None:
    (a, of_a), (b, of_b) = (worker(tmp_path, spec, name) for name in "ab")
    with beating(b):
        with beating(a):
            assert of_a.take_finish()
            assert of_a.take_finish()
            assert not of_b.take_finish()
        assert of_b.take_finish()


def test_a_tally_whose_part_is_anothers_does_not_count(tmp_path: Path) -> None:
    """A worker that slept past its lease and tallied all the same: its parts are made again, and counted once."""
    plan = make_plan(request(tmp_path / "a"))
    ledgers = {name: worker(tmp_path / "a", plan.spec, name)[0] for name in ("sleeper", "other")}
    for part in range(6):
        ledgers["sleeper" if part < 2 else "other"].finish_part(entry(part))
    ledgers["sleeper"].save_counts({0, 1, 2}, b"")
    ledgers["other"].save_counts({2, 3, 4, 5}, b"")
    with site_at(tmp_path / "a") as site:
        joined = _Joint(plan, site, ledgers["other"], Quiet())
    assert not joined.all_hold()
    assert [(tally.worker, sorted(tally.parts)) for tally in ledgers["other"].tallies()] == [("other", [2, 3, 4, 5])]
    ledgers["other"].save_counts({0, 1, 2, 3, 4, 5}, b"")
    assert not joined.all_hold()  # its entries do not say so
    for part in range(6):
        ledgers["other"].finish_part(entry(part))
    ledgers["other"].save_counts({0, 1, 2, 3, 4, 5}, b"")
    assert joined.all_hold()


def test_names_of_workers_are_names_of_files() -> None:
    assert len({worker_name() for _ in range(50)}) == 50
    assert all(name.replace("-", "").isalnum() and len(name) < 40 for name in (worker_name(),))


def test_ctrl_c_frees_the_parts_at_once(started: Any, tmp_path: Path) -> None:
    out = tmp_path / "a"
    run = started(out, 1000)
    while not (out / "parts/00001.json").exists():
        time.sleep(0.01)
        assert run.poll() is None
    os.kill(run.pid, signal.SIGINT)
    run.wait(timeout=60)
    assert not list(Layout(out).working.glob("*.beat"))
