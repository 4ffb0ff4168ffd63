"""What is published is the same index elsewhere, or the cut that a run would have made; never half of one."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from conftest import vitdex
from vitdex.indexer.build import Quiet, build
from vitdex.indexer.plan import sample_request
from vitdex.query import Index, publish, verify
from vitdex.query.export import hub
from vitdex.query.export.destinations import Bucket, Folder, Outgoing
from vitdex.query.stored.stored_index import StoredIndex
from vitdex.schemas.database import TABLES_SQL, declared
from vitdex.schemas.errors import BadIndex, DamagedIndex, QueryError, VitdexError
from vitdex.schemas.manifest import seal_manifest
from web_server import Web, on_the_web

LAYER = "blocks.4.mlp.fc1"
MAP = f"activations.zarr/{LAYER}/map/c/1/0/0"
MARKER = "parts/publish.partial"


@pytest.fixture(scope="module")
def cut_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample as a run makes it with the maps of exemplars alone."""
    out = tmp_path_factory.mktemp("cut") / "cut.vitdex"
    return build(sample_request(out, part_images=100, device="cpu", maps="exemplars"), Quiet())


@pytest.fixture
def copy(sample_path: Path, tmp_path: Path) -> Path:
    """A sample of this test's own."""
    return Path(shutil.copytree(sample_path, tmp_path / "copy.vitdex"))


def published(source: Path, dest: str | Path, **options: Any) -> Any:
    with StoredIndex(source) as index:
        return publish(index, dest, **options)


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def stopped(after: int, source: Path, dest: str | Path, kind: Any = Folder, **options: Any) -> None:
    """Publish, and Ctrl-C when so many files are sent."""
    put, sent = kind.put, [0]

    def counted(self: Any, file: Outgoing, advance: Callable[[int], object]) -> None:
        sent[0] += 1
        if sent[0] > after:
            raise KeyboardInterrupt
        put(self, file, advance)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "put", counted)
        with pytest.raises(KeyboardInterrupt):
            published(source, dest, **options)


def test_a_folder_holds_the_same_index(effects_path: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(effects_path, tmp_path / "source"))
    (source / "notes").mkdir()
    (source / "notes" / "mine.txt").write_text("mine")
    before = files_in(source)
    told: list[tuple[int, int]] = []
    done = published(source, tmp_path / "out", progress=lambda now, total: told.append((now, total)))
    there = files_in(tmp_path / "out")
    assert "parts/lock" not in there
    assert before == files_in(source)
    card = there.pop("README.md").decode()
    kept = {k: v for k, v in before.items() if not k.startswith("notes") and not k.endswith("lock")}
    assert there == kept
    assert told[-1] == (2 * done.bytes, 2 * done.bytes)
    assert done.files == len(there) - 2  # two manifests
    assert verify(tmp_path / "out") == []
    assert str(tmp_path) not in card
    assert "holds the images' pixels" in card
    assert published(source, tmp_path / "out").there_before == done.files


def test_a_bucket_is_asked_like_the_folder(effects_path: Path, bucket: str) -> None:
    ended = vitdex("publish", effects_path, f"{bucket}/sample")
    assert ended.returncode == 0, ended.stderr
    assert f"{bucket}/sample is published" in ended.stdout
    with Index(f"{bucket}/sample") as there, Index(effects_path) as here:
        assert there.key_neurons("coin", by="effect").equals(here.key_neurons("coin", by="effect"))
    found = Bucket(f"{bucket}/sample")
    assert MARKER not in found.sizes()
    card = found.content("README.md")
    assert card is not None
    assert f'Index("{bucket}/sample")'.encode() in card
    again = vitdex("publish", effects_path, f"{bucket}/sample")
    assert "of them there before" in again.stdout


