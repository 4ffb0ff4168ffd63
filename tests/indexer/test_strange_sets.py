"""Sets of images, and machines, as people really have them: through a whole run."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import SAMPLE
from PIL import Image
from test_repair import flip_somewhere
from test_resume import StopAfter
from vitdex.data.images.preprocess import Preprocess
from vitdex.indexer import memory, plan
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import Request, make_plan
from vitdex.indexer.repair import repair
from vitdex.query.commands.main import cli
from vitdex.query.index import Index
from vitdex.schemas.errors import UnreadableImage
from vitdex.schemas.integrity import verify
from vitdex.schemas.run_spec import Preprocessing

MODEL = f"local-dir:{SAMPLE / 'model'}"
SMALL: dict[str, Any] = {"device": "cpu", "workers": 0, "maps": "none", "batch_size": 4, "part_images": 4}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images each of two classes."""
    for name in ("bird", "coin"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for path in sorted((SAMPLE / "images" / name).iterdir())[:4]:
            shutil.copy(path, tmp_path / "images" / name)
    return tmp_path / "images"


def preprocessing(mode: str, size: tuple[int, int] = (224, 224)) -> Preprocessing:
    return {
        "input_size": [3, *size],
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "crop_pct": 0.9,
        "crop_mode": mode,
    }


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 170_000), (3, 2**25)])
@pytest.mark.parametrize("shape", [(224, 224), (64, 160)])
def test_a_strip_is_refused_before_it_is_resized(size: tuple[int, int], shape: tuple[int, int]) -> None:
    with pytest.raises(UnreadableImage, match="too thin for the model's input, resized it would have"):
        Preprocess(preprocessing("center", shape))(Image.new("RGB", size))


def test_a_strip_that_would_vanish_is_refused_and_others_are_not() -> None:
    with pytest.raises(UnreadableImage, match="too thin"):
        Preprocess(preprocessing("border"))(Image.new("RGB", (1, 60_000)))
    for mode in ("center", "border", "squash"):
        pixels, _ = Preprocess(preprocessing(mode))(Image.new("RGB", (4, 400)))
        assert pixels.shape == (224, 224, 3)
    assert Preprocess(preprocessing("squash"))(Image.new("RGB", (1, 60_000)))[0].shape == (224, 224, 3)


def test_a_strip_fails_alone(images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1, 60_000), "red").save(images / "bird" / "strip.png")
    with Index(build(Request(tmp_path / "a", MODEL, str(images), **SMALL), Quiet())) as index:
        assert index.sql("SELECT path, reason FROM failures").to_numpy().tolist() == [
            ["bird/strip.png", "1 x 60000 pixels: too thin for the model's input, resized it would have 96 x 5,760,000"]
        ]
        assert index.manifest["images"]["indexed"] == 8


@pytest.mark.parametrize("inside", ["a.vitdex", "bird/deeper/a.vitdex"])
def test_an_index_among_its_images_goes_on_and_is_repaired(inside: str, images: Path) -> None:
    request = Request(images / inside, MODEL, str(images), **SMALL)
    with pytest.raises(KeyboardInterrupt):
        build(request, StopAfter(4))
    build(request, Quiet())
    flip_somewhere(images / inside / "index.duckdb")
    assert repair(request, Quiet()) == ["index.duckdb"]
    assert verify(images / inside) == []
    with Index(images / inside) as index:
        assert index.manifest["images"]["found"] == 8


Disk = namedtuple("Disk", "total used free")


@pytest.mark.parametrize(
    ("free", "asked", "decoders"), [(64e6, 8, 3), (64e6, 2, 2), (10e6, 8, 0), (0, 1, 0), (8e9, 8, 8), (64e6, 0, 0)]
)
def test_shared_memory_bounds_the_processes_that_decode(
    free: float, asked: int, decoders: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(0, 0, int(free)))
    assert memory.fitting_decoders(asked, 32 * 224 * 224 * 3) == decoders
    monkeypatch.setattr(memory, "SHARED", tmp_path / "nowhere")
    assert memory.fitting_decoders(asked, 32 * 224 * 224 * 3) == asked


