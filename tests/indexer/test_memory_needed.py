"""The memory that is announced, against what the system counts, and what each setting adds to it."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from vitdex.indexer.memory_needed import batch_bytes, device_bytes, lacking, lacking_on_device, needed_bytes
from vitdex.indexer.plan import Plan, make_plan, sample_request
from vitdex.schemas.array_specs import part_bytes

RUN = """
import sys
from pathlib import Path
from types import SimpleNamespace
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request

class Listener(Quiet):
    def planned(self, plan, done):
        print(plan.memory_bytes, flush=True)

build(sample_request(Path(sys.argv[1]), workers=1), Listener())
"""


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(sample_request(Path("unused.vitdex"), workers=2))


def held(root: int) -> int:
    """Bytes of a process and its children, each page once; 0 where one of them has ended."""
    try:
        tree = [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
        lines = [line for pid in tree for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    except (OSError, psutil.Error):
        return 0
    own = sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return 1024 * own + psutil.Process(root).memory_info().shared - shared_memory(root)


def shared_memory(root: int) -> int:
    """Of what psutil counts as shared, that which no file holds."""
    lines = Path(f"/proc/{root}/status").read_text().splitlines()
    sizes = (1024 * int(line.split()[1]) for line in lines if line.startswith("RssShmem"))
    return next(sizes, 0)  # a process that has just ended has none


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells pages that processes share")
def test_announced_is_the_peak_of_the_sample(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    peak = 0
    while run.poll() is None:
        peak = max(peak, held(run.pid))
        time.sleep(0.1)
    assert run.stdout is not None
    announced = int(run.stdout.read())
    assert run.returncode == 0
    assert announced == pytest.approx(peak, rel=0.15)


def test_what_settings_add(plan: Plan) -> None:
    spec, own = plan.spec, 10**9
    least = needed_bytes(spec, 12, 0, own)
    assert least > own + part_bytes(spec)
    assert 150e6 < needed_bytes(spec, 12, 2, own) - least < 250e6  # two decoders
    codes = spec.batch_size * spec.neurons * spec.patches
    half = replace(spec, maps="float16")
    assert needed_bytes(half, 12, 0, own) - least == codes + part_bytes(half) - part_bytes(spec)
    on_gpu = [needed_bytes(replace(of, device="cuda"), 12, 0, own) for of in (half, spec)]  # two parts in memory
    assert on_gpu[0] - on_gpu[1] == codes + 2 * (part_bytes(half) - part_bytes(spec))
    many = needed_bytes(replace(spec, classes=100_000), 100_000, 0, own)  # now the tables are the larger stage
    assert many - needed_bytes(replace(spec, classes=99_000), 99_000, 0, own) == 8 * 1000 * spec.neurons * 4


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lacking(10**9) == ""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * 10**9))
    assert lacking(2 * 10**9) == ""  # what this process holds needs no more
    assert lacking(50 * 10**9).startswith("about 50 GB of memory are needed and ")


def test_too_little_memory_of_a_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lacking_on_device(0, "cpu") == ""
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (6 * 10**9, 80 * 10**9))
    assert lacking_on_device(6 * 10**9, "cuda:1") == ""
    line = lacking_on_device(7 * 10**9, "cuda:1")
    assert line.startswith("about 7 GB of cuda:1's memory are needed and 6 GB are free: ")
    assert "--batch-size" in line


def test_a_gpus_memory_is_told_where_there_is_one(plan: Plan) -> None:
    assert plan.announced().device_bytes == 0
    weights = 10**9
    of_gpu = replace(plan.spec, device="cuda", maps="none")
    float32, bfloat16 = (device_bytes(replace(of_gpu, precision=p), weights) for p in ("float32", "bfloat16"))
    rounded = batch_bytes(of_gpu) - batch_bytes(replace(of_gpu, precision="bfloat16"))
    assert bfloat16 - float32 == weights // 2 - 2 * rounded
    assert device_bytes(replace(of_gpu, maps="exemplars"), weights) > device_bytes(
        replace(of_gpu, maps="uint8"), weights
    )


def test_the_reference_case_on_paper(plan: Plan) -> None:
    """50,000 images, 1,000 classes and 36,864 neurons fit a machine with 8 GB."""
    layers = tuple(replace(plan.spec.layers[0], name=f"blocks.{b}.mlp.fc1", block=b, units=3072) for b in range(12))
    spec = replace(plan.spec, layers=layers, images=50_000, classes=1000, grid=(14, 14), features=768, part_images=128)
    assert 3e9 < needed_bytes(spec, 1000, 8, 10**9) < 8e9