def test_a_bucket_goes_on_and_mends(sample_path: Path, bucket: str) -> None:
    stopped(60, sample_path, f"{bucket}/a", Bucket)
    with pytest.raises(BadIndex, match="there is no index at"):
        Index(f"{bucket}/a")
    there = Bucket(f"{bucket}/a")
    sizes = there.sizes()
    some = next(key for key in sizes if key.startswith("activations.zarr") and "/c/" in key)
    there.there.put(some, b"x" * sizes[some])  # of the right size
    done = published(sample_path, f"{bucket}/a")
    assert 0 < done.there_before < done.files
    assert b"".join(there.pieces(some)) == (sample_path / some).read_bytes()
    with Index(f"{bucket}/a") as index:
        assert len(index.classes) == 12


def test_killed_and_repeated(sample_path: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: no index, and the same command goes on; what was begun by another is not taken up."""
    code = (
        "import os, signal, sys\n"
        "from vitdex.query.export.destinations import Folder\n"
        "put, sent = Folder.put, []\n"
        "def counted(self, file, advance):\n"
        "    sent.append(file)\n"
        "    len(sent) > 90 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    put(self, file, advance)\n"
        "Folder.put = counted\n"
        "from vitdex.query.commands.main import main\n"
        "main()"
    )
    words = ["publish", str(sample_path), str(tmp_path / "out"), "--maps", "exemplars"]
    ended = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with pytest.raises(BadIndex, match="is unfinished. Repeat the 'vitdex publish' command"):
        Index(tmp_path / "out")
    with pytest.raises(BadIndex, match="another unfinished index"):
        published(sample_path, tmp_path / "out")
    again = vitdex(*words)
    assert again.returncode == 0, again.stderr
    assert "of them there before" in again.stdout
    assert verify(tmp_path / "out") == []


def test_ctrl_c_says_what_to_do(sample_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while maps are made: those that are made are not made again."""
    from vitdex.query.export.map_cut import MapCut

    made: list[str] = []
    make = MapCut.make

    def counted(self: MapCut, key: str) -> memoryview:
        made.append(key)
        if len(made) == 4:
            raise KeyboardInterrupt
        return make(self, key)

    monkeypatch.setattr(MapCut, "make", counted)
    with pytest.raises(KeyboardInterrupt):
        published(sample_path, tmp_path / "out", maps="exemplars")
    published(sample_path, tmp_path / "out", maps="exemplars")
    assert len(made) == 4 + 3  # of 6 layers
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize("maps", [None, "exemplars"])
def test_a_damaged_file_is_not_vouched_for(copy: Path, tmp_path: Path, maps: Any, bucket: str) -> None:
    damaged = copy / (MAP if maps else f"activations.zarr/{LAYER}/max/c/1/0")
    content = bytearray(damaged.read_bytes())
    for at in range(0, len(content), 1000):
        content[at] ^= 1
    damaged.write_bytes(content)
    for dest in (str(tmp_path / "out"), f"{bucket}/out"):
        with pytest.raises(DamagedIndex) as raised:
            published(copy, dest, maps=maps)
        assert damaged.relative_to(copy).as_posix() in str(raised.value)
        assert "--repair" in str(raised.value)
        with pytest.raises(BadIndex):
            Index(dest)
    assert f"activations.zarr/{LAYER}/max/c/1/0" not in Bucket(f"{bucket}/out").sizes() or maps


def test_what_is_in_the_way(copy: Path, sample_path: Path, cut_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    published(cut_path, out)
    with pytest.raises(BadIndex, match="holds another finished index.*--overwrite"):
        published(sample_path, out)
    (out / "README.md").write_text("mine")
    published(sample_path, out, overwrite=True)
    assert verify(out) == []
    assert (out / "README.md").read_text() != "mine"
    assert (out / "manifest.json").read_bytes() == (sample_path / "manifest.json").read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(BadIndex, match="other files, such as thesis.tex"):
            published(sample_path, tmp_path / "other", **options)
    for place in (copy, copy / "inside", copy.parent):
        with pytest.raises(BadIndex, match="lie in each other"):
            published(copy, place)
    for refused, fault in (
        ("https://example.org/a", "cannot be written to"),
        (str(cut_path / "manifest.json"), "is a file"),
    ):
        with pytest.raises(BadIndex, match=fault):
            published(sample_path, refused)


def test_overwriting_takes_the_manifest_first(sample_path: Path, cut_path: Path, tmp_path: Path) -> None:
    published(cut_path, tmp_path / "out")
    stopped(30, sample_path, tmp_path / "out", overwrite=True)
    with pytest.raises(BadIndex, match="unfinished"):
        Index(tmp_path / "out")
    assert published(sample_path, tmp_path / "out", overwrite=True).there_before > 0
    assert verify(tmp_path / "out") == []


def test_the_cut_is_what_a_run_makes(sample_path: Path, cut_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    published(sample_path, out, maps="exemplars")
    there, by_run = files_in(out), files_in(cut_path)
    for path in by_run:
        if path.startswith("activations.zarr/") or path == "parts/run.json":
            assert there[path] == by_run[path], path
    assert set(there) - {"README.md"} == set(by_run) - {"parts/lock"}
    entries = [json.loads(files["parts/00001.json"]) for files in (there, by_run)]
    assert {**entries[0], "seconds": 0} == {**entries[1], "seconds": 0}
    assert verify(out) == []
    with Index(out) as cut, Index(cut_path) as made:
        for table in declared(TABLES_SQL):
            assert cut.sql(f"FROM {table} ORDER BY ALL").equals(made.sql(f"FROM {table} ORDER BY ALL")), table
        image = int(made.exemplars(LAYER, 473).image_id[0])
        assert cut.map(LAYER, 473, image).tolist() == made.map(LAYER, 473, image).tolist()
    assert "maps: of each neuron's top 100" in there["README.md"].decode()


def test_what_has_no_cut(cut_path: Path, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="alone already"):
        published(cut_path, tmp_path / "out", maps="exemplars")
    halves = tmp_path / "halves.vitdex"
    build(sample_request(halves, device="cpu", maps="float16", limit=24), Quiet())
    with pytest.raises(QueryError, match=r"float16.*Index again"):
        published(halves, tmp_path / "out", maps="exemplars")
    assert not (tmp_path / "out").exists()


def test_effects_go_with_the_cut(effects_path: Path, tmp_path: Path) -> None:
    """Bound to it, and to no other; an extension of an unknown kind, or an unfinished one, is left out and said."""
    source = Path(shutil.copytree(effects_path, tmp_path / "source"))
    (source / "extensions" / "begun" / "parts").mkdir(parents=True)
    (source / "extensions" / "begun" / "parts" / "run.json").write_text("{}")
    done = published(source, tmp_path / "out", maps="exemplars")
    assert done.notes == ["extensions/begun is unfinished and was left out"]
    effects = tmp_path / "out" / "extensions" / "effects"
    said = [json.loads((effects / name).read_text())["index_sha256"] for name in ("manifest.json", "parts/run.json")]
    assert said[0] == said[1]
    assert verify(tmp_path / "out") == []
    with Index(tmp_path / "out") as there, Index(effects_path) as here:
        assert there.key_neurons("coin", by="effect").equals(here.key_neurons("coin", by="effect"))
    ended = vitdex("effects", tmp_path / "out")
    assert "is there already" in ended.stderr
    again = published(source, tmp_path / "out", maps="exemplars")
    assert again.there_before == again.files - 1  # run.json of effects names the index: written with the last


class FakeApi:
    """A hub of one data set in a folder, where Elsewhere's reading finds it."""

    def __init__(self, root: Path) -> None:
        self.root, self.commits = root, 0

    def create_repo(self, repo_id: str, *, repo_type: str, exist_ok: bool) -> None:
        assert (repo_type, exist_ok) == ("dataset", True)
        self._of(repo_id).mkdir(parents=True, exist_ok=True)
        (self._of(repo_id) / ".gitattributes").write_text("")

    def list_repo_tree(self, repo_id: str, *, repo_type: str, recursive: bool) -> Iterator[Any]:
        for path in self._of(repo_id).rglob("*"):
            name = path.relative_to(self._of(repo_id)).as_posix()
            yield SimpleNamespace(path=name, **({"size": path.stat().st_size} if path.is_file() else {}))

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str, repo_type: str) -> None:
        self.commits += 1
        for one in operations:
            path = self._of(repo_id) / one.path_in_repo
            if isinstance(one, huggingface_hub.CommitOperationDelete):
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with one.as_file() as file:
                path.write_bytes(file.read())

    def _of(self, repo_id: str) -> Path:
        return self.root / "datasets" / repo_id / "resolve" / "main"


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Web, FakeApi]]:
    (tmp_path / "hub").mkdir()
    with on_the_web(tmp_path / "hub") as web:
        api = FakeApi(tmp_path / "hub")
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", web.address)
        monkeypatch.setattr("vitdex.schemas.storage.elsewhere.RETRIES", {"max_retries": 0})
        monkeypatch.setenv("AWS_ENDPOINT_URL", web.address)  # which lets plain http pass
        monkeypatch.setattr(hub, "_hf_api", lambda: api)
        yield web, api


