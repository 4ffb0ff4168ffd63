"""Several workers, one run of effects, in a folder or a bucket: the same bytes as one, whoever is killed or late."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_effects
from conftest import vitdex
from small_effects import IMAGES, INSIDE, LAYER, TABLES, add_effects, content, linked, small_index
from vitdex.query.causal.effects_run import measure_effects
from vitdex.query.dissect.masks import open_masks
from vitdex.query.export.publish import publish
from vitdex.query.index import Index
from vitdex.schemas.effects import EFFECTS
from vitdex.schemas.errors import BadIndex, BadRequest, QueryError
from vitdex.schemas.extension import ExtensionLayout
from vitdex.schemas.integrity import verify
from vitdex.schemas.storage.elsewhere import Elsewhere
from vitdex.schemas.workers import joint, leases
from vitdex.schemas.workers.filling import Filling
from vitdex.schemas.workers.leases import beating

WORKER = """
import sys, time
from vitdex.query.causal import effects_fill, effects_plan
from vitdex.query.causal.effects_plan import plan_effects
from vitdex.query.causal.effects_run import run_effects
from vitdex.query.dissect.masks import open_masks
from vitdex.query.index import Index
from vitdex.schemas.workers import joint, leases
effects_plan.PART_IMAGES, leases.LEASE_SECONDS, joint.POLL_SECONDS = 1, 3.0, 0.1
write = effects_fill._write_part
def slowly(plan, site, part, values):
    time.sleep(0.4)
    files = write(plan, site, part, values)
    print("part", flush=True)
    return files
effects_fill._write_part = slowly
with Index(sys.argv[1], extensions=False) as index:
    plan = plan_effects(index, masks=open_masks(index, sys.argv[2] + "/masks"), weights=sys.argv[2], device="cpu")
    run_effects(plan, lambda done, total: None, join=True, told=lambda line: print(line, flush=True))
