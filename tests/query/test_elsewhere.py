"""An index at an address answers as the same one on the disk, in few journeys, and says what goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import vitdex
from vitdex.query import Index, publish, subject_effects
from vitdex.query.atlas.atlas import Atlas
from vitdex.query.atlas.files import data_file
from vitdex.query.stored import elsewhere
from vitdex.schemas.addressed import ADDRESS, address_of, is_address
from vitdex.schemas.errors import BadIndex, DamagedIndex, QueryError, VitdexError
from vitdex.schemas.extension import ExtensionLayout, seal_extension
from vitdex.schemas.manifest import seal_manifest
from vitdex.schemas.storage.elsewhere import Elsewhere, hub_address
from web_server import Web, on_the_web

pytest.importorskip("obstore", reason="the extra vitdex[remote] is not installed")

LAYER = "blocks.4.mlp.fc1"


@pytest.fixture
def web(effects_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """The sample with effects, on the web below a folder; a cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "sample").symlink_to(effects_path)
    with on_the_web(tmp_path / "host") as found:
        yield found


@pytest.fixture
def address(web: Web) -> str:
    return f"{web.address}/sample"


def test_it_answers_as_on_the_disk(address: str, effects_path: Path) -> None:
    with Index(address) as there, Index(effects_path) as here:
        assert there.exemplars(LAYER, 473).equals(here.exemplars(LAYER, 473))
        assert there.key_neurons("coin", by="effect").equals(here.key_neurons("coin", by="effect"))
        assert np.array_equal(there.map(LAYER, 473, 17), here.map(LAYER, 473, 17))
        assert np.array_equal(there.inputs([3, 1, 400]), here.inputs([3, 1, 400]))
        assert there.heatmap(LAYER, 473, 17).picture() == here.heatmap(LAYER, 473, 17).picture()
        assert (
            there.sql("SELECT activation_map(?, 9, 8) AS m", [LAYER]).m[0].tolist()
            == here.map(LAYER, 9, 8).ravel().tolist()
        )
        assert there.effects is not None
        assert here.effects is not None
        assert np.array_equal(there.effects.of_image(LAYER, 5), here.effects.of_image(LAYER, 5))
        pages = [
            "data/neuron/4/473.json",
            "data/neuron/4/473.jpgs",
            "data/class/3.json",
            "data/image/7.json",
            "data/map.json",
        ]
        atlases = Atlas(there), Atlas(here)
        for page in pages:
            first, second = (data_file(atlas, page).content for atlas in atlases)
            if page.startswith("data/neuron") and page.endswith(".json"):
                assert f'Index("{address}")' in json.loads(first)["code"]["python"]
            if page.endswith(".json"):
                first, second = (json.dumps({**json.loads(c), "code": ""}).encode() for c in (first, second))
            assert first == second, page


def test_what_reads_effects_answers_as_on_the_disk(web: Web, address: str, effects_path: Path) -> None:
    with Index(address) as there, Index(effects_path) as here:
        assert there.effects is not None
        assert here.effects is not None
        since, web.delay = len(web.asked), 0.03
        assert np.array_equal(there.effects.of_neuron(LAYER, 473), here.effects.of_neuron(LAYER, 473))
        assert web.journeys(since) <= 2  # the first size, all parts together
        web.delay = 0
        for leaf in here.effects.spec.leaves:
            assert np.array_equal(there.effects.of_image(LAYER, 83, leaf), here.effects.of_image(LAYER, 83, leaf))
        for table in ("class_effects", "effect_images"):
            query = f"FROM {table} ORDER BY ALL LIMIT 1000"
            assert there.sql(query).equals(here.sql(query))
        for answer in (
            lambda index: subject_effects(index, k=2, random=2, images=2).to_csv(),
            lambda index: index.heatmap(LAYER, 473, 17, view="effect").picture(),
        ):
            assert answer(there) == answer(here)


def test_effects_of_another_kind_are_said_of_their_address(web: Web, address: str, effects_path: Path) -> None:
    (web.folder / "sample").unlink()
    copy = Path(shutil.copytree(effects_path, web.folder / "sample", copy_function=os.link))
    file = ExtensionLayout.of(copy, "effects").manifest
    content: Any = json.loads(file.read_bytes())
    content["run"]["part_images"] = 10**9
    del content["format"], content["format_version"], content["sha256"]
    file.unlink()
    file.write_bytes(seal_extension(content))
    with pytest.raises(BadIndex, match=r"/sample/extensions/effects/manifest\.json describes no effects") as raised:
        Index(address)
    assert str(raised.value).startswith(address)
    assert str(raised.value).endswith("Ask whoever put it there.")


