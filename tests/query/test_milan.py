"""MILAN's contract, its masks against the float32 pipeline, the round trip, and what is refused."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import Reference
from numpy.typing import NDArray
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query.commands.main import cli
from vitdex.query.export import milan as milan_module
from vitdex.query.export import milan_files
from vitdex.query.export.descriptions import import_descriptions
from vitdex.query.export.milan import export_milan
from vitdex.query.export.milan_masks import milan_masks
from vitdex.query.export.milan_sheet import masked_exemplars, milan_sheet
from vitdex.query.index import Index
from vitdex.query.model import exact_thresholds as milan_exact
from vitdex.query.model.live_model import open_model
from vitdex.query.stored.maps import top_maps
from vitdex.schemas.errors import DamagedIndex, ModelError, QueryError

LAYER = "blocks.4.mlp.fc1"
UNITS = [3, 64, 200, 767]
SIZE = 224


def read(root: Path, layer: str, name: str) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = np.load(root / layer / f"{name}.npy")
    return found


def iou(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> float:
    """Mean IoU of masks [..., y, x]; two empty ones agree."""
    both, either = (ours & theirs).sum((-2, -1)), (ours | theirs).sum((-2, -1))
    return float(np.where(either, both / np.maximum(either, 1), 1).mean())


def reference_masks(maps: NDArray[np.float32], thresholds: NDArray[np.float32], size: int = SIZE) -> NDArray[np.uint8]:
    """MILAN's way on maps [unit, k, rows, columns]: pad with zeros, interpolate, crop, compare strictly."""
    rows = maps.shape[-1]
    p = size // rows
    padded = torch.nn.functional.pad(torch.from_numpy(maps), (1, 1, 1, 1))
    wide = torch.nn.functional.interpolate(padded, size=((rows + 2) * p,) * 2, mode="bilinear", align_corners=False)
    return (wide[..., p:-p, p:-p].numpy() > thresholds[:, None, None, None]).astype(np.uint8)