print("ended")
"""
Start = Callable[[Path | str], "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def small_parts_and_short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_effects, "PART", 1)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(joint, "POLL_SECONDS", 0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effects")
    small_index(folder)
    return folder


@pytest.fixture
def index_path(folder: Path, tmp_path: Path) -> Path:
    return linked(folder / "out.vitdex", tmp_path / "copy.vitdex")


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index with effects that one run has made alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_effects, "PART", 1)
        return add_effects(linked(folder / "out.vitdex", tmp_path_factory.mktemp("alone") / "copy.vitdex"), folder)


@pytest.fixture(scope="module")
def whole(alone: Path) -> dict[str, Any]:
    return content(alone)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts workers in processes of their own; none outlives the test."""
    with ExitStack() as stack:

        def start(index: Path | str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", WORKER, str(index), str(folder)]
            run = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(run.kill)
            return run

        yield start


def wait_for(is_there: Callable[[], bool], run: subprocess.Popen[str]) -> None:
    while not is_there():
        time.sleep(0.02)
        assert run.poll() is None


def test_workers_leave_the_bytes_of_one(index_path: Path, start: Start, whole: dict[str, Any]) -> None:
    runs = [start(index_path) for _ in range(2)]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert all(lines.endswith("ended\n") for lines in said)
    assert sum("another worker has finished" in lines for lines in said) == 1
    assert all(lines.count("part\n") for lines in said)
    assert sum(lines.count("part\n") for lines in said) == IMAGES
    assert content(index_path) == whole
    assert verify(index_path) == []


def test_a_killed_workers_parts_are_made_by_others(
    index_path: Path, folder: Path, start: Start, whole: dict[str, Any]
) -> None:
    victim = start(index_path)
    wait_for((index_path / INSIDE / "parts/working/00003.0.lease").exists, victim)  # with a part half made
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert [finding.detail[:10] for finding in verify(index_path)] == ["unfinished"]
    told: list[int] = []
    add_effects(index_path, folder, join=True, progress=lambda done, total: told.append(done))
    assert told[0] > 3
    assert told[-1] == IMAGES
    assert content(index_path) == whole
    assert verify(index_path) == []


def test_a_stopped_worker_that_wakes_later_harms_nothing(
    index_path: Path, folder: Path, start: Start, whole: dict[str, Any]
) -> None:
    straggler = start(index_path)
    wait_for((index_path / INSIDE / "parts/working/00002.0.lease").exists, straggler)
    straggler.send_signal(signal.SIGSTOP)
    add_effects(index_path, folder, join=True)
    before = (index_path / INSIDE / "manifest.json").read_bytes()
    straggler.send_signal(signal.SIGCONT)
    said, _ = straggler.communicate(timeout=60)
    assert said.endswith("another worker has finished " + str(index_path / INSIDE) + "\nended\n")
    assert (index_path / INSIDE / "manifest.json").read_bytes() == before
    assert content(index_path) == whole
    assert verify(index_path) == []


def test_a_run_of_one_is_joined_and_keeps_out_of_others(index_path: Path, folder: Path, whole: dict[str, Any]) -> None:
    def stop(done: int, total: int) -> None:
        if done > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_effects(index_path, folder, progress=stop)
    with pytest.raises(BadIndex, match=r"of another run \(replace: zero now, mean there\)"):
        add_effects(index_path, folder, join=True, replace="zero")
    with pytest.raises(BadRequest, match=r"--overwrite would take their work\. Leave one out"):
        add_effects(index_path, folder, join=True, overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        add_effects(index_path, folder, join=True, progress=lambda done, total: stop(done - 3, total))
    with pytest.raises(BadIndex, match=r"several workers fill .*\. Join them by --join, or give --overwrite"):
        add_effects(index_path, folder)
    living = Filling(ExtensionLayout.of(index_path, EFFECTS), worker="living")
    with beating(living), pytest.raises(BadIndex, match=r"a worker is filling .*\. Stop all workers first"):
        add_effects(index_path, folder, overwrite=True)

    def lose(done: int, total: int) -> None:
        """Files whose entries say that they are there: of a part of another worker's, and of this one's."""
        if done == IMAGES:
            for part in (0, IMAGES - 2):
                next((index_path / INSIDE).glob(f"arrays.zarr/{LAYER}/effect/c/{part}/*")).unlink()

    add_effects(index_path, folder, join=True, progress=lose)
    assert content(index_path) == whole
    before = (index_path / INSIDE / "manifest.json").stat().st_mtime_ns
    working = living.layout.working  # as where the worker that finished was killed at its last step
    working.mkdir()
    living.files.create(living.layout.key(living.layout.joined), b"")
    add_effects(index_path, folder, join=True)
    assert not working.exists()
    working.symlink_to(folder)
    with pytest.raises(QueryError, match=r"working is a link\. Move it away"):
        add_effects(index_path, folder, join=True)
    working.unlink()
    assert (index_path / INSIDE / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(BadIndex, match="holds finished effects of another run"):
        add_effects(index_path, folder, join=True, stored="float16")


def test_the_command_joins(index_path: Path, folder: Path) -> None:
    for line in (f"{index_path / INSIDE} is ready", f"{index_path / INSIDE} is finished already"):
        ended = vitdex("effects", index_path, "--weights", folder, "--join", "--device", "cpu")
        assert ended.returncode == 0, ended.stderr
        assert line in ended.stdout + ended.stderr


@pytest.fixture
def at_bucket(folder: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the index, without effects."""
    pytest.importorskip("obstore")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Index(folder / "out.vitdex") as index:
        publish(index, f"{bucket}/a.vitdex")
    return f"{bucket}/a.vitdex"


def effects_at(address: str, folder: Path, **choices: Any) -> str:
    with pytest.MonkeyPatch.context() as patch, Index(address, extensions=False) as index:
        patch.setattr("vitdex.query.causal.effects_plan.PART_IMAGES", 1)
        masks = open_masks(index, folder / "masks")
        return str(measure_effects(index, masks=masks, weights=folder, device="cpu", **choices))


def content_at(address: str) -> dict[str, Any]:
    """As content, by what the manifest says; every file is compared with it, in a bucket also what is not listed."""
    with Index(address) as index:
        assert index.verify() == []
        assert index.effects is not None
        files = index.effects.manifest["files"]
        rows = {name: index.sql(f"FROM {name} ORDER BY ALL").to_csv() for name in TABLES}
    return {"arrays": {p: f for p, f in files.items() if p.startswith("arrays.zarr/")}, "tables": rows}


def test_effects_are_made_in_a_bucket(
    at_bucket: str, folder: Path, alone: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    Elsewhere(at_bucket).put(f"{INSIDE}/mine.txt", b"mine")
    with pytest.raises(BadIndex, match=rf"^{at_bucket}/{INSIDE} holds other files\. Move them away\.$"):
        effects_at(at_bucket, folder)
    Elsewhere(at_bucket).remove(f"{INSIDE}/mine.txt")
    assert effects_at(at_bucket, folder) == f"{at_bucket}/{INSIDE}"
    found = content_at(at_bucket)
    assert found["tables"] == whole["tables"]
    assert {path: tuple(facts) for path, facts in found["arrays"].items()} == {
        path: tuple(facts) for path, facts in whole["arrays"].items()
    }
    with Index(at_bucket) as there, Index(alone) as here:
        assert there.effects is not None
        assert here.effects is not None
        for leaf in here.effects.spec.leaves:
            assert np.array_equal(there.effects.of_neuron(LAYER, 5, leaf), here.effects.of_neuron(LAYER, 5, leaf), True)
    with pytest.raises(BadIndex, match="holds finished effects of another run"):
        effects_at(at_bucket, folder, replace="zero")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        effects_at(at_bucket, folder, overwrite=True, progress=stop)
    words = ("effects", at_bucket, "--weights", folder, "--device", "cpu", "--replace", "zero", "--overwrite")
    ended = vitdex(*words)
    assert ended.returncode == 0, ended.stderr
    assert f"vitdex top {at_bucket} --class" in ended.stderr + ended.stdout
    assert content_at(at_bucket)["tables"] != whole["tables"]


def test_several_workers_in_a_bucket_of_which_one_is_killed(
    at_bucket: str, folder: Path, start: Start, whole: dict[str, Any]
) -> None:
    there, victim = Elsewhere(at_bucket), start(at_bucket)
    wait_for(lambda: "00002.0.lease" in there.sizes(f"{INSIDE}/parts/working", deep=False), victim)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    with Index(at_bucket) as index:
        assert index.effects is None
        assert [(one.path, one.fault) for one in index.verify()] == [(f"{INSIDE}/manifest.json", "missing")]
    runs = [start(at_bucket) for _ in range(2)]
    said = [run.communicate(timeout=120)[0] for run in runs]
    assert all(lines.endswith("ended\n") for lines in said)
    assert sum(lines.count("part\n") for lines in said) < IMAGES
    assert content_at(at_bucket)["tables"] == whole["tables"]
