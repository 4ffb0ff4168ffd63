"""Killed at any moment, out of disk, or two at once: nothing is lost, and a repeated run ends like one that was not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import vitdex
from filelock import FileLock
from test_resume import content, request
from vitdex.indexer.build import Quiet, build
from vitdex.query.index import Index
from vitdex.schemas.errors import BadIndex
from vitdex.schemas.integrity import verify
from vitdex.schemas.layout import Layout

TEN_PARTS: dict[str, Any] = {"limit": 80, "part_images": 8, "batch_size": 8}
pytestmark = pytest.mark.usefixtures("state_with_every_part")
RUN = (
    "import sys; from pathlib import Path; from vitdex.indexer.build import Quiet, build;"
    "from vitdex.indexer.run import part_runner; part_runner.STATE_SECONDS = 0;"
    "from vitdex.indexer.plan import sample_request;"
    f"build(sample_request(Path(sys.argv[1]), device='cpu', **{TEN_PARTS!r}), Quiet())"
)


def start(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", RUN, str(out)], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return content(build(request(tmp_path_factory.mktemp("whole") / "a", **TEN_PARTS), Quiet()))


def wait_for(run: subprocess.Popen[bytes], out: Path, moment: float) -> None:
    """Until a share of the run is done: below 1 in parts, above 1 in the files that finishing makes."""
    parts = Layout(out).parts
    while run.poll() is None:
        done = len(list(parts.glob("0*.json"))) / 10 if parts.exists() else 0
        if done == 1:
            made = [out / "activations.zarr/head", out / "activations.zarr/zarr.json", out / ".index.duckdb.partial"]
            later = [parts / "statistics.safetensors", out / "manifest.json"]
            done += sum(path.exists() for path in (*made, *later)) / 5
        if done >= moment:
            return
        time.sleep(0.002)


def kill(out: Path, moment: float, delay: float) -> bool:
    """kill -9 a little after a moment of the run; whether it was still running."""
    run = start(out)
    wait_for(run, out, moment)
    time.sleep(delay)
    alive = run.poll() is None
    if alive:
        os.kill(run.pid, signal.SIGKILL)
    run.wait()
    return alive


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_at_random_moments_is_the_same(kills: int, tmp_path: Path, whole: dict[str, Any]) -> None:
    chance = random.Random(kills)
    hits = 0
    for i in range(kills):
        out = tmp_path / str(i)
        moment = chance.uniform(0, 1) if i % 2 else chance.choice([1, 1.2, 1.4, 1.6, 1.8, 2])
        hits += kill(out, moment, chance.uniform(0, 0.2))
        if not (out / "manifest.json").exists():
            build(request(out, **TEN_PARTS), Quiet())
        assert content(out) == whole, (i, moment)
        assert [f for f in verify(out) if not f.path.endswith((".counts", ".partial"))] == []
        shutil.rmtree(out)
    assert hits >= kills // 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own. Skips where mounting is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("megabytes", [20, 55])  # full while parts are written; while tables are
def test_a_full_disk_is_told_and_the_run_goes_on(
    megabytes: int, small_disk: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_disk / "a"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (100 - megabytes) * 1_000_000)
    monkeypatch.setattr("vitdex.indexer.build.check_space", lambda *_: None)
    with pytest.raises((BadIndex, OSError), match=r"No space left|cannot be written") as caught:
        build(request(out, **TEN_PARTS), Quiet())
    assert (caught.type is BadIndex) == (megabytes == 55), "DuckDB's own failure, or a file's"
    ballast.unlink()
    assert content(build(request(out, **TEN_PARTS), Quiet())) == whole
    assert verify(out) == []


def test_two_runs_on_one_index(tmp_path: Path, sample_path: Path) -> None:
    out = tmp_path / "a"
    Layout(out).parts.mkdir(parents=True)
    with FileLock(Layout(out).lock):
        result = vitdex("index", out, "--sample", "--device", "cpu")
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert "another run is filling" in result.stderr
    with FileLock(sample_path / "parts/lock"), Index(sample_path) as index:  # a reader never waits
        assert index.sql("SELECT count(*) AS n FROM images").n[0] == 480
    (sample_path / "parts/lock").unlink(missing_ok=True)