@pytest.fixture(scope="session")
def exact(reference: Reference) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Top 15 images [unit, k], their maps and the exact thresholds of UNITS, from the model's own outputs."""
    values = reference.fc1[LAYER][:, 1:][..., UNITS].transpose(2, 0, 1)  # [unit, image, patch]
    ids = np.argsort(-values.max(2), axis=1, kind="stable")[:, :15]
    maps = np.take_along_axis(values, ids[..., None], 1).reshape(len(UNITS), 15, 8, 8)
    thresholds = np.quantile(values.reshape(len(UNITS), -1), 0.99, axis=1, method="hazen").astype(np.float32)
    return ids, maps, thresholds


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Indexes of 40 images with fc1 and fc2, for every other way to keep maps."""
    root = tmp_path_factory.mktemp("small")
    return {
        maps: build(
            sample_request(
                root / f"{maps}.vitdex", part_images=15, device="cpu", limit=40, maps=maps, layers=("fc1", "fc2")
            ),
            Quiet(),
        )
        for maps in ("uint8", "float16", "exemplars", "none")
    }


def test_files_keep_milans_contract(sample: Index, tmp_path: Path, exact: tuple[NDArray[np.int64], ...]) -> None:
    root = tmp_path / "vit" / "sample"
    export_milan(sample, root, [LAYER, "blocks.0.mlp.fc1"], units=[767, 3, 64, 200, 3])
    assert sorted(p.name for p in root.iterdir()) == ["blocks.0.mlp.fc1", LAYER]
    assert sorted(p.name for p in root.parent.iterdir()) == ["sample"]
    images, masks, units = (read(root, LAYER, name) for name in ("images", "masks", "units"))
    assert images.shape == (4, 15, 3, SIZE, SIZE)
    assert masks.shape == (4, 15, 1, SIZE, SIZE)
    assert [a.dtype.str for a in (images, masks, units)] == ["|u1", "|u1", "<i8"]
    assert images.flags.c_contiguous
    assert masks.flags.c_contiguous
    assert np.unique(masks).tolist() == [0, 1]
    assert images.max() > 200  # bytes, not shares
    assert units.tolist() == UNITS
    ids = np.loadtxt(root / LAYER / "ids.csv", delimiter=",", dtype=np.int64)
    np.testing.assert_array_equal(ids, exact[0])  # MILAN's rule on the model's own outputs
    for row, unit in enumerate(UNITS):
        table = sample.exemplars(LAYER, unit, 15)
        assert ids[row].tolist() == table.image_id.tolist()
        lines = (root / LAYER / "activations.csv").read_text().splitlines()
        assert lines[row] == ",".join(f"{pre:.5e}" for pre in table.pre)
    assert (root / LAYER / "ids.csv").read_text().splitlines()[0] == ",".join(map(str, ids[0]))


def test_images_are_the_pixels_that_the_model_saw(sample: Index, tmp_path: Path) -> None:
    export_milan(sample, tmp_path / "a", [LAYER], units=[3], k=4, size=96)
    stored = np.asarray(sample.arrays["inputs"][:])[sample.exemplars(LAYER, 3, 4).image_id]
    np.testing.assert_array_equal(read(tmp_path / "a", LAYER, "images")[0].transpose(0, 2, 3, 1), stored)


def test_masks_against_the_float32_pipeline(
    sample: Index, tmp_path: Path, exact: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]
) -> None:
    _, maps, thresholds = exact
    direct = reference_masks(maps, thresholds)
    ours = milan_masks(maps, thresholds[:, None], (SIZE, SIZE))
    assert (ours != direct).mean() <= 1e-5  # matrix products round as their BLAS does
    top = milan_files.top_exemplars(sample, LAYER, np.array(UNITS), 15)
    from_codes = milan_masks(milan_files.exemplar_maps(sample, top), thresholds[:, None], (SIZE, SIZE))
    assert iou(from_codes, direct) >= 0.98
    halves = milan_masks(maps.astype(np.float16).astype(np.float32), thresholds[:, None], (SIZE, SIZE))
    assert iou(halves, direct) >= 0.998
    export_milan(sample, tmp_path / "exact", [LAYER], UNITS, exact=True)
    assert iou(read(tmp_path / "exact", LAYER, "masks")[:, :, 0], direct) >= 0.9999


def test_exact_thresholds_in_turns_are_the_same(
    sample: Index, monkeypatch: pytest.MonkeyPatch, exact: tuple[NDArray[np.int64], ...]
) -> None:
    monkeypatch.setattr(milan_exact, "TAIL_BYTES", 3 * 16 * 308)  # three units at once
    found = milan_exact.exact_thresholds(open_model(sample), {LAYER: np.array(UNITS)})
    np.testing.assert_allclose(found[LAYER], exact[2], rtol=1e-5)


def test_every_way_to_keep_maps_gives_the_same_masks(small: dict[str, Path], tmp_path: Path) -> None:
    masks: dict[str, NDArray[np.uint8]] = {}
    for maps, path in small.items():
        with Index(path) as index:
            export_milan(index, tmp_path / maps, ["blocks.2.mlp.fc2", LAYER], units=[0, 5, 191])
            ids = np.loadtxt(tmp_path / maps / "blocks.2.mlp.fc2" / "ids.csv", delimiter=",", dtype=int)
            assert ids[1].tolist() == index.exemplars("blocks.2.mlp.fc2", 5).image_id.tolist()
        masks[maps] = np.stack([read(tmp_path / maps, layer, "masks") for layer in ("blocks.2.mlp.fc2", LAYER)])
    np.testing.assert_array_equal(masks["exemplars"], masks["uint8"])
    assert iou(masks["uint8"], masks["none"]) >= 0.97
    assert iou(masks["float16"], masks["none"]) >= 0.997


def test_a_stopped_export_leaves_nothing_under_its_name(
    sample: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    root = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(milan_module, "write_images", stop)
        with pytest.raises(KeyboardInterrupt):
            export_milan(sample, root, [LAYER], [1], k=2, size=32)
    assert not root.exists()
    assert (tmp_path / "set.unfinished" / LAYER / "masks.npy").exists()
    export_milan(sample, root, [LAYER], [2], k=2, size=32)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    export_milan(sample, root, ["blocks.1.mlp.fc1"], [2], k=2, size=32)  # joins the first
    assert sorted(p.name for p in root.iterdir()) == ["blocks.1.mlp.fc1", LAYER]
    with pytest.raises(QueryError, match=f"{LAYER} is already there"):
        export_milan(sample, root, [LAYER], [2], k=2, size=32)
    with pytest.raises(QueryError, match="holds 2 images of 32 x 32 a neuron, and all layers"):
        export_milan(sample, root, ["blocks.2.mlp.fc1"], [2], k=3, size=32)
    (root / ".other").mkdir()
    with pytest.raises(QueryError, match=r"\.other is no exemplar set, and MILAN would take it for one"):
        export_milan(sample, root, ["blocks.2.mlp.fc1"], [2], k=2, size=32)


def test_what_cannot_be_exported_is_refused_before_writing(
    sample: Index, small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index(small["uint8"]) as index, pytest.raises(QueryError, match="41 images .* the index keeps 40"):
        export_milan(index, tmp_path / "a", [LAYER], [0], k=41)
    with pytest.raises(QueryError, match="no unit 768 in blocks.4.mlp.fc1"):
        export_milan(sample, tmp_path / "a", [LAYER], [768])
    with pytest.raises(QueryError, match=r"no layer 'blocks.9.mlp.fc1'. Did you mean"):
        export_milan(sample, tmp_path / "a", ["blocks.9.mlp.fc1"])
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(QueryError, match=r"2.31 GB are needed in .* and 1 kB are free"):
        export_milan(sample, tmp_path / "a", [LAYER])
    assert list(tmp_path.iterdir()) == []


def test_foreign_maps_are_noticed(sample: Index) -> None:
    top = milan_files.top_exemplars(sample, LAYER, np.array(UNITS), 15)
    with pytest.raises(DamagedIndex, match="do not fit their maxima. Repeat the .* with --repair"):
        top_maps(sample.reader, sample.spec, LAYER, top.units, top.image_ids, (top.patches + 1) % np.uint16(64))


def test_round_trip(sample_path: Path, sample: Index, tmp_path: Path) -> None:
    """Export, describe with any tool, import, query."""
    root = tmp_path / "set"
    export_milan(sample, root, [LAYER, "blocks.1.mlp.fc1"], [4, 9], k=3, size=32)
    with (tmp_path / "said.csv").open("w", newline="") as file:
        writer = csv.writer(file)  # CRLF and standard quoting, as MILAN writes
        writer.writerow(["layer", "unit", "description"])
        for layer in sorted((p.name for p in root.iterdir()), reverse=True):
            for unit, masks in zip(read(root, layer, "units"), read(root, layer, "masks"), strict=True):
                writer.writerow([layer, unit, f'area, "{masks.mean():.3f}"'])
    for name in ("manifest.json", "index.duckdb"):
        shutil.copy(sample_path / name, tmp_path / name)
    with Index(tmp_path) as index:
        assert import_descriptions(index, tmp_path / "said.csv", "milan", "base, temperature 0.2") == 4
        assert import_descriptions(index, tmp_path / "said.csv", "milan", "base, temperature 0.3") == 4  # replaces
    with Index(tmp_path) as index:
        found = index.sql("SELECT * FROM descriptions JOIN neurons USING (layer, unit) ORDER BY layer, unit")
        assert found.unit.tolist() == [4, 9, 4, 9]
        assert set(found.note) == {"base, temperature 0.3"}
        assert found.description[3] == f'area, "{read(root, LAYER, "masks")[1].mean():.3f}"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{LAYER},3,fine\n{LAYER},768,x\nblocks.9.mlp.fc1,0,y\n", "2 neurons .*: blocks.4.mlp.fc1/768, blocks.9"),
        (f"{LAYER},3,fine\n{LAYER},3,again\n", "describes blocks.4.mlp.fc1/3 more than once"),
        (f"{LAYER},3,fine\n{LAYER},4\n", "row 3 of .* is 'blocks.4.mlp.fc1,4'"),
        (f"{LAYER},-1,x\n", "row 2"),
    ],
)
def test_a_wrong_csv_imports_nothing(sample_path: Path, tmp_path: Path, text: str, message: str) -> None:
    for name in ("manifest.json", "index.duckdb"):
        shutil.copy(sample_path / name, tmp_path / name)
    (tmp_path / "said.csv").write_text("layer,unit,description\n" + text)
    with Index(tmp_path) as index:
        with pytest.raises(QueryError, match=message):
            import_descriptions(index, tmp_path / "said.csv", "milan")
        assert index.sql("FROM descriptions").empty


def test_sheet_is_dark_outside_the_masks(sample: Index, tmp_path: Path) -> None:
    export_milan(sample, tmp_path / "set", [LAYER], units=[7], k=5, size=96)
    images = read(tmp_path / "set", LAYER, "images")[0].transpose(0, 2, 3, 1)
    inside = read(tmp_path / "set", LAYER, "masks")[0, :, 0].astype(bool)
    shown = masked_exemplars(sample, LAYER, 7, 5, 96, None)
    np.testing.assert_array_equal(shown[inside], images[inside])
    np.testing.assert_array_equal(shown[~inside], np.round(images[~inside] * 0.25).astype(np.uint8))
    words = [
        "export",
        "milan-sheet",
        str(sample.layout.root),
        f"{LAYER}:7",
        "-k",
        "7",
        "-o",
        str(tmp_path / "sheet.png"),
    ]
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_sheet_that_cannot_be_drawn_is_refused(sample: Index, tmp_path: Path) -> None:
    for k in (0, 101):
        with pytest.raises(QueryError, match=f"{k} images a neuron are asked for and the index keeps 100"):
            milan_sheet(sample, (LAYER, 7), k)
    words = ["export", "milan-sheet", str(sample.layout.root), f"{LAYER}:7", "-o", str(tmp_path / "sheet.foo")]
    assert "sheet.foo' is of no kind that can be written here. One of .png" in str(
        CliRunner().invoke(cli, words).exception
    )
    with pytest.raises(ModelError, match="no device 'nonsense' on this machine"):
        export_milan(sample, tmp_path / "a", [LAYER], [0], exact=True, device="nonsense")
    assert list(tmp_path.iterdir()) == []


def test_export_as_a_command_runs_no_torch(sample_path: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from vitdex.query.commands.main import cli; "
        "cli(['export', 'milan', *sys.argv[1:], '--layer', 'blocks.1.mlp.fc1', '--units', '2-4,9', '-k', '2'], "
        "standalone_mode=False); assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(sample_path), str(tmp_path / "set")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "4 neurons x 2 images of 224 x 224: 1.61 MB on disk, 6.42 MB in MILAN's memory" in result.stdout
    assert result.stderr == ""
    assert read(tmp_path / "set", "blocks.1.mlp.fc1", "units").tolist() == [2, 3, 4, 9]


def test_damaged_inputs_are_noticed(small: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(small["exemplars"], tmp_path / "copy")
    shard = next((tmp_path / "copy").glob("activations.zarr/inputs/c/0/0/0/0"))
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    with Index(tmp_path / "copy") as index, pytest.raises(DamagedIndex, match="has a wrong checksum. Repeat"):
        index.inputs([0])
    shard.write_bytes(content[:-1])
    with Index(tmp_path / "copy") as index, pytest.raises(DamagedIndex, match=r"bytes instead of \d+. Repeat"):
        index.inputs([1])
