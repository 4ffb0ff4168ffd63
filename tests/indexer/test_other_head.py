"""Another head on a finished index: the tables of an index made with it, the arrays of the one it was made from."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import SAMPLE, vitdex
from effect_by_hand import effect_by_hand
from safetensors.numpy import load_file, save_file
from vitdex.data.models.head import Head
from vitdex.indexer import build_index, index_with_head, repair_index
from vitdex.indexer import other_head as module
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.other_head import logits_of, undecided
from vitdex.indexer.plan import sample_request
from vitdex.indexer.stored_source import StoredSource
from vitdex.query.commands.main import cli
from vitdex.query.index import Index
from vitdex.query.model.gradients import effect_on_tokens
from vitdex.query.model.live_model import open_model
from vitdex.schemas.errors import BadIndex, DamagedIndex, ModelError, QueryError, VitdexError
from vitdex.schemas.facts import file_facts
from vitdex.schemas.integrity import verify
from vitdex.schemas.manifest import seal_manifest

CLASSES = ("coin", "bird", "hand", "sign", "x", "y", "insect", "letter", "mammal", "tool", "z")
SETTINGS: dict[str, Any] = {
    "limit": 64, "batch_size": 8, "workers": 0, "device": "cpu", "maps": "none", "layers": ("fc1", "attn", "fc2"),
    "part_images": 24,
}  # fmt: skip
NOTE = "ignore:.*logits are computed from features"
pytestmark = [pytest.mark.filterwarnings(NOTE), pytest.mark.filterwarnings("ignore:.*labels? (is|are) none")]


def write_head(file: Path, rows: int = len(CLASSES), width: int = 192, **more: np.ndarray[Any, Any]) -> Path:
    chance = np.random.default_rng(3)
    weight = chance.normal(size=(rows, width)).astype(np.float32) / 8
    names = json.dumps(list(CLASSES) if rows == len(CLASSES) else [str(i) for i in range(rows)])
    save_file({"weight": weight, "bias": chance.normal(size=rows).astype(np.float32), **more}, file, {"classes": names})
    return file


def made(out: Path, **settings: Any) -> Path:
    return build(sample_request(out, **{**SETTINGS, **settings}), Quiet())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.fixture(scope="module")
def head(folder: Path) -> Path:
    return write_head(folder / "eleven.safetensors")


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    """An index with the model's own head."""
    return made(folder / "first.vitdex")


@pytest.fixture(scope="module")
def second(folder: Path, first: Path, head: Path) -> Path:
    """Another head on it."""
    return index_with_head(first, head, folder / "second.vitdex")


@pytest.fixture
def copy(first: Path, tmp_path: Path) -> Path:
    """The first index, whose files can be replaced, never written into."""
    return Path(shutil.copytree(first, tmp_path / "copy.vitdex", copy_function=os.link))


def rows(path: Path) -> dict[str, tuple[int, int]]:
    """Every table by its number of rows and a hash of all of them; of images, what no logit decides."""
    with Index(path) as index:
        names = index.sql("SELECT table_name FROM duckdb_tables() WHERE database_name = 'vitdex_index'").table_name
        found = {}
        for name in names:
            but = "EXCLUDE (predicted, p_class)" if name == "images" else ""
            query = f"SELECT count(*) AS n, bit_xor(hash(t)) AS h FROM (SELECT * {but} FROM {name}) t"
            found[name] = tuple(index.sql(query).iloc[0].tolist())
        return found