@pytest.mark.parametrize("inside", ["", "/sets/sample.vitdex"])
def test_a_data_set_of_the_hub(fake_hub: tuple[Web, FakeApi], sample_path: Path, inside: str) -> None:
    _, api = fake_hub
    address = f"hf://datasets/me/neurons{inside}"
    done = published(sample_path, address)
    assert api.commits < 12
    folder = api.root / f"datasets/me/neurons/resolve/main{inside}"
    there = files_in(folder)
    assert verify(folder) == []
    card = there["README.md"].decode()
    assert card.startswith("---\npretty_name:")
    assert "size_categories:\n- n<1K\n---\n" in card
    assert f'Index("{address}")' in card
    with Index(address) as found, Index(sample_path) as here:
        assert found.key_neurons("coin").equals(here.key_neurons("coin"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    again = published(sample_path, address)
    assert again.there_before == done.files
    assert again.notes == ["README.md was there and stays as it is"]
    with pytest.raises(BadIndex, match="names a revision"):
        published(sample_path, "hf://datasets/me/neurons@v1")


def test_no_secret_in_a_line(fake_hub: tuple[Web, FakeApi], sample_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused(Exception):
        response = SimpleNamespace(status_code=403)

    def refuse(*_: Any, **__: Any) -> None:
        raise Refused("https://hub/?token=s3cret")

    monkeypatch.setattr(FakeApi, "create_commit", refuse)
    monkeypatch.setattr(Refused, "response", SimpleNamespace(status_code=500))
    with pytest.raises(BadIndex, match="cannot be written. Look at its name") as failed:
        published(sample_path, "hf://datasets/me/y")
    assert "s3cret" not in str(failed.value)
    monkeypatch.setattr(Refused, "response", SimpleNamespace(status_code=403))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    for dest, fault in (("hf://datasets/me/x", "may not be written"), ("s3://me:s3cret@b/x?key=s3cret", "no address")):
        with pytest.raises(VitdexError, match=fault) as raised:
            published(sample_path, dest)
        assert "s3cret" not in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_card_says_what_a_stranger_says_as_text(copy: Path, tmp_path: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    for name in ("sha256", "format", "format_version"):
        manifest.pop(name)
    manifest["notes"] = ["`</script>[a](https://evil)`\n# title"]
    (copy / "manifest.json").write_bytes(seal_manifest(manifest))
    published(copy, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- `'</script>[a](https://evil)'\\n# title`\n" in card


def test_an_index_at_an_address_is_refused(sample_path: Path, bucket: str, tmp_path: Path) -> None:
    published(sample_path, f"{bucket}/a")
    ended = vitdex("publish", f"{bucket}/a", tmp_path / "out")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert "Download it first." in ended.stderr
