"""Making effects: killed and stopped at any moment it goes on, and ends like a run that was not; what is in its way."""

from __future__ import annotations

import gc
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from safetensors.numpy import load_file, save_file
from small_effects import (
    IMAGES,
    INSIDE,
    LAYER,
    PART,
    add_effects,
    content,
    linked,
    refusal,
    replace,
    small_index,
)
from vitdex.query.causal.effects_plan import plan_effects
from vitdex.query.causal.effects_run import measure_effects, run_effects
from vitdex.query.commands import main as main_module
from vitdex.query.commands.info import report
from vitdex.query.index import Index
from vitdex.schemas.errors import BadIndex, DamagedIndex, ModelError, QueryError
from vitdex.schemas.integrity import verify
from vitdex.schemas.layout import Layout
from vitdex.schemas.storage import only_writer

# Runs the command line in forked children, each of which sends itself a signal soon after the n-th time that it makes,
# renames or removes something in the index.
DRIVER = """
import json, os, signal, sys, threading, time
import vitdex.query.causal.effects_run, vitdex.query.causal.effects_tables, vitdex.query.model.attribution
import vitdex.schemas.storage.zarr_group
from vitdex.query.causal import effects_plan
from vitdex.query.commands.main import main

effects_plan.PART_IMAGES = {part}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def child(root, words, said, number, event, delay):
    count = 0

    def stop():
        time.sleep(delay)
        os.kill(os.getpid(), number)

    def hook(name, args):
        nonlocal count
        changes = name in ("os.rename", "os.remove", "os.mkdir") or (name == "open" and args[2] & WRITES)
        if changes and str(args[0]).startswith(root):
            count += 1
            if count == event:
                threading.Thread(target=stop, daemon=True).start() if delay else stop()

    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["vitdex", *words]
    sys.addaudithook(hook)
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(file, f"\\n{{count}}".encode())
    os._exit(status)


for line in sys.stdin:
    asked = json.loads(line)
    process = os.fork()
    if not process:
        child(**asked)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effects")
    small_index(folder)
    return folder


@pytest.fixture
def index_path(folder: Path, tmp_path: Path) -> Path:
    return linked(folder / "out.vitdex", tmp_path / "copy.vitdex")


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed run makes."""
    copy = linked(folder / "out.vitdex", tmp_path_factory.mktemp("whole") / "copy.vitdex")
    return content(add_effects(copy, folder))


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run `vitdex effects` on an index in a process of its own: its exit status and what it said."""
    said = tmp_path_factory.mktemp("said") / "said.txt"
    script = DRIVER.format(part=PART)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as driver:
        orders, statuses = driver.stdin, driver.stdout
        assert orders is not None
        assert statuses is not None

        def run(index_path: Path, *more: str, number: int = 0, event: int = 0, delay: float = 0) -> tuple[int, str]:
            words = ["effects", str(index_path), "--masks", str(folder / "masks"), "--weights", str(folder), *more]
            asked = {"words": words, "said": str(said), "number": number, "event": event, "delay": delay}
            orders.write(json.dumps({"root": str(index_path / "extensions"), **asked}) + "\n")
            orders.flush()
            status = int(statuses.readline())
            return status, said.read_text()

        yield run
        orders.close()


def test_killed_at_ten_moments_and_repeated_is_the_same(
    folder: Path, tmp_path: Path, run: Run, whole: dict[str, Any]
) -> None:
    status, said = run(linked(folder / "out.vitdex", tmp_path / "undisturbed"))
    assert status == 0, said
    assert content(tmp_path / "undisturbed") == whole
    changes = int(said.splitlines()[-1])
    draw = random.Random(17)
    for number in range(10):
        event, delay = 1 + int((number + draw.random()) / 10 * changes), draw.choice([0, 0.02 * draw.random()])
        copy = linked(folder / "out.vitdex", tmp_path / f"copy{number}")
        status, said = run(copy, number=signal.SIGKILL, event=event, delay=delay)
        assert status == -signal.SIGKILL, (event, said)
        with Index(copy) as index:
            assert index.effects is None or verify(copy) == []
        if not (copy / INSIDE / "manifest.json").exists():
            status, said = run(copy, number=signal.SIGKILL, event=draw.randint(1, 2 * changes))  # perhaps once more
            assert status in (0, -signal.SIGKILL), said
        if not (copy / INSIDE / "manifest.json").exists():
            status, said = run(copy)
            assert status == 0, said
        assert content(copy) == whole, (event, delay)
        assert verify(copy) == []
        shutil.rmtree(copy)


def test_ctrl_c_says_how_it_goes_on(index_path: Path, run: Run, whole: dict[str, Any]) -> None:
    status, said = run(index_path, number=signal.SIGINT, event=60)
    assert status == 130
    assert "Stopped. The same command goes on where it was." in said
    assert "Traceback" not in said
    status, said = run(index_path)
    assert status == 0
    assert content(index_path) == whole
    status, said = run(index_path, "--overwrite", number=signal.SIGINT, event=90)
    assert status == 130
    assert "The same command without --overwrite goes on where it was." in said
    assert run(index_path)[0] == 0
    assert content(index_path) == whole


def test_a_run_goes_on_after_the_parts_that_are_done(index_path: Path, folder: Path, whole: dict[str, Any]) -> None:
    done: list[int] = []

    def stop(images: int, total: int) -> None:
        done.append(images)
        if images > PART:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_effects(index_path, folder, progress=stop)
    assert [finding.path for finding in verify(index_path)] == ["extensions/effects/manifest.json"]
    findings = verify(index_path)
    assert "unfinished" in findings[0].detail
    lines = report(Layout(index_path), findings)
    assert lines[-1].endswith("Repeat the 'vitdex effects' command that began it, without --overwrite: it goes on.")
    with (
        Index(index_path) as index,
        pytest.raises(QueryError, match="are unfinished. Repeat the .* without --overwrite"),
    ):
        index.key_neurons(0, by="effect")
    done.clear()
    add_effects(index_path, folder, progress=lambda images, total: done.append(images))
    assert done[0] > PART
    assert done[-1] == IMAGES
    assert content(index_path) == whole


BROKEN: dict[str, Callable[[Path], object]] = {
    "an entry is no JSON": lambda root: replace(root / "parts/00000.json", b"{"),
    "an entry of other files": lambda root: replace(
        root / "parts/00000.json", b'{"part": 0, "seconds": 1, "files": {"../../x": [1, "a"]}}'
    ),
    "a deep entry": lambda root: replace(root / "parts/00000.json", b"[" * 100_000),
    "a file is gone": lambda root: next(root.glob(f"arrays.zarr/{LAYER}/effect/c/0/*")).unlink(),
    "a file is cut": lambda root: replace(root / "arrays.zarr/logit/c/0", b"x"),
    "a replacement is gone": lambda root: (root / f"arrays.zarr/{LAYER}/replacement/c/0/0").unlink(),
    "nothing but the arrays is left": lambda root: shutil.rmtree(root / "parts"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_unfinished_run_whose_files_went_missing_redoes_them(
    kind: str, index_path: Path, folder: Path, whole: dict[str, Any]
) -> None:
    root = add_effects(index_path, folder) / INSIDE
    (root / "manifest.json").unlink()
    BROKEN[kind](root)
    if "left" in kind:
        with pytest.raises(BadIndex, match=r"holds other files\. Move them away\.$"):
            add_effects(index_path, folder)
        return
    add_effects(index_path, folder)
    assert content(index_path) == whole
    assert verify(index_path) == []


@pytest.mark.parametrize("raw", [b"{", b"[]", b'"x"', b'{"index_sha256": "a", "run": []}', b"[" * 100_000])
def test_a_damaged_run_json_is_said(raw: bytes, index_path: Path, folder: Path, whole: dict[str, Any]) -> None:
    root = add_effects(index_path, folder) / INSIDE
    (root / "manifest.json").unlink()
    replace(root / "parts" / "run.json", raw)
    with pytest.raises(BadIndex, match=r"run\.json is damaged\. Start again with --overwrite\.$"):
        add_effects(index_path, folder)
    add_effects(index_path, folder, overwrite=True)
    assert content(index_path) == whole


def test_other_settings_over_an_unfinished_run_are_refused(index_path: Path, folder: Path) -> None:
    root = add_effects(index_path, folder) / INSIDE
    with pytest.raises(BadIndex, match=r"is there already\. Give --overwrite"):
        add_effects(index_path, folder)
    (root / "manifest.json").unlink()
    with pytest.raises(BadIndex, match=r"of another run \(replace: zero now, mean there\)\. Repeat that run's command"):
        add_effects(index_path, folder, replace="zero")
    begun = json.loads((root / "parts/run.json").read_bytes())
    replace(root / "parts/run.json", json.dumps({**begun, "index_sha256": "0" * 64}).encode())
    with pytest.raises(BadIndex, match="it was begun on another index"):
        add_effects(index_path, folder)


def test_what_another_run_left_goes_with_it(index_path: Path, folder: Path) -> None:
    """Arrays of masks, where the next run has none."""
    root = add_effects(index_path, folder) / INSIDE
    (root / "manifest.json").unlink()
    (root / "parts" / "run.json").unlink()  # as where --overwrite was killed
    (root / ".tables.duckdb.partial.tmp").mkdir()
    (root / ".tables.duckdb.partial.tmp" / "duckdb_temp_storage-0.tmp").write_bytes(b"x")
    add_effects(index_path, folder, masks=False)
    assert verify(index_path) == []
    assert not list(root.rglob("*subject*")) + list(root.glob(".tables*"))


def test_two_at_once(index_path: Path, folder: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(only_writer, "PATIENCE", 0.2)
    parts = index_path / INSIDE / "parts"
    parts.mkdir(parents=True)
    with FileLock(parts / "lock"), pytest.raises(BadIndex, match=r"another run is filling .*\. Wait for it, or stop"):
        add_effects(index_path, folder)
    monkeypatch.setattr(only_writer, "PATIENCE", 60)
    said: list[str] = []

    def make() -> None:
        try:
            with Index(index_path, extensions=False) as index:
                measure_effects(index, weights=folder, device="cpu")
        except BadIndex as error:
            said.append(str(error))

    both = [threading.Thread(target=make) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(said) == 1
    assert "is there already" in said[0]
    assert verify(index_path) == []


LINKS = ["extensions", "extensions/effects", f"{INSIDE}/parts", f"{INSIDE}/parts/lock", f"{INSIDE}/parts/run.json"]
LINKS += [f"{INSIDE}/arrays.zarr", f"{INSIDE}/arrays.zarr/{LAYER}", f"{INSIDE}/.tables.duckdb.partial.tmp"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", LINKS)
def test_nothing_is_written_through_a_link(
    place: str, overwrite: bool, index_path: Path, folder: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    is_file = place.endswith(("lock", "run.json"))
    (index_path / place).parent.mkdir(parents=True, exist_ok=True)
    (index_path / INSIDE / "parts").mkdir(parents=True, exist_ok=True) if "arrays" in place or "tmp" in place else None
    (index_path / place).symlink_to(outside / "mine" if is_file else outside)
    said = refusal(lambda: add_effects(index_path, folder, overwrite=overwrite))
    if said is None:
        assert overwrite
        assert content(index_path) == whole
    else:
        assert said.endswith("Move it away.")
        assert "link" in said
    assert [(p.name, p.read_text()) for p in outside.iterdir()] == [("mine", "mine")]


def test_overwrite_makes_a_damaged_one_anew(index_path: Path, folder: Path, whole: dict[str, Any]) -> None:
    root = add_effects(index_path, folder, replace="zero", stored="float16") / INSIDE
    before = content(index_path)
    assert before != whole
    damages: tuple[Callable[[], object], ...] = (
        lambda: replace(root / "manifest.json", b"x"),
        lambda: shutil.rmtree(root / "parts"),
        lambda: shutil.rmtree(root / "arrays.zarr"),
        lambda: replace(root / "tables.duckdb", b""),
        lambda: replace(root / "tables.duckdb.wal", b"x"),
        lambda: (root / "parts" / "folder").mkdir(),
    )
    for damage in damages:
        damage()
        add_effects(index_path, folder, overwrite=True)
        assert content(index_path) == whole
        assert verify(index_path) == []


def test_other_weights_are_refused(index_path: Path, folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["blocks.0.mlp.fc1.bias"] += 1
    save_file(tensors, other := tmp_path / "other.safetensors")
    with Index(index_path) as index, pytest.raises(ModelError, match=r"^[^\n]+$"):
        measure_effects(index, weights=other)
    assert not (index_path / "extensions").exists()


def test_an_index_that_cannot_have_them_says_why(folder: Path, index_path: Path, tmp_path: Path) -> None:
    without_inputs = small_index(tmp_path / "a", inputs=False)
    with Index(without_inputs) as index, pytest.raises(QueryError, match="no inputs. Index again without --no-inputs"):
        measure_effects(index, weights=tmp_path / "a")
    with Index(index_path) as index:
        for choices, line in (
            ({"limit": 0}, "limit is 0; at least 1"),
            ({"batch_size": 0}, "batch_size is 0"),
            ({"classes": ["nothing"]}, "no class 'nothing'"),
            ({"replace": "noise"}, r"no replacement 'noise'\. One of mean, zero"),
            ({"stored": "int8"}, "no type 'int8'"),
        ):
            with pytest.raises(QueryError, match=line):
                measure_effects(index, weights=folder, **choices)
    assert not (index_path / "extensions").exists()


def test_classes_beyond_the_head_are_refused(index_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Index(index_path) as index:
        rows = index.sql("SELECT image_id, 4000000000 AS asked, true AS readable FROM images ORDER BY image_id")
        monkeypatch.setattr(index, "sql", lambda query: rows)
        with pytest.raises(DamagedIndex, match="name class 4000000000, which the head does not have"):
            plan_effects(index, weights=folder, device="cpu")


def test_a_list_of_many_classes_is_short(folder: Path, index_path: Path) -> None:
    with Index(index_path) as index:
        names = index.classes.name.tolist()
        some = plan_effects(index, classes=names[:2], weights=folder, device="cpu").spec.chosen
        assert some == f"images of {names[0]}, {names[1]}"
        plan = plan_effects(index, classes=[*names, 0, 1], limit=4, weights=folder, device="cpu")
        assert plan.spec.images == 4
        assert plan.spec.chosen.endswith("; at most 4")


def test_a_full_disk_is_one_line_and_then_it_goes_on(
    folder: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")
    try:
        copy = Path(shutil.copytree(folder / "out.vitdex", disk / "copy.vitdex"))
        monkeypatch.setattr("vitdex.query.causal.effects_place.check_room", lambda *_: None)
        for leaving in (0, 60_000, 300_000):
            filling = disk / "filling"
            filling.unlink(missing_ok=True)
            filling.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - leaving)))
            with pytest.raises((OSError, BadIndex), match="No space left|cannot be written"):
                add_effects(copy, folder)
            assert not (copy / INSIDE / "manifest.json").exists()
        filling.unlink()
        add_effects(copy, folder)
        assert content(copy) == whole
        monkeypatch.undo()
        shutil.rmtree(copy / "extensions")
        gc.collect()  # what is still mapped of these files holds room, and would give it back in between
        filling.write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
        with pytest.raises(QueryError, match=r"are needed in .* are free\. Make space, give --stored float16"):
            add_effects(copy, folder)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises((QueryError, OSError), match="cannot be written|Read-only"):
            add_effects(copy, folder)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--limit", "0"], "Invalid value for '--limit'"),
        (["--class", "nothing"], "Error: no class 'nothing'"),
        (["--weights", "nowhere"], "nowhere"),
        (["--masks", "nowhere"], "Error: no folder of masks at nowhere"),
        (["--stored", "int8"], "Invalid value for '--stored'"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], line: str, index_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["vitdex", "effects", str(index_path), *words])
    with pytest.raises(SystemExit) as end:
        main_module.main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert line in said
    assert "Traceback" not in said


def test_half_precisions_and_unreadable_images(folder: Path, tmp_path: Path) -> None:
    """A row of an unreadable image is NaN, its class -1, in the tables NULL."""
    from vitdex.indexer.from_python import build_index

    broken = Path(shutil.copytree(folder, tmp_path / "broken", ignore=shutil.ignore_patterns("out.vitdex")))
    (broken / "images" / "a" / "0.png").write_bytes(b"no picture")
    path = build_index(
        broken / "out.vitdex", model=f"local-dir:{broken}", images=broken / "images", device="cpu", workers=0
    )
    plain = add_effects(Path(shutil.copytree(path, tmp_path / "plain")), broken)
    add_effects(path, broken, stored="float16", precision="bfloat16")
    with Index(path) as half, Index(plain) as full:
        assert half.effects is not None
        assert full.effects is not None
        for effects in (half.effects, full.effects):
            assert effects.reader.whole("class")[0] == -1
            assert np.isnan(effects.of_image(LAYER, 0)).all()
            assert np.isfinite(effects.of_image(LAYER, 1)).all()
        low, high = half.effects.of_neuron(LAYER, 5)[1:], full.effects.of_neuron(LAYER, 5)[1:]
        assert half.effects.reader.specs[f"{LAYER}/effect"].dtype == "float16"
        assert np.abs(low - high).max() < 0.1 * np.abs(high).max()
        row = full.sql("FROM effect_images ORDER BY image_id").iloc[0]
        assert pd.isna(row.class_id)
        assert pd.isna(row.logit)
        counts = full.sql("SELECT class_id, any_value(n) AS n FROM class_effects GROUP BY 1 ORDER BY 1").n.tolist()
        assert sorted(counts) == [2, 3, 3]
    assert verify(path) == []


def test_images_without_a_class_are_asked_about_the_predicted_one(folder: Path, tmp_path: Path) -> None:
    from vitdex.indexer.from_python import build_index

    (tmp_path / "images").mkdir()
    for file in (folder / "images").rglob("*.png"):
        shutil.copy(file, tmp_path / "images" / file.name)
    path = build_index(
        tmp_path / "out.vitdex", model=f"local-dir:{folder}", images=tmp_path / "images", device="cpu", workers=0
    )
    add_effects(path, folder, masks=False)
    with Index(path) as index:
        both = index.sql(
            "SELECT e.class_id, i.predicted, i.class_id AS own FROM effect_images e JOIN images i USING (image_id)"
        )
        assert both.own.isna().all()
        assert (both.class_id == both.predicted).all()


def test_a_head_that_is_read_in_another_way_has_no_direct_part(tmp_path: Path) -> None:
    from other_models import index_of

    settings = {"depth": 2, "embed_dim": 48, "num_heads": 2}
    path = index_of("vit_base_patch16_siglip_224", settings, tmp_path)
    add_effects(path, tmp_path, masks=False)
    with Index(path) as index:
        assert index.effects is not None
        assert index.effects.spec.leaves == ("effect",)
        with pytest.raises(QueryError, match=r"no 'through_norm' was measured\. There are effect\."):
            index.effects.of_image(LAYER, 0, "through_norm")
        table = index.sql("FROM class_effects")
        assert table[["direct", "through_norm", "indirect"]].isna().all(axis=None)
        assert table.effect.notna().all()
        assert index.key_neurons(0, 3, "effect").effect.is_monotonic_decreasing


def test_run_effects_looks_again_once_it_is_alone(index_path: Path, folder: Path) -> None:
    with Index(index_path) as index:
        plan = plan_effects(index, weights=folder, device="cpu")
    add_effects(index_path, folder)
    with pytest.raises(BadIndex, match="is there already"):
        run_effects(plan)
