"""An exported atlas is the served one as files: told before, resumed when stopped, complete only at its end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import vitdex
from vitdex.query.atlas.export import plan_export, write_export
from vitdex.query.atlas.files import data_file, front_end
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError

LAYER = "blocks.4.mlp.fc1"


@pytest.fixture(scope="module")
def index(sample_path: Path) -> Iterator[Index]:
    with Index(sample_path) as index:
        yield index


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_files_are_those_that_are_served_and_their_size_was_told(index: Index, tmp_path: Path) -> None:
    plan = plan_export(index, tmp_path / "out", [LAYER], top=2)
    assert not (tmp_path / "out").exists()
    write_export(plan)
    written = files_of(tmp_path / "out")
    assert set(written) == {*plan.addresses, *front_end(), "atlas.json"}
    assert sum(map(len, written.values())) == pytest.approx(plan.bytes, rel=0.25)
    for address in plan.addresses[4::37]:
        assert written[address] == data_file(plan.atlas, address).content
    for name, file in front_end().items():
        assert written[name] == file.content
    best = {unit for c in range(12) for by in plan.atlas.rankings for unit in _first(index, c, by)}
    start = json.loads(written["data/start.json"])
    assert start["held"] == {"4": sorted(best)}
    assert "console" not in start
    assert {
        int(name.split("/")[3][:-5]) for name in written if name.startswith("data/neuron/4/") and name.endswith("json")
    } == best


def _first(index: Index, class_id: int, by: Any) -> set[int]:
    """A class's first two neurons of all layers that are in LAYER."""
    rows = index.key_neurons(class_id, 2, by)
    return set(rows.unit[rows.layer == LAYER])


def test_a_stopped_export_goes_on_and_is_the_same(index: Index, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 40:
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        write_export(plan_export(index, out, [LAYER], top=1), progress=stop)
    assert not (out / "index.html").exists()
    first = sorted((out / "data").rglob("*.json"))[0]
    first.write_bytes(b"kept")
    seen: list[tuple[int, int]] = []
    write_export(plan_export(index, out, [LAYER], top=1), progress=lambda done, total: seen.append((done, total)))
    assert first.read_bytes() == b"kept"  # what is there is not made again
    assert seen[-1][0] == seen[-1][1]
    whole = tmp_path / "whole"
    write_export(plan_export(index, whole, [LAYER], top=1))
    first.write_bytes((whole / first.relative_to(out)).read_bytes())
    assert files_of(out) == files_of(whole)


def test_workers_write_the_same_and_one_that_is_killed_loses_nothing(index: Index, tmp_path: Path) -> None:
    write_export(plan_export(index, tmp_path / "alone", [LAYER], top=1))
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        children = [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]
        if not killed and done and children:
            killed.append(children[0].pid)
            children[0].kill()

    with pytest.raises(QueryError, match="was ended. Repeat the command"):
        write_export(plan_export(index, tmp_path / "out", [LAYER], top=1), workers=2, progress=kill)
    assert killed
    assert not (tmp_path / "out" / "index.html").exists()
    write_export(plan_export(index, tmp_path / "out", [LAYER], top=1), workers=2)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "alone")


def test_another_folder_is_left_alone(index: Index, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    with pytest.raises(QueryError, match="not empty and no atlas"):
        plan_export(index, tmp_path / "mine")
    with pytest.raises(QueryError, match="is a file"):
        plan_export(index, tmp_path / "file")
    write_export(plan_export(index, tmp_path / "out", [LAYER], top=1))
    with pytest.raises(QueryError, match="of other neurons"):
        plan_export(index, tmp_path / "out", [LAYER], top=2)
    with pytest.raises(QueryError, match="no layer 'blocks.9'"):
        plan_export(index, tmp_path / "new", ["blocks.9"])


def test_the_command_tells_the_size_first(sample_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = vitdex("atlas", "export", sample_path, out, "--layer", "blocks.5.mlp.fc1", "--top", "1")
    assert ended.returncode == 0, ended.stderr
    told, ready = ended.stdout.splitlines()
    assert "neurons: " in told
    assert " files, about " in told
    assert ready == f"{out / 'index.html'} is ready."
    for wrong in (tmp_path, sample_path / "atlas"):
        ended = vitdex("atlas", "export", sample_path, wrong, "--top", "1")
        assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert not (sample_path / "atlas").exists()