def limits(path: Path, head: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """How far float16 may move each logit of an index, and which images it may leave undecided."""
    with Index(path) as index:
        weights = load_file(head)
        weight, bias = (torch.from_numpy(weights[name]) for name in ("weight", "bias"))
        own = Head(weight, bias, True, "", "", None)
        logits, bounds = logits_of(own, index.reader.whole("features"))
        return bounds, undecided(logits, bounds)


def check_same(other: Path, direct: Path, head: Path) -> None:
    """All tables alike; what comes out of logits within float16."""
    bounds, open_questions = limits(direct, head)
    assert rows(other) == rows(direct)
    with Index(other) as a, Index(direct) as b:
        ours, theirs = (x.sql("SELECT predicted, p_class FROM images ORDER BY image_id") for x in (a, b))
    assert (ours.predicted == theirs.predicted).to_numpy()[~open_questions].all()
    assert open_questions.mean() < 0.05
    assert np.nanmax(np.abs(ours.p_class - theirs.p_class)) <= 2 * bounds.max()
    with Index(other) as a, Index(direct) as b:
        assert (np.abs(a.reader.whole("logits") - b.reader.whole("logits")) <= bounds + 1e-5).all()
        np.testing.assert_array_equal(a.reader.whole("head"), b.reader.whole("head"))
        assert a.spec.to_json() | {"images_sha256": ""} == b.spec.to_json() | {"images_sha256": ""}
        accuracies = [x.manifest["accuracy"] for x in (a, b)]
        assert accuracies[0]["images"] == accuracies[1]["images"] > 30
        assert accuracies[0]["top1"] == pytest.approx(accuracies[1]["top1"], abs=open_questions.mean() + 1e-9)


def test_its_tables_are_those_of_an_index_made_with_it(second: Path, head: Path, tmp_path: Path) -> None:
    check_same(second, made(tmp_path / "direct", head=head), head)


def test_effect_is_that_on_its_own_head(second: Path, head: Path) -> None:
    """Of two classes of the brought head, whichever is asked first under inference_mode."""
    given = load_file(head)
    with Index(second) as index:
        live = open_model(index)
        features: list[torch.Tensor] = []
        live.anatomy.head.register_forward_pre_hook(lambda _, args: features.append(args[0]))

        def logits(pixels: torch.Tensor) -> torch.Tensor:
            live.anatomy.model(pixels)
            return features[-1] @ torch.from_numpy(given["weight"]).T + torch.from_numpy(given["bias"])

        with torch.inference_mode():
            live(live.pixels([5]), [])
        fc2 = live.anatomy.model.get_submodule("blocks.3.mlp.fc2")
        for class_id in (0, 7):
            direct = effect_by_hand(live, fc2, 40, class_id, 5, logits)
            found = effect_on_tokens(live, "blocks.3.mlp.fc1", [40], class_id, 5)
            both = np.concatenate([found.prefix[0], found.patches.reshape(-1)])
            np.testing.assert_allclose(both, direct, atol=1e-4 * np.abs(direct).max())


def test_names_and_labels_of_ones_own(first: Path, head: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("".join(f"{name.upper()}\n" for name in CLASSES))
    lines = [f"{path.relative_to(SAMPLE / 'images')} {CLASSES[i % 5]}" for i, path in enumerate(sorted_images()[:64])]
    (tmp_path / "labels.txt").write_text("\n".join(lines[:-3]))
    given: dict[str, Any] = {"class_names": tmp_path / "names.txt", "labels": tmp_path / "labels.txt"}
    out = index_with_head(first, head, tmp_path / "out", **given)
    check_same(out, made(tmp_path / "direct", head=head, **given), head)
    with Index(out) as index:
        assert index.class_name(0) == "COIN"
        assert index.sql("SELECT count(*) AS n FROM images WHERE class_id = 1").n[0] == 12


def sorted_images() -> list[Path]:
    return sorted((SAMPLE / "images").rglob("*.jpg"))


def test_rows_in_the_space_that_the_models_head_writes(first: Path, tmp_path: Path) -> None:
    """As text embeddings for CLIP, whose head is a projection."""
    head = write_head(tmp_path / "twelve.safetensors", width=12)
    out, direct = index_with_head(first, head, tmp_path / "out"), made(tmp_path / "direct", head=head)
    with Index(out) as a, Index(direct) as b:
        np.testing.assert_array_equal(a.reader.whole("head"), b.reader.whole("head"))
        np.testing.assert_allclose(a.reader.whole("logits"), b.reader.whole("logits"), atol=0.02)
        assert a.classes.equals(b.classes)
        assert a.sql("FROM classes").equals(b.sql("FROM classes"))


def test_a_head_on_an_index_without_one(head: Path, tmp_path: Path) -> None:
    """A model without a head has features and neurons; its classes are the images' labels."""
    bare = tmp_path / "model"
    shutil.copytree(SAMPLE / "model", bare)
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "num_classes": 0}))
    weights = {n: w for n, w in load_file(bare / "model.safetensors").items() if not n.startswith("head.")}
    save_file(weights, bare / "model.safetensors")
    settings: dict[str, Any] = {"images": SAMPLE / "images", "limit": 48, "workers": 0, "device": "cpu", "maps": "none"}
    index = build_index(tmp_path / "bare", model=f"local-dir:{bare}", **settings)
    out = index_with_head(index, head, tmp_path / "out")
    direct = build_index(tmp_path / "direct", model=f"local-dir:{bare}", head=head, **settings)
    scores = "FROM class_scores ORDER BY ALL"
    with Index(index) as old, Index(out) as a, Index(direct) as b:
        assert old.sql("FROM class_scores").empty
        assert len(a.sql(scores)) == len(CLASSES) * a.spec.neurons
        pd.testing.assert_frame_equal(a.sql(scores), b.sql(scores), check_exact=True)


