"""A damaged index in a bucket is repaired where it lies: what was there comes back, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import vitdex
from test_repair import FORMS, Counted
from test_resume import StopAfter, content, request
from test_workers import short_leases  # noqa: F401 - a fixture
from test_workers_elsewhere import content_at
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.ledger import Ledger
from vitdex.indexer.plan import Request, sample_request
from vitdex.indexer.repair import repair
from vitdex.schemas.errors import BadIndex
from vitdex.schemas.layout import Layout
from vitdex.schemas.manifest import seal_manifest
from vitdex.schemas.storage.elsewhere import Elsewhere
from vitdex.schemas.storage.remote_folder import RemoteFolder
from vitdex.schemas.workers.leases import beating

pytest.importorskip("obstore")
pytestmark = pytest.mark.usefixtures("state_with_every_part", "short_leases")

MAP = "activations.zarr/blocks.4.mlp.fc1/map/c/2/0/0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request(tmp_path_factory.mktemp("made") / "a", **FORMS["uint8"]), Quiet())


@pytest.fixture
def there(made: Path, bucket: str) -> Elsewhere:
    """A whole index in a bucket."""
    there = Elsewhere(f"{bucket}/some/a.vitdex")
    for file in made.rglob("*"):
        if file.is_file():
            there.put(file.relative_to(made).as_posix(), file)
    return there


def at(there: Elsewhere, **choices: Any) -> Request:
    return sample_request(there.address, **{**FORMS["uint8"], "device": "cpu", "workers": 0, **choices})  # type: ignore[arg-type]


def read(there: Elsewhere, path: str) -> bytes:
    return there.content(path, 10**9) or b""


def flip(there: Elsewhere, path: str) -> None:
    before = read(there, path)
    there.put(path, before[: len(before) // 2] + bytes([before[len(before) // 2] ^ 1]) + before[len(before) // 2 + 1 :])


@pytest.mark.parametrize(
    ("damaged", "missing", "images"),
    [
        ([MAP, "activations.zarr/zarr.json"], ["parts/run.json"], 10),
        (["index.duckdb", MAP], ["activations.zarr/blocks.2.mlp.fc1/max_by_neuron/c/0/0"], 10),
        (["manifest.json", "parts/statistics.safetensors"], ["parts/00001.json", "activations.zarr/head/c/0/0"], 10),
    ],
)
def test_what_was_there_comes_back(
    damaged: list[str], missing: list[str], images: int, there: Elsewhere, made: Path
) -> None:
    for path in damaged:
        flip(there, path)
    for path in missing:
        there.remove(path)
    counted = Counted()
    lost = {*damaged, *missing}
    assert set(repair(at(there), counted)) == lost - {"manifest.json"}
    assert counted.images == images
    assert content_at(there.address) == content(made)
    if not lost & {"manifest.json", "index.duckdb"}:  # rows are the same, bytes and hours are not
        assert read(there, "manifest.json") == (made / "manifest.json").read_bytes()


def test_a_stopped_repair_goes_on(there: Elsewhere, made: Path) -> None:
    flip(there, "index.duckdb")
    there.remove("parts/statistics.safetensors")
    with pytest.raises(KeyboardInterrupt):
        repair(at(there), StopAfter(40))
    counted = Counted()
    repair(at(there), counted)
    assert counted.images == 30
    assert content_at(there.address) == content(made)


def test_verify_says_it_and_the_command_does_it(there: Elsewhere) -> None:
    flip(there, MAP)
    said = vitdex("verify", there.address)
    assert said.returncode == 1
    assert "map/c/2/0/0 (part 2): its checksum differs" in said.stdout
    assert "with --repair. It redoes part 2." in said.stdout
    choices = ["--sample", "--limit", "60", "--batch-size", "10", "--device", "cpu", "--workers", "0"]
    refused = vitdex("index", there.address, *choices, "--repair")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert f"{there.address} was made by another run (part_images: 60 now, 10 there)" in refused.stderr
    repair(at(there), Quiet())
    assert vitdex("verify", there.address).returncode == 0


def test_what_cannot_be_repaired_is_a_line(there: Elsewhere, made: Path) -> None:
    with pytest.raises(BadIndex, match=r"made by another run \(images: 50 now, 60 there"):
        repair(at(there, limit=50), Quiet())
    with pytest.raises(BadIndex, match=r"s3://[\w-]+/some is not a vitdex index"):
        repair(sample_request(there.address.rpartition("/")[0]), Quiet())  # type: ignore[arg-type]
    with pytest.raises(BadIndex, match=r"cannot be written to"):
        repair(sample_request("https://host/a"), Quiet())  # type: ignore[arg-type]
    files = RemoteFolder(there.address)
    with beating(Ledger(Layout(made), files, "living")), pytest.raises(BadIndex, match=r"a worker is filling s3://"):
        repair(at(there), Quiet())
    manifest = json.loads(read(there, "manifest.json"))
    del manifest["sha256"]
    manifest["files"][MAP] = [manifest["files"][MAP][0], "0" * 32]
    there.put("manifest.json", seal_manifest(manifest))
    with pytest.raises(BadIndex, match="part 2 comes out otherwise than it was"):
        repair(at(there), Quiet())
    assert read(there, MAP) == (made / MAP).read_bytes()
    assert not there.sizes("parts/working", deep=True)
