"""Every flipped bit is found by name, and a repair makes what was there, redoing nothing else."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import vitdex
from test_resume import StopAfter, content, request
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.repair import repair
from vitdex.schemas.array_specs import part_files
from vitdex.schemas.errors import BadIndex
from vitdex.schemas.integrity import verify
from vitdex.schemas.layout import Layout
from vitdex.schemas.manifest import seal_manifest
from vitdex.schemas.run_spec import RunSpec

FORMS: dict[str, dict[str, Any]] = {
    "uint8": {"limit": 60, "part_images": 10, "batch_size": 10},
    "exemplars": {"limit": 120, "part_images": 40, "batch_size": 20, "maps": "exemplars"},
}

pytestmark = pytest.mark.usefixtures("state_with_every_part")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    return {form: build(request(folder / form, **choices), Quiet()) for form, choices in FORMS.items()}


@pytest.fixture
def copy(made: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["uint8"], tmp_path / "a"))


def flip(file: Path, bit: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(bit // 8)
        byte = opened.read(1)[0]
        opened.seek(bit // 8)
        opened.write(bytes([byte ^ 1 << bit % 8]))


def flip_somewhere(file: Path) -> None:
    flip(file, file.stat().st_size * 4)


def part_file(out: Path, part: int, name: str) -> Path:
    spec = RunSpec.from_json(json.loads((out / "manifest.json").read_text())["run"])
    return out / next(p for p in part_files(spec, part) if name in p)


class Counted(Quiet):
    """How many images ran."""

    images = 0

    def advance(self, images: int, written: int) -> None:
        self.images += images


@pytest.mark.parametrize("flips", [20, pytest.param(500, marks=pytest.mark.soak)])
def test_every_flipped_bit_is_found_by_name(flips: int, copy: Path) -> None:
    files = sorted(p for p in copy.rglob("*") if p.is_file())
    told = [copy / "manifest.json", copy / "index.duckdb", copy / "parts/run.json", copy / "parts/00002.json"]
    chance = random.Random(7)
    for i in range(flips):
        file = told[i % 4] if i % 5 == 0 else chance.choice(files)
        bit = chance.randrange(8 * file.stat().st_size)
        flip(file, bit)
        assert [f.path for f in verify(copy)] == [file.relative_to(copy).as_posix()], (file, bit)
        flip(file, bit)
    assert verify(copy) == []


def test_missing_foreign_and_linked_files(copy: Path) -> None:
    (copy / "notes.duckdb").write_text("the user's own")
    (copy / "notes").mkdir()
    (copy / "notes" / "picture.png").write_text("the user's own")
    assert verify(copy) == []
    part_file(copy, 2, "/map/").unlink()
    (copy / "activations.zarr" / "foreign\n.txt").write_text("x")
    linked = part_file(copy, 1, "/max/")
    linked.rename(copy.parent / "elsewhere")
    linked.symlink_to(copy.parent / "elsewhere")
    with part_file(copy, 3, "/min/").open("ab") as file:
        file.write(b"x")
    result = vitdex("verify", copy, "--quick")
    assert result.returncode == 1
    assert "foreign  'activations.zarr/foreign\\n.txt': not of this index" in result.stdout
    assert "/map/c/2/0/0 (part 2): missing" in result.stdout
    assert "/max/c/1/0 (part 1): a link or device where a file was" in result.stdout
    assert "/min/c/3/0 (part 3): 30,725 bytes, not 30,724" in result.stdout
    assert "with --repair. It redoes parts 1, 2, 3." in result.stdout
    assert vitdex("verify", copy.parent).returncode == 2


def test_a_manifest_that_leads_outside_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["sha256"]
    for path in ("../../etc/passwd", "/etc/passwd", "parts/../../x"):
        files = {**manifest["files"], path: [1, "0" * 32]}
        (copy / "manifest.json").write_bytes(seal_manifest({**manifest, "files": files}))
        with pytest.raises(BadIndex, match="is no file of an index"):
            verify(copy)


def test_only_damaged_parts_are_redone(copy: Path, made: dict[str, Path]) -> None:
    for part, name in ((0, "/map/"), (2, "inputs"), (5, "logits")):
        flip_somewhere(part_file(copy, part, name))
    times = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
    counted = Counted()
    redone = repair(request(copy, **FORMS["uint8"]), counted)
    assert counted.images == 30
    assert len(redone) == 3
    touched = {p.relative_to(copy).as_posix() for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert touched == {*redone, "manifest.json"}
    assert (copy / "manifest.json").read_bytes() == (made["uint8"] / "manifest.json").read_bytes()
    assert verify(copy) == []
    assert repair(request(copy, **FORMS["uint8"]), Quiet()) == []


@pytest.mark.parametrize(
    ("form", "damaged", "images"),
    [
        ("uint8", ["index.duckdb"], 0),
        ("uint8", ["parts/statistics.safetensors"], 0),
        ("uint8", ["manifest.json"], 0),
        ("uint8", ["manifest.json", "parts/00001.json", "activations.zarr/zarr.json"], 10),
        ("uint8", ["index.duckdb", "parts/statistics.safetensors", "parts/00001.json"], 70),
        ("uint8", ["activations.zarr/head/c/0/0", "activations.zarr/blocks.2.mlp.fc1/max_by_neuron/c/0/0"], 0),
        ("exemplars", ["activations.zarr/blocks.2.mlp.fc1/exemplar_map/c/0/0/0"], 120),
        ("exemplars", ["index.duckdb", "parts/run.json"], 0),
    ],
)
def test_repaired_is_the_original(
    form: str, damaged: list[str], images: int, tmp_path: Path, made: dict[str, Path]
) -> None:
    copy = Path(shutil.copytree(made[form], tmp_path / "a"))
    for path in damaged:
        flip_somewhere(copy / path)
    counted = Counted()
    repair(request(copy, **FORMS[form]), counted)
    assert counted.images == images
    assert verify(copy) == []
    assert content(copy) == content(made[form])


def test_a_lost_manifest_is_made_again(copy: Path, made: dict[str, Path]) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(BadIndex, match=r"Repeat the command with --repair"):
        build(request(copy, **FORMS["uint8"]), Quiet())
    repair(request(copy, **FORMS["uint8"]), Quiet())
    assert content(copy) == content(made["uint8"])


def test_a_stopped_repair_goes_on(copy: Path, made: dict[str, Path]) -> None:
    for name in ("index.duckdb", "parts/statistics.safetensors"):
        flip_somewhere(copy / name)
    with pytest.raises(KeyboardInterrupt):
        repair(request(copy, **FORMS["uint8"]), StopAfter(40))
    counted = Counted()
    repair(request(copy, **FORMS["uint8"]), counted)
    assert counted.images <= 40
    assert content(copy) == content(made["uint8"])
    assert verify(copy) == []


def test_repair_with_other_settings_is_refused(copy: Path) -> None:
    flip_somewhere(copy / "index.duckdb")
    with pytest.raises(BadIndex, match=r"made by another run \(images: 50 now, 60 there"):
        repair(request(copy, **{**FORMS["uint8"], "limit": 50}), Quiet())
    assert not Layout(copy).lock.exists()


def test_the_readers_of_a_damaged_index_say_so(copy: Path) -> None:
    with (copy / "index.duckdb").open("r+b") as file:
        file.write(b"\0" * 5000)
    for words in (["info"], ["sql", "FROM images"]):
        result = vitdex(words[0], copy, *words[1:])
        assert (result.returncode, result.stderr.count("\n")) == (2, 1)
        assert "--repair" in result.stderr