def test_arrays_are_the_same_files(first: Path, second: Path) -> None:
    arrays = {p.relative_to(first) for p in first.glob("activations.zarr/**/c/**/*") if p.is_file()}
    shared = {p for p in arrays if (first / p).samefile(second / p)}
    assert {p.parts[1] for p in arrays - shared} == {"head", "logits"}
    assert not any(p.samefile(second / p.relative_to(first)) for p in first.rglob("*.json"))
    assert verify(first) == verify(second) == []


def test_either_can_be_removed_or_made_anew(copy: Path, head: Path, tmp_path: Path) -> None:
    out = index_with_head(copy, head, tmp_path / "out")
    before = json.loads((copy / "manifest.json").read_text())
    made(copy, limit=20, overwrite=True)
    assert verify(out) == []
    shutil.rmtree(copy)
    assert verify(out) == []
    with Index(out) as index:
        assert index.manifest["source_index"] == {"name": "copy.vitdex", "sha256": before["sha256"]}
        assert index.manifest["images"] == before["images"]


def test_it_needs_no_model_and_no_images(first: Path, head: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from vitdex.indexer import index_with_head; index_with_head(*sys.argv[1:]);"
        "heavy = {'timm', 'torchvision', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, first, head, tmp_path / "out"], check=True)


def test_the_command_says_what_it_did(first: Path, second: Path, head: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["head", str(first), str(head), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "eleven.safetensors: 11 rows over 192 features" in result.output
    assert "files (" in result.output
    assert "are shared with first.vitdex by hard links" in result.output
    assert "Note: logits are computed from features stored in float16: within 0.00" in result.output
    assert "top-1" in result.output
    mine, theirs = (json.loads((path / "manifest.json").read_text()) for path in (tmp_path / "out", second))
    assert {**mine["files"], "": 0}.keys() == {**theirs["files"], "": 0}.keys()
    assert any(note.startswith("logits are computed") for note in mine["notes"])
    said = CliRunner().invoke(cli, ["info", str(tmp_path / "out")]).output
    assert "arrays    those of first.vitdex, manifest " in said
    assert "images/s" not in said


def test_progress_is_told_and_notes_are_warned_of(first: Path, head: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with pytest.warns(UserWarning, match=r"stored in float16: within 0\.00"):
        index_with_head(first, head, tmp_path / "out", progress=lambda *step: told.append(step))
    assert told == [(i, 18) for i in range(1, 19)]


def width_of(other: int) -> Callable[[Path], Path]:
    return lambda place: write_head(place / "other.safetensors", width=other)


def no_tensors(place: Path) -> Path:
    (place / "no.safetensors").write_text("no tensors")
    return place / "no.safetensors"


def not_finite(place: Path) -> Path:
    return write_head(place / "nan.safetensors", bias=np.full(len(CLASSES), np.nan, np.float32))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (width_of(193), "reads 193 features, the model gives 192"),
        (no_tensors, "is not a safetensors file"),
        (not_finite, "are not finite"),
        (lambda place: place / "none.safetensors", "no head at"),
    ],
)
def test_heads_that_cannot_be_used(bad: Callable[[Path], Path], words: str, first: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        index_with_head(first, bad(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_where_it_cannot_be_made(first: Path, second: Path, head: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(first)
    (tmp_path / "file").touch()
    before = file_facts(second / "manifest.json")
    for out, words in (
        (first, "is the index itself"),
        (tmp_path / "link", "is the index itself"),
        (first / "inside", "lies in the other"),
        (first.parent, "lies in the other"),
        (second, "is a finished index"),
        (tmp_path / "file", "is a file"),
        (head.parent.parent, "lies in the other"),
    ):
        with pytest.raises(BadIndex, match=words):
            index_with_head(first, head, out)
    with pytest.raises(BadIndex, match="there is no index"):
        index_with_head(tmp_path / "none", head, tmp_path / "out")
    assert verify(first) == []
    assert file_facts(second / "manifest.json") == before


def replaced(file: Path, content: bytes) -> None:
    file.unlink()
    file.write_bytes(content)


def reseal(folder: Path, *changed: str, change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"] |= {path: list(file_facts(folder / path)) for path in changed}
    change(manifest)
    replaced(folder / "manifest.json", seal_manifest(manifest))


STATISTICS = "parts/statistics.safetensors"


def change_statistics(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    stored = load_file(folder / STATISTICS)
    change(stored)
    (folder / STATISTICS).unlink()
    save_file(stored, folder / STATISTICS)
    reseal(folder, STATISTICS)


def without_bias(stored: dict[str, Any]) -> None:
    del stored["final_norm/bias"]


def bias_of_another(stored: dict[str, Any]) -> None:
    stored["final_norm/bias"] = np.zeros(3, np.float32)


def test_an_older_index_is_mended_by_a_repair(copy: Path, head: Path, tmp_path: Path) -> None:
    change_statistics(copy, without_bias)
    with pytest.raises(BadIndex, match=r"an older vitdex made it\. Remove .*statistics\.safetensors and repeat"):
        index_with_head(copy, head, tmp_path / "out")
    (copy / STATISTICS).unlink()
    settings = {name: value for name, value in SETTINGS.items() if name != "part_images"}
    with pytest.raises(BadIndex, match="part_images"):  # the parts of these tests are smaller than a user's
        repair_index(copy, sample=True, **settings)
    from vitdex.indexer.repair import repair

    assert repair(sample_request(copy, **SETTINGS), Quiet()) == [STATISTICS]
    index_with_head(copy, head, tmp_path / "out")


def test_indexes_of_strangers(copy: Path, head: Path, tmp_path: Path) -> None:
    change_statistics(copy, bias_of_another)
    with pytest.raises(BadIndex, match="final_norm/bias in .* is no bias of this model"):
        index_with_head(copy, head, tmp_path / "out")
    replaced(copy / STATISTICS, b"\xff" * 64)
    with pytest.raises(DamagedIndex, match="statistics.safetensors is damaged"):
        index_with_head(copy, head, tmp_path / "out")
    reseal(copy, STATISTICS)
    with pytest.raises(BadIndex, match="holds no statistics"):
        index_with_head(copy, head, tmp_path / "out")
    (copy / STATISTICS).unlink()
    (copy / STATISTICS).symlink_to(head)
    with pytest.raises(DamagedIndex, match="statistics.safetensors is a link"):
        index_with_head(copy, head, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("activation", ["ReLU", "Module", "MultiheadAttention", "HardMish", "None"])
def test_another_nonlinearity_than_the_stored_one(activation: str, copy: Path) -> None:
    reseal(copy, change=lambda manifest: manifest["run"].__setitem__("activation", activation))
    with pytest.raises(BadIndex, match=f"'{activation}', the nonlinearity of .*, is not known here"):
        StoredSource(copy).space()


def test_a_link_in_place_of_an_array(copy: Path, head: Path, tmp_path: Path) -> None:
    file = copy / "activations.zarr/blocks.0.mlp.fc1/token_top/c/0/0/0"
    file.unlink()
    file.symlink_to(head)
    with pytest.raises(DamagedIndex, match="token_top/c/0/0/0 is a link"):
        index_with_head(copy, head, tmp_path / "out")
    file.unlink()
    file.touch()
    with pytest.raises(DamagedIndex, match="token_top/c/0/0/0 has 0 bytes"):
        index_with_head(copy, head, tmp_path / "out")
    with pytest.raises(BadIndex, match="out is unfinished"):
        Index(tmp_path / "out")


def test_an_index_without_value_vectors(head: Path, tmp_path: Path) -> None:
    index = build_index(tmp_path / "a", sample=True, limit=8, workers=0, device="cpu", maps="none", layers=("fc2",))
    with pytest.raises(BadIndex, match="has no value vectors"):
        index_with_head(index, head, tmp_path / "out")


def test_features_beyond_float16(first: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Index(first) as index:
        features = np.array(index.reader.whole("features"))
    features[3, 5] = np.inf
    monkeypatch.setattr(
        "vitdex.indexer.stored_source.ArrayReader.parts",
        lambda self, path: iter([(0, features)]) if path == "features" else iter([(0, np.ones(len(features), bool))]),
    )
    with pytest.raises(BadIndex, match="are beyond float16"):
        index_with_head(first, head, tmp_path / "out")


REAL_LINK = os.link


def no_links(source: Path, target: Path, **settings: Any) -> None:
    """As between two disks; zarr's own links, inside one, can be made."""
    if "/c/" in str(source):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    REAL_LINK(source, target, **settings)


def test_copies_where_no_link_can_be_made(
    copy: Path, second: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", no_links)
    result = CliRunner().invoke(cli, ["head", str(copy), str(head), str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "are copies of copy.vitdex's: no links can be made (Invalid cross-device link)" in result.output
    assert verify(tmp_path / "out") == []
    assert rows(tmp_path / "out") == rows(second)
    file = copy / "activations.zarr/blocks.0.mlp.fc1/max/c/0/0"
    replaced(file, bytes(file.stat().st_size))
    with pytest.raises(DamagedIndex, match="max/c/0/0 has a wrong checksum"):
        index_with_head(copy, head, tmp_path / "again")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 19_000_000))
    with pytest.raises(QueryError, match="are needed in .*lean and .* are free"):
        index_with_head(copy, head, tmp_path / "lean")


def test_room_is_asked_for_before_anything_is_made(
    first: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10_000))
    with pytest.raises(VitdexError, match="are needed in"):
        index_with_head(first, head, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("step", ["share_files", "write_metadata", "build_tables", "write_voucher"])
def test_stopped_anywhere_it_leaves_no_index_and_is_made_anew(
    step: str, first: Path, second: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, step, stop)
        with pytest.raises(KeyboardInterrupt):
            index_with_head(first, head, tmp_path / "out")
    with pytest.raises(BadIndex, match="is unfinished. Repeat the 'vitdex head' command"):
        Index(tmp_path / "out")
    with pytest.raises(BadIndex, match="an unfinished index of 'vitdex head'"):
        made(tmp_path / "out")
    index_with_head(first, head, tmp_path / "out")
    assert verify(tmp_path / "out") == []
    assert rows(tmp_path / "out") == rows(second)


def test_killed_and_repeated(first: Path, head: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import sys; from vitdex.query.commands.main import main; main()"
    run = subprocess.Popen([sys.executable, "-c", code, "head", str(first), str(head), str(out)])
    while not (out / ".index.duckdb.partial").exists() and run.poll() is None:
        time.sleep(0.01)
    run.kill()
    run.wait()
    assert vitdex("info", out).returncode == 2
    assert vitdex("head", first, head, out).returncode == 0
    assert verify(out) == []
    assert verify(first) == []


def test_the_work_of_another_run_is_not_touched(first: Path, head: Path, tmp_path: Path) -> None:
    out = made(tmp_path / "out", limit=8)
    (out / "manifest.json").unlink()
    with pytest.raises(BadIndex, match="holds an unfinished index of 'vitdex index'"):
        index_with_head(first, head, out)
    index_with_head(first, head, out, overwrite=True)
    assert verify(out) == []


def test_damage_is_repaired_where_the_arrays_come_from(
    copy: Path, head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = index_with_head(copy, head, tmp_path / "out")
    file = out / "activations.zarr/logits/c/1/0"
    file.write_bytes(bytes(file.stat().st_size))
    assert [finding.path for finding in verify(out)] == ["activations.zarr/logits/c/1/0"]
    from vitdex.indexer.repair import repair

    with pytest.raises(BadIndex, match="shares its arrays with 'copy.vitdex'. Repair 'copy.vitdex', then repeat"):
        repair(sample_request(out, head=head, **SETTINGS), Quiet())
    index_with_head(copy, head, out, overwrite=True)
    assert verify(out) == []


def test_the_bound_of_a_logit_holds() -> None:
    chance = np.random.default_rng(0)
    exact = (chance.normal(size=(200, 64)) * 10 ** chance.uniform(-8, 3, (200, 64))).astype(np.float32)
    weight = torch.from_numpy(chance.normal(size=(9, 64)).astype(np.float32))
    head = Head(weight, None, True, "", "", None)
    logits, bounds = logits_of(head, exact.astype(np.float16))
    error = np.abs(logits - exact.astype(np.float64) @ weight.numpy().T.astype(np.float64))
    assert (error <= bounds * (1 + 1e-3)).all()
    assert (error / bounds).max() > 0.2


def test_which_images_are_undecided() -> None:
    logits = np.array([[1, 2, 3], [3, 2.9, 0], [0, 0, 5]], np.float32)
    bounds = np.array([[0, 0, 0.4], [0.04, 0.07, 0], [9, 0, 0]], np.float32)
    assert undecided(logits, bounds).tolist() == [False, True, True]
    assert undecided(np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32)).tolist() == [False, False]
    assert undecided(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).tolist() == []