def test_few_journeys_and_few_bytes(web: Web, address: str) -> None:
    with Index(address) as index:
        web.delay = 0.03

        def asked(ask: object) -> tuple[int, int]:
            since = len(web.asked)
            ask()  # type: ignore[operator]
            return web.journeys(since), web.bytes(since)

        chunks = {leaf: index.reader.specs[f"{LAYER}/{leaf}"].chunk_bytes for leaf in ("map", "min", "max")}
        assert asked(lambda: index.exemplars(LAYER, 473))[0] <= 1
        journeys, size = asked(lambda: index.map(LAYER, 473, 17))
        assert journeys == 1
        assert size == sum(chunks.values())
        assert asked(lambda: index.map(LAYER, 473, 17)) == (0, 0)  # held
        neurons = [f"{LAYER}:{unit}" for unit in (3, 40, 200, 473, 700)]
        assert asked(lambda: index.heatmaps(neurons, images=[1, 99, 200, 300, 470]).picture())[0] <= 10


def test_tables_come_once(web: Web, address: str) -> None:
    told: list[tuple[int, int]] = []
    elsewhere.brought(address, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    since = len(web.asked)
    with Index(f"{address}/") as index:
        assert len(index.classes) == 12
    assert [path for _, path, _ in web.asked[since:]] == [
        "sample/manifest.json",
        "sample/extensions/effects/manifest.json",
    ]


def test_what_changes_behind_an_address_is_another_index(web: Web, address: str, effects_path: Path) -> None:
    with Index(address) as before:
        (web.folder / "sample").unlink()
        shutil.copytree(effects_path, web.folder / "sample", ignore=shutil.ignore_patterns("extensions"))
        with Index(address) as after:
            assert (before.effects is None, after.effects is None) == (False, True)
            assert before.layout.root != after.layout.root
        with pytest.raises(DamagedIndex, match="may have been changed or removed"):
            before.effects.of_image(LAYER, 5)  # type: ignore[union-attr]


def test_a_broken_connection_is_tried_again_and_then_said(web: Web, address: str) -> None:
    with Index(address) as index, Index(web.folder / "sample") as here:
        state = {"broken": 1}

        def once(path: str) -> int:
            state["broken"] -= 1
            return 503 if state["broken"] >= 0 else 200

        web.status = once
        assert np.array_equal(index.map(LAYER, 473, 17), here.map(LAYER, 473, 17))
        state["broken"] = 10**6
        with pytest.raises(BadIndex, match=r"cannot be reached\. Look at the address and the connection"):
            index.map(LAYER, 473, 400)
        web.status, web.breaks = (lambda path: 200), (lambda path: True)
        with pytest.raises(BadIndex, match="cannot be reached"):
            index.map(LAYER, 473, 400)


def test_what_is_no_index_is_said_in_a_line(web: Web, address: str, effects_path: Path) -> None:
    def said(address: str) -> str:
        with pytest.raises(VitdexError) as raised:
            Index(address)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "there is no index at" in said(f"{web.address}/other")
    web.status = lambda path: 403
    assert "may not be read" in said(address)
    web.status = lambda path: 200
    (web.folder / "other").mkdir()
    for content, fault in (
        (b"<html>", "not a vitdex index"),
        ((effects_path / "manifest.json").read_bytes()[:-40], "index"),
    ):
        (web.folder / "other" / "manifest.json").write_bytes(content)
        assert fault in (line := said(f"{web.address}/other"))
        assert f"{web.address}/other" in line
    shutil.copy(effects_path / "manifest.json", web.folder / "other")
    (web.folder / "other" / "index.duckdb").write_bytes(b"x" * 100)
    assert "is not what the manifest says" in said(f"{web.address}/other")
    assert not elsewhere.cached()  # nothing of these is kept
    web.ranges = False
    with Index(address) as index, pytest.raises(BadIndex, match="does not answer ranges"):
        index.map(LAYER, 473, 17)


def test_secrets_are_in_no_line(web: Web) -> None:
    host = web.address.removeprefix("http://")
    for address in (
        f"http://me:s3cret@{host}/none?key=s3cret",
        "s3://me:s3cret@bucket/none?key=s3cret",
        "http://127.0.0.1:9/x?s3cret",
    ):
        with pytest.raises(VitdexError) as raised:
            Index(address)
        assert "s3cret" not in str(raised.value)


def test_what_writes_wants_it_here(address: str, tmp_path: Path) -> None:
    (tmp_path / "said.csv").write_text("layer,unit,description\nblocks.4.mlp.fc1,3,round\n")
    for words in (
        ["effects", address],
        ["import", "descriptions", address, tmp_path / "said.csv", "--source", "me"],
    ):
        ended = vitdex(*words)
        assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
        assert "on this machine" in ended.stderr
        assert "Download it first." in ended.stderr
    with Index(address) as index, pytest.raises(QueryError, match="on this machine"):
        _ = index.arrays


def test_a_web_server_is_verified(web: Web, address: str) -> None:
    ended = vitdex("verify", address)
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.startswith(f"{address} is whole: ")
    broken = f"activations.zarr/{LAYER}/max/c/0/0"
    web.status = lambda path: 404 if path.endswith(broken) else 200
    with Index(address) as index:
        found = index.verify()
        assert [(one.path, one.fault) for one in found] == [(broken, "missing")]
        assert index.verify(quick=True) == found
    ended = vitdex("verify", address)
    assert (ended.returncode, "publish it again from a copy" in ended.stdout) == (1, True)


def test_a_bucket_is_verified(bucket: str, effects_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = f"{bucket}/a"
    with Index(effects_path) as index:
        publish(index, address)
    there = Elsewhere(address)
    with Index(address) as index:
        assert index.verify() == []
        files = {"activations.zarr/valid/c/0": b"short", "extensions/effects/parts/run.json": b"{}", "stray.txt": b"x"}
        logits = bytearray(there.content("activations.zarr/logits/c/0/0", 10**9) or b"")
        logits[7] ^= 1
        for path, content in {**files, "activations.zarr/logits/c/0/0": bytes(logits)}.items():
            there.put(path, content)
        found = {(one.path, one.fault) for one in index.verify()}
        quick = {(one.path, one.fault) for one in index.verify(quick=True)}
    damaged = {(path, "foreign" if path == "stray.txt" else "damaged") for path in files}
    assert quick == damaged
    assert found == damaged | {("activations.zarr/logits/c/0/0", "damaged")}


def test_commands_take_addresses(address: str, effects_path: Path) -> None:
    for words in (["top", "--class", "coin"], ["info"], ["sql", "SELECT count(*) FROM neurons"]):
        verb, *rest = words
        there, here = (vitdex(verb, where, *rest) for where in (address, effects_path))
        assert (there.returncode, there.stdout) == (0, here.stdout), there.stderr
    ended = vitdex("cache")
    assert address in ended.stdout
    assert vitdex("cache", "--clear").returncode == 0
    assert "0 indexes" in vitdex("cache").stdout


def _map(index: Index) -> list[float]:
    return list(index.map(LAYER, 473, 17).ravel())


def test_other_processes(address: str) -> None:
    """A new process opens it for itself; a forked one says why it cannot, and does not wait for ever."""
    with Index(address) as index:
        own = _map(index)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(_map, [index]) == own
        index.reader.store.close()
        said = multiprocessing.get_context("fork").Queue()
        child = multiprocessing.get_context("fork").Process(target=_refused, args=[index, said], daemon=True)
        child.start()
        assert "'spawn'" in said.get(timeout=60)
        child.join()


def _refused(index: Index, said: Any) -> None:
    with pytest.raises(QueryError) as raised:
        _map(index)
    said.put(str(raised.value))


def test_the_cache_has_a_limit(web: Web, address: str, effects_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Index(address).close()
    (web.folder / "again").symlink_to(effects_path)
    (first,) = elsewhere.cached()
    os.utime(first.folder / ADDRESS, (1, 1))
    monkeypatch.setattr(elsewhere, "LIMIT", first.bytes * 3 // 2)
    Index(f"{web.address}/again").close()
    assert [one.address for one in elsewhere.cached()] == [f"{web.address}/again"]


def test_a_strangers_folder_makes_nobody_ask_an_address(web: Web, effects_path: Path, tmp_path: Path) -> None:
    shutil.copytree(effects_path, tmp_path / "stranger")
    (tmp_path / "stranger" / ADDRESS).write_text(json.dumps({"address": web.address}))
    assert address_of(tmp_path / "stranger") is None
    with Index(tmp_path / "stranger") as index:
        index.map(LAYER, 473, 17)
    assert not web.asked


def test_a_manifest_that_leads_elsewhere_is_refused(web: Web, effects_path: Path, tmp_path: Path) -> None:
    manifest = json.loads((effects_path / "manifest.json").read_text())
    for name in ("sha256", "format", "format_version"):
        manifest.pop(name)
    manifest["files"] = {
        ("../out" if path == "index.duckdb" else path): facts for path, facts in manifest["files"].items()
    }
    (web.folder / "bad").mkdir()
    (web.folder / "bad" / "manifest.json").write_bytes(seal_manifest(manifest))
    with pytest.raises(BadIndex, match="is no file of an index"):
        Index(f"{web.address}/bad")


def test_addresses() -> None:
    assert all(is_address(one) for one in ("https://a/b", "s3://b", "hf://datasets/o/n"))
    assert not any(is_address(one) for one in ("C:/x", "a/b", "file:///x", "https:///"))
    root = hub_address("hf://datasets/o/n").rsplit("/datasets", 1)[0]
    assert hub_address("hf://datasets/o/n@v1/a/b.vitdex") == f"{root}/datasets/o/n/resolve/v1/a/b.vitdex"
    for wrong in ("hf://datasets/o", "hf://models/o/n", "hf://datasets/o/n/../x"):
        with pytest.raises(BadIndex, match="no data set of the hub"):
            hub_address(wrong)
