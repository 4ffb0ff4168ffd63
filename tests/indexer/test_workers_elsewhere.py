"""An index in a bucket: made, killed and taken up, read, by several workers; the same bytes as in a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_connection import FATES, BadConnection, badly_connected
from test_resume import StopAfter, content, request
from test_workers import WORKER, Told, short_leases  # noqa: F401 - a fixture
from vitdex.indexer import build_index
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.indexer.workers.join import join
from vitdex.query.index import Index
from vitdex.schemas.errors import BadIndex
from vitdex.schemas.facts import content_facts
from vitdex.schemas.manifest import seal_manifest
from vitdex.schemas.storage import patience
from vitdex.schemas.storage.elsewhere import Elsewhere

pytest.importorskip("obstore")
pytestmark = pytest.mark.usefixtures("state_with_every_part", "short_leases")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return content(build(request(tmp_path_factory.mktemp("whole") / "a"), Quiet()))


def at(address: str) -> Any:
    return sample_request(address, limit=96, part_images=16, batch_size=16, device="cpu", workers=0)  # type: ignore[arg-type]


def content_at(address: str) -> dict[str, Any]:
    """As test_resume.content; every file is compared with the manifest, and none is there beside them."""
    there = Elsewhere(address)
    manifest = json.loads(there.content("manifest.json", 10**9) or b"")
    del manifest["sha256"]
    files = manifest["files"]
    assert (there.content("manifest.json", 10**9)) == seal_manifest(
        {k: v for k, v in manifest.items() if k not in ("format", "format_version")}
    )
    assert set(there.sizes("", deep=True)) == {*files, "manifest.json"}
    for path, facts in files.items():
        assert list(content_facts(there.content(path, 10**9) or b"")) == facts, path
    with Index(address) as index:
        tables = index.sql("SELECT table_name FROM duckdb_tables() WHERE database_name = 'vitdex_index'").table_name
        rows = {name: index.sql(f"FROM {name}").to_csv() for name in tables}
    return {"arrays": {p: f for p, f in files.items() if p.startswith("activations.zarr/")}, "tables": rows}


def test_one_worker_and_a_bucket(bucket: str, whole: dict[str, Any]) -> None:
    address = f"{bucket}/some/a.vitdex"
    told = Told()
    assert join(at(address), told)
    assert told.images == 96
    assert content_at(address) == whole
    late = Told()
    assert join(at(address), late)
    assert late.lines == [f"{address} is finished already"]


def test_several_workers_and_a_bucket(bucket: str, whole: dict[str, Any], tmp_path: Path) -> None:
    address = f"{bucket}/a.vitdex"
    script = WORKER.replace("Path(out)", "out")
    runs = [
        subprocess.Popen([sys.executable, "-c", script, address, "0"], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert all(run.communicate(timeout=180)[0].endswith("True\n") for run in runs)
    assert content_at(address) == whole


def test_killed_and_taken_up_in_a_bucket(bucket: str, whole: dict[str, Any]) -> None:
    address = f"{bucket}/a.vitdex"
    run = subprocess.Popen([sys.executable, "-c", WORKER.replace("Path(out)", "out"), address, "0"])
    there = Elsewhere(address)
    while "00001.json" not in there.sizes("parts", deep=False):
        time.sleep(0.05)
        assert run.poll() is None
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    with pytest.raises(BadIndex, match="no index at"):
        Index(address)
    told = Told()
    assert join(at(address), told)
    assert told.images < 96
    assert content_at(address) == whole


def test_what_stands_in_the_way_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    Elsewhere(bucket).put("other/notes.txt", b"mine")
    with pytest.raises(BadIndex, match=r"other holds other files"):
        join(at(f"{bucket}/other"), Quiet())
    with pytest.raises(KeyboardInterrupt):
        join(at(f"{bucket}/a"), StopAfter(40))
    with pytest.raises(BadIndex, match=r"a holds an unfinished index of another run \(images: 80 now, 96 there"):
        build_index(f"{bucket}/a", sample=True, limit=80, batch_size=16, device="cpu", workers=0)
    assert build_index(f"{bucket}/a", sample=True, limit=80, device="cpu", workers=0, overwrite=True) == f"{bucket}/a"
    with Index(f"{bucket}/a") as index:
        assert index.spec.images == 80
    with pytest.raises(BadIndex, match=r"finished index of another run"):
        build_index(f"{bucket}/a", sample=True, limit=40, device="cpu", workers=0)


@pytest.fixture
def bad(s3: dict[str, str], bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadConnection]:
    """What the bucket is reached over."""
    with badly_connected(s3["AWS_ENDPOINT_URL"]) as bad:
        monkeypatch.setenv("AWS_ENDPOINT_URL", bad.address)
        yield bad


def test_a_bad_connection_changes_no_byte(
    bad: BadConnection, s3: dict[str, str], bucket: str, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections lost with half a request or half an answer, errors, delays: two workers that keep their leases."""
    bad.share, bad.delay = 0.03, 0.05
    command = [sys.executable, "-c", WORKER.replace("Path(out)", "out"), f"{bucket}/a", "0"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert all(run.communicate(timeout=180)[0].endswith("True\n") for run in runs)
    assert all(bad.met[method, fate] for method in ("PUT", "GET") for fate in FATES)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3["AWS_ENDPOINT_URL"])
    assert content_at(f"{bucket}/a") == whole


def test_a_store_that_stays_away_is_a_line_and_the_run_goes_on_later(
    bad: BadConnection, bucket: str, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Told):
        def advance(self, images: int, written: int) -> None:
            super().advance(images, written)
            bad.away = self.images >= 48

    monkeypatch.setattr(patience, "SECONDS", 1.0)
    with pytest.raises(BadIndex, match=r"^s3://[^ ]+ cannot be reached\. Look at the address and the connection, and"):
        join(at(f"{bucket}/a"), Cut())
    bad.away = False
    told = Told()
    assert join(at(f"{bucket}/a"), told)
    assert told.images < 96
    assert content_at(f"{bucket}/a") == whole


def test_a_bucket_that_is_not_there_is_a_line(bucket: str) -> None:
    with pytest.raises(BadIndex, match=r"s3://none-such/a cannot be reached"):
        join(at("s3://none-such/a"), Quiet())
