"""One Index asked by many at once: threads, asyncio, forked and spawned workers, copies by pickle; after a change of
folder. Whoever asks gets the answers that one thread alone gets.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import random
import shutil
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import duckdb
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset
from vitdex.query import class_images, import_descriptions, top_images
from vitdex.query.index import Index
from vitdex.schemas.errors import QueryError

QUESTIONS = 90
KINDS = 9
THREADS = 8


def question(index: Index, number: int) -> str:
    """What one of many different questions is answered with."""
    layers = index.hidden_layers
    layer, unit, image = layers[number % len(layers)].name, number * 37 % 300, number * 11 % index.spec.images
    class_ = number % len(index.classes)
    kind = number % KINDS
    try:
        if kind == 0:
            return repr(index.sql("SELECT path, width FROM images WHERE image_id = ?", [image]).to_dict("records"))
        if kind == 1:
            return repr(index.map(layer, unit, image).tolist())
        if kind == 2:
            found = index.sql("SELECT activation_map(?, ?, ?) AS pre", [layer, unit, image])
            return repr([list(map(float, values)) for values in found.pre])
        if kind == 3:
            return repr(index.exemplars(layer, unit, 5).to_dict("records"))
        if kind == 4:
            return repr(index.key_neurons(class_, 5).to_dict("records"))
        if kind == 5:
            return repr(top_images(index, [(layer, unit)], 5).to_dict("records"))
        if kind == 6:
            return repr(class_images(index, class_, 4).to_dict("records"))
        if kind == 7:  # an error of our own function
            return repr(index.sql("SELECT activation_map('no layer', ?, 1)", [number]))
        return repr(index.sql(f"SELECT nothing_{number} FROM images"))  # one of DuckDB
    except QueryError as error:
        return str(error)


@pytest.fixture
def own(sample_path: Path, tmp_path: Path) -> Iterator[Index]:
    """An index that may be written beside."""
    with Index(shutil.copytree(sample_path, tmp_path / "own.vitdex")) as index:
        yield index


@pytest.fixture(scope="module")
def answers(sample_path: Path) -> list[str]:
    with Index(sample_path) as index:
        return [question(index, number) for number in range(QUESTIONS)]


def ask_from_threads(index: Index, answers: list[str], each: int) -> list[str]:
    """What differed, with notes written all the while."""
    wrong: list[str] = []

    def ask(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(each):
            number = draw.randrange(QUESTIONS)
            try:
                if (got := question(index, number)) != answers[number]:
                    wrong.append(f"{number}: {got[:200]}")
            except BaseException as error:
                wrong.append(f"{number}: {error!r}")

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(THREADS)]
    for thread in threads:
        thread.start()
    table = index.layout.root.with_name("d.csv")
    table.write_text("layer,unit,description\nblocks.5.mlp.fc1,16,a thing\n", encoding="utf-8")
    while any(thread.is_alive() for thread in threads):
        import_descriptions(index, table, "somebody")
        time.sleep(0.3)
    return wrong


def test_threads_get_their_own_answers(own: Index, answers: list[str]) -> None:
    assert ask_from_threads(own, answers, each=30) == []
    assert len(own.sql("FROM descriptions")) == 1


@pytest.mark.soak
def test_threads_get_their_own_answers_long(own: Index, answers: list[str]) -> None:
    assert ask_from_threads(own, answers, each=1000) == []


def test_threads_of_asyncio(sample: Index, answers: list[str]) -> None:
    async def ask() -> list[str]:
        return await asyncio.gather(*(asyncio.to_thread(question, sample, number) for number in range(2 * KINDS)))

    assert asyncio.run(ask()) == answers[: 2 * KINDS]


def test_a_long_question_keeps_nobody_waiting(sample: Index) -> None:
    said: list[str] = []

    def ask() -> None:
        try:
            sample.sql("SELECT max(a.range * b.range) FROM range(1000000) a, range(1000000) b", timeout=2)
        except QueryError as error:
            said.append(str(error))

    long = threading.Thread(target=ask)
    long.start()
    time.sleep(0.3)
    assert sample.sql("SELECT count(*) AS n FROM images").n[0] == sample.spec.images
    assert long.is_alive()
    long.join()
    assert said == ["stopped after 2 s. Ask for less, or give more time (--timeout)."]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
@pytest.mark.parametrize("asked", [True, False])
def test_forked_workers(sample_path: Path, answers: list[str], asked: bool) -> None:
    with Index(sample_path) as index:
        if asked:
            question(index, 2)
        global _inherited
        _inherited = index
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map_async(_ask_inherited, range(KINDS)).get(60) == answers[:KINDS]
        assert question(index, 2) == answers[2]  # the children took nothing with them


_inherited: Index


def _ask_inherited(number: int) -> str:
    return question(_inherited, number)


FORKED = """
import gc, os, sys
from vitdex.query.index import Index
index = Index(sys.argv[1])
index.sql("SELECT activation_map('blocks.0.mlp.fc1', 1, 2)")
child = os.fork()
if not child:
    del index
    gc.collect()
    with Index(sys.argv[1]) as index:
        index.sql("SELECT activation_map('blocks.0.mlp.fc1', 1, 2)")
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
index.sql("SELECT max(a.path || b.path || c.image_id) FROM images a, images b, range(20) c(image_id)")
print(os.path.isdir(index.sql("SELECT current_setting('temp_directory') AS place").place[0]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
@pytest.mark.skipif(duckdb.__version__ < "2", reason="DuckDB before 2 aborts where a bare child of os.fork exits")
def test_a_forked_child_leaves_what_is_its_parents(sample_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(sample_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_pickled_to_new_workers(sample: Index, answers: list[str], method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip("not on this system")
    pool: Pool = multiprocessing.get_context(method).Pool(1)
    with pool:
        given = [(sample, number) for number in range(KINDS)]
        assert pool.starmap_async(question, given).get(120) == answers[:KINDS]


class Maps(Dataset[float]):
    def __init__(self, index: Index) -> None:
        self.index = index

    def __len__(self) -> int:
        return 40

    def __getitem__(self, number: int) -> float:
        query = "SELECT list_sum(activation_map('blocks.3.mlp.fc1', 5, ?)) AS total"
        stored = float(np.asarray(self.index.arrays["blocks.3.mlp.fc1/max"])[number, 5])
        assert np.isclose(stored, self.index.map("blocks.3.mlp.fc1", 5, number).max(), atol=1e-4)
        return float(self.index.sql(query, [number]).total[0])


def test_workers_of_a_data_loader(sample: Index) -> None:
    wanted = [Maps(sample)[number] for number in range(40)]
    got = DataLoader(Maps(sample), batch_size=10, num_workers=2, timeout=60)
    assert np.allclose(np.concatenate([batch.numpy() for batch in got]), wanted, atol=1e-3)


def test_a_pickled_index_is_where_it_lies(sample: Index) -> None:
    with pickle.loads(pickle.dumps(sample)) as copied:
        assert type(copied) is Index
        assert copied.layout.root == sample.layout.root
        assert copied.exemplars("blocks.0.mlp.fc1", 1).equals(sample.exemplars("blocks.0.mlp.fc1", 1))


def test_a_change_of_folder(sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sample_path.parent)
    link = tmp_path / "latest"
    link.symlink_to(sample_path)
    with Index(sample_path.name) as relative, Index(link) as linked:
        monkeypatch.chdir(tmp_path)
        link.unlink()
        for index in (relative, linked):
            assert index.sql("SELECT count(*) AS n FROM images").n[0] == index.spec.images
            assert index.map("blocks.0.mlp.fc1", 1, 3).shape == index.spec.grid
            assert index.verify(quick=True) == []


def test_an_index_that_nobody_closes_is_let_go(sample_path: Path) -> None:
    index = Index(sample_path)
    index.sql("SELECT activation_map('blocks.0.mlp.fc1', 1, 2)")
    seen = weakref.ref(index)
    del index
    gc.collect()
    assert seen() is None