def test_fewer_processes_than_asked_for_are_said(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**12, 0, 10**12 if path == tmp_path else 10**6))
    made = make_plan(Request(tmp_path / "a", MODEL, str(images), **{**SMALL, "workers": 8}))
    assert made.decoders == 1_000_000 * 8 // 10 // (3 * 4 * 3 * 96 * 96)
    assert made.notes[-1].startswith(f"{made.decoders} processes decode, not 8: shared memory (/dev/shm)")


def test_newer_libraries_may_repair(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(tmp_path / "a", MODEL, str(images), **SMALL)
    build(request, Quiet())
    before = (tmp_path / "a" / "manifest.json").read_bytes()
    for damaged in ("index.duckdb", "activations.zarr/blocks.0.mlp.fc1/max/c/1/0"):
        flip_somewhere(tmp_path / "a" / damaged)
    monkeypatch.setattr(plan, "version", lambda name: "99.0")
    assert repair(request, Quiet()) == ["activations.zarr/blocks.0.mlp.fc1/max/c/1/0", "index.duckdb"]
    assert verify(tmp_path / "a") == []
    assert before.split(b'"versions"')[0] == (tmp_path / "a" / "manifest.json").read_bytes().split(b'"versions"')[0]


def test_labels_of_a_flat_folder_and_what_is_said_of_them(images: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = ["file,class"]
    for path in sorted(images.rglob("*.jpg")):
        name = f"{path.parent.name}_{path.name}"
        shutil.copy(path, flat / name)
        rows.append(f"{name},{'COIN' if path.parent.name == 'coin' else 'bird'}")
    rows[-1] = rows[-1].replace("COIN", "my aunt")
    (tmp_path / "labels.csv").write_text("\n".join(rows[:1] + rows[2:]))  # the first bird is left out
    words = ["index", str(tmp_path / "a"), "--model", MODEL, "--images", str(flat), "--device", "cpu", "--workers", "0"]
    run = CliRunner().invoke(cli, [*words, "--maps", "none", "--labels", str(tmp_path / "labels.csv")])
    assert run.exit_code == 0, run.output
    assert "6 of 8 images have a class; class names: the model's config" in run.stdout
    assert "Warning: 1 label is none of the classes, or several: 'my aunt' (1). Give labels" in run.stderr
    assert "Warning: 1 image has no label" in run.stderr
    with Index(tmp_path / "a") as index:
        table = index.sql(
            "SELECT label, class, predicted = class_id AS right FROM images LEFT JOIN classes USING (class_id) "
            "ORDER BY image_id"
        )
        assert table.label.fillna("none").tolist() == ["none", *["bird"] * 3, *["COIN"] * 3, "my aunt"]
        assert table["class"].fillna("none").tolist() == ["none", *["bird"] * 3, *["coin"] * 3, "none"]
        top1 = table.right.dropna().astype(bool).mean()
        assert index.manifest["accuracy"]["top1"] == top1
    assert f"the model's answers on 6 images with a class: top-1 {top1:.1%}" in run.stdout
    shown = CliRunner().invoke(cli, ["info", str(tmp_path / "a")]).stdout
    assert f"accuracy  top-1 {top1:.1%}" in shown


def test_rows_in_a_wrong_order_end_in_a_warning(tmp_path: Path) -> None:
    with Index(
        build(Request(tmp_path / "a", MODEL, str(SAMPLE / "images"), **{**SMALL, "limit": 1}), Quiet())
    ) as index:
        names = index.classes.name.tolist()
    (tmp_path / "names.txt").write_text("\n".join(np.roll(names, 1).tolist()))
    words = ["index", str(tmp_path / "b"), "--model", MODEL, "--images", str(SAMPLE / "images"), "--device", "cpu"]
    options = ["--maps", "none", "--workers", "0", "--limit", "120", "--class-names", str(tmp_path / "names.txt")]
    run = CliRunner().invoke(cli, [*words, *options])
    assert run.exit_code == 0, run.output
    assert "is no more than chance. Are the head's rows named in the order" in run.stderr
