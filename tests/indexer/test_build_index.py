"""An index made from Python is the command's, and what cannot be made is said before anything is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import SAMPLE
from test_resume import content
from vitdex.indexer import build_index, repair_index
from vitdex.query.commands.main import cli
from vitdex.query.index import Index
from vitdex.schemas.errors import BadIndex, BadRequest
from vitdex.schemas.integrity import verify

SMALL: dict[str, Any] = {"limit": 24, "batch_size": 8, "workers": 0, "device": "cpu", "maps": "none"}


@pytest.fixture(scope="module")
def told() -> list[tuple[int, int]]:
    """What the progress of `made` was told."""
    return []


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, told: list[tuple[int, int]]) -> Path:
    out = tmp_path_factory.mktemp("made") / "sample.vitdex"
    assert build_index(str(out), sample=True, **SMALL, progress=lambda done, total: told.append((done, total))) == str(
        out
    )
    return out


def test_importing_it_loads_no_torch() -> None:
    code = (
        "import os, sys; os.environ.pop('GOMP_SPINCOUNT', None); from vitdex.indexer import build_index; "
        "assert os.environ['GOMP_SPINCOUNT'] == '0'; "
        "heavy = {'torch', 'timm', 'numba', 'click', 'tqdm'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_is_what_the_command_makes(made: Path, tmp_path: Path, told: list[tuple[int, int]]) -> None:
    words = ["--sample", "--limit", "24", "--batch-size", "8", "--workers", "0", "--device", "cpu", "--maps", "none"]
    result = CliRunner().invoke(cli, ["index", str(tmp_path / "a"), *words])
    assert result.exit_code == 0, result.output
    assert content(made) == content(tmp_path / "a")
    assert told == [(8, 24), (16, 24), (24, 24)]


def test_model_images_and_names_of_ones_own(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for folder, number in (("bird", "000"), ("coin", "001"), ("nobody", "002")):
        (images / folder).mkdir(parents=True)
        shutil.copy(SAMPLE / "images" / "bird" / f"{number}.jpg", images / folder)
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in "abcdefghij") + "Coin\n\n bird \n")
    out = build_index(
        tmp_path / "a",
        model=f"local-dir:{SAMPLE / 'model'}",
        images=images,
        weights=str(SAMPLE / "model" / "model.safetensors"),
        class_names=str(tmp_path / "names.txt"),
        maps="none",
        layers=("fc1", "fc2"),
        precision="bfloat16",
        device="cpu",
        workers=0,
        inputs=False,
    )
    with Index(out) as index:
        spec = index.spec
        assert (spec.images, spec.class_names, spec.precision, spec.inputs) == (3, "names.txt", "bfloat16", False)
        assert {layer.kind for layer in spec.layers} == {"hidden", "residual"}
        classes = index.sql("SELECT label, class, class_id FROM images LEFT JOIN classes USING (class_id) ORDER BY 1")
        assert classes["class"].fillna("none").tolist() == ["bird", "Coin", "none"]
        assert classes.class_id.fillna(99).tolist() == [11, 10, 99]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"maps": "int8"}, "'int8' is no choice for maps. One of uint8, float16, exemplars, none."),
        ({"precision": "float64"}, "'float64' is no choice for precision. One of float32, bfloat16, float16."),
        ({"layers": ("fc1", "fc3")}, "'fc3' is no choice for layers. One of fc1, fc2, attn."),
        ({"layers": ()}, "no layers are given. Some of fc1, fc2, attn."),
        ({"batch_size": 0}, "batch_size is 0. At least 1."),
        ({"limit": 0}, "limit is 0. At least 1."),
        ({"workers": -1}, "workers is -1. At least 0."),
        ({"img_size": (96, 0)}, "width is 0. At least 1."),
        ({"model": "vit_tiny_patch16_224"}, "sample=True brings its own model and images."),
        ({"images": "somewhere"}, "sample=True brings its own model and images."),
        ({"weights": "x.safetensors"}, "sample=True brings its own model and images."),
        ({"sample": False, "images": "somewhere"}, "an index needs a model and images. Give model and images, or"),
        ({"sample": False, "model": "vit_tiny_patch16_224"}, "an index needs a model and images."),
    ],
)
def test_settings_that_there_are_not(setting: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as refusal:
        build_index(tmp_path / "a", **{"sample": True, **setting})
    assert words in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_index_is_replaced_only_if_asked(made: Path) -> None:
    before = (made / "manifest.json").stat().st_mtime_ns
    with pytest.raises(BadIndex, match="is a finished index"):
        build_index(made, sample=True, **SMALL)
    assert (made / "manifest.json").stat().st_mtime_ns == before


def test_repaired_from_python(made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "a"))
    assert repair_index(copy, sample=True, **SMALL) == []
    file = copy / "activations.zarr" / "logits" / "c" / "0" / "0"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(BadIndex, match="precision: bfloat16 now, float32 there"):
        repair_index(copy, sample=True, **{**SMALL, "precision": "bfloat16"})
    told: list[tuple[int, int]] = []
    again = repair_index(str(copy), sample=True, **SMALL, progress=lambda done, total: told.append((done, total)))
    assert again == ["activations.zarr/logits/c/0/0"]
    assert told == [(8, 24), (16, 24), (24, 24)]
    assert verify(copy) == []
    assert content(copy) == content(made)
