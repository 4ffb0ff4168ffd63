"""A run that was stopped ends like one that was not; another run over it is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request, sample_request
from vitdex.query.index import Index
from vitdex.schemas.errors import BadIndex

pytestmark = pytest.mark.usefixtures("state_with_every_part")


class StopAfter(Quiet):
    """Ctrl-C once so many images are done."""

    def __init__(self, images: int) -> None:
        self.left = images

    def advance(self, images: int, written: int) -> None:
        self.left -= images
        if self.left <= 0:
            raise KeyboardInterrupt


def request(out: Path, **choices: Any) -> Request:
    return sample_request(out, **{"limit": 96, "part_images": 16, "batch_size": 16, "device": "cpu", **choices})


def content(out: Path) -> dict[str, Any]:
    """Everything but times: files by checksum, tables by rows."""
    manifest = json.loads((out / "manifest.json").read_text())
    arrays = {path: facts for path, facts in manifest["files"].items() if path.startswith("activations.zarr/")}
    with Index(out) as index:
        tables = index.sql("SELECT table_name FROM duckdb_tables() WHERE database_name = 'vitdex_index'").table_name
        rows = {name: index.sql(f"FROM {name}").to_csv() for name in tables}
    return {"arrays": arrays, "tables": rows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return content(build(request(tmp_path_factory.mktemp("whole") / "a"), Quiet()))


@pytest.mark.parametrize("images", [1, 40, 96])
def test_interrupted_and_repeated_is_the_same(images: int, tmp_path: Path, whole: dict[str, Any]) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(request(tmp_path / "a"), StopAfter(images))
    with pytest.raises(BadIndex, match="is unfinished"):
        Index(tmp_path / "a")
    assert content(build(request(tmp_path / "a"), Quiet())) == whole


def test_killed_and_repeated_is_the_same(tmp_path: Path, whole: dict[str, Any]) -> None:
    """kill -9 of the real program once two parts stand in the ledger."""
    script = (
        "import sys; from pathlib import Path; from vitdex.indexer.build import Quiet, build;"
        "from vitdex.indexer.run import part_runner; part_runner.STATE_SECONDS = 0;"
        "from vitdex.indexer.plan import sample_request;"
        "build(sample_request(Path(sys.argv[1]), limit=96, part_images=16, batch_size=16, device='cpu'), Quiet())"
    )
    out = tmp_path / "a"
    run = subprocess.Popen([sys.executable, "-c", script, str(out)])
    while not (out / "parts/00001.json").exists():
        time.sleep(0.01)
        assert run.poll() is None
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert not (out / "manifest.json").exists()
    assert content(build(request(out), Quiet())) == whole


@pytest.mark.parametrize(("seconds", "again"), [(0, 96 - 48), (60, 96)])
def test_a_repeated_run_goes_on_behind_the_newest_state(
    seconds: int, again: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitdex.indexer.run.part_runner.STATE_SECONDS", seconds)
    with pytest.raises(KeyboardInterrupt):
        build(request(tmp_path / "a"), StopAfter(64))  # in the fourth part of six
    counting = StopAfter(1000)
    build(request(tmp_path / "a"), counting)
    assert 1000 - counting.left == again


def test_exemplar_maps_survive_an_interruption(tmp_path: Path) -> None:
    choices = {"maps": "exemplars", "limit": 120, "part_images": 40}
    plain = content(build(request(tmp_path / "plain", **choices), Quiet()))
    with pytest.raises(KeyboardInterrupt):
        build(request(tmp_path / "cut", **choices), StopAfter(100))
    assert content(build(request(tmp_path / "cut", **choices), Quiet())) == plain


def test_another_run_over_an_unfinished_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(request(tmp_path / "a"), StopAfter(20))
    with pytest.raises(BadIndex, match=r"another run \(precision: bfloat16 now, float32 there\)"):
        build(request(tmp_path / "a", precision="bfloat16"), Quiet())
    with pytest.raises(BadIndex, match="images: 80 now, 96 there"):
        build(request(tmp_path / "a", limit=80), Quiet())


def test_what_stands_in_the_way_is_not_touched(tmp_path: Path, sample_path: Path) -> None:
    with pytest.raises(BadIndex, match="is a finished index"):
        build(sample_request(sample_path), Quiet())
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadIndex, match="holds other files"):
        build(sample_request(tmp_path), Quiet())
    with pytest.raises(BadIndex, match="is a file"):
        build(sample_request(tmp_path / "notes.txt"), Quiet())
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_too_small_a_disk_is_refused_with_the_smaller_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=45_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(BadIndex, match=r"the index needs .* and 45 MB are free\. Choose --maps none"):
        build(request(tmp_path / "a"), Quiet())


def test_unreadable_images_are_recorded_and_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conftest import SAMPLE

    images = tmp_path / "images"
    shutil.copytree(SAMPLE / "images" / "bird", images / "bird")
    names = sorted(p.name for p in (images / "bird").iterdir())
    (images / "bird" / names[3]).write_bytes(b"")
    whole_file = (images / "bird" / names[5]).read_bytes()
    (images / "bird" / names[5]).write_bytes(whole_file[: len(whole_file) // 2])
    (images / "notes.txt").write_text("not an image")
    told: list[str] = []
    listener = Quiet()
    monkeypatch.setattr(listener, "finished", lambda notes, accuracy: told.extend(notes))
    out = build(Request(tmp_path / "a", f"local-dir:{SAMPLE / 'model'}", str(images), device="cpu"), listener)
    assert [
        note for note in told if note.startswith(f"3 of 41 images could not be read, the first 'bird/{names[3]}': ")
    ]
    with Index(out) as index:
        failures = index.sql("FROM failures ORDER BY path")
        assert failures.path.tolist() == [f"bird/{names[3]}", f"bird/{names[5]}", "notes.txt"]
        assert "empty" in failures.reason[0]
        assert "not an image" in failures.reason[2]
        assert index.arrays["valid"][:].tolist() == [i not in (3, 5, 40) for i in range(41)]
        assert index.sql("SELECT count(*) n FROM exemplars WHERE image_id IN (3, 5, 40)").n[0] == 0
        assert index.sql("SELECT max(rank) n FROM exemplars WHERE side = 'top' AND token = 'patch'").n[0] == 38
        assert index.manifest["images"] == {"found": 41, "indexed": 38, "failed": 3, "skipped": [], "beyond_limit": 0}
