"""The house keeps its rules, and the guard that says so can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import click
import pytest
from house import ROOMS, House
from vitdex.query.commands.main import COMMANDS, cli

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
RULES = ("wrong_rooms", "wrong_wings", "circles", "needless_inside", "speaking")


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_its_rules(rule: str) -> None:
    assert getattr(House(ROOT), rule)() == []


PLANTED = [
    ("wrong_rooms", "schemas/layout.py", "from ..data.images.decode import decode"),
    ("wrong_rooms", "schemas/storage/store.py", "from ...query.stored.names import Neuron"),
    ("wrong_rooms", "data/images/folder.py", "from ...indexer import plan"),
    ("wrong_rooms", "query/lookups/neuron.py", "def f():\n    from ...indexer.plan import Plan"),
    ("wrong_rooms", "query/stored/names.py", "from vitdex.data.packaged import SAMPLE"),
    ("wrong_rooms", "query/drawing/text.py", "from importlib.resources import files\nfiles('vitdex.data')"),
    ("wrong_wings", "query/drawing/text.py", "from ..stored.names import Neuron"),
    ("wrong_wings", "query/notes/database.py", "from ..stored import sql"),
    ("wrong_wings", "query/dissect/firing.py", "from ..heatmaps.views import View"),
    ("wrong_wings", "query/causal/runs.py", "from ..dissect.masks import open_masks"),
    ("wrong_wings", "query/lookups/neuron.py", "from ..index import Index"),
    ("wrong_wings", "query/stored/maps.py", "from .. import Index"),
    ("wrong_wings", "query/index.py", "from .commands.output import show"),
    ("wrong_wings", "query/atlas/files.py", "from ..dissect.firing import firing_neurons"),
    ("wrong_wings", "query/dissect/firing.py", "from ..atlas.atlas import Atlas"),
    ("circles", "query/stored/names.py", "from .stored_index import StoredIndex"),
    ("circles", "indexer/ledger.py", "def f():\n    from .build import build"),
    ("needless_inside", "query/dissect/firing.py", "def f():\n    from ..lookups.neuron import classes_of"),
    ("speaking", "query/model/live_model.py", "from tqdm import tqdm"),
    ("speaking", "indexer/build.py", "import click"),
    ("speaking", "data/images/sources.py", "print('listed')"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms' code, to plant faults in."""
    out = tmp_path_factory.mktemp("house")
    for room in ROOMS:
        shutil.copytree(
            ROOT / room, out / room, ignore=lambda _, names: [n for n in names if n in ("sample", "__pycache__")]
        )
    return out


@pytest.mark.parametrize(("rule", "file", "line"), PLANTED)
def test_a_planted_fault_is_found(rule: str, file: str, line: str, copy: Path) -> None:
    before = (copy / file).read_text()
    (copy / file).write_text(f"{before}\n\n{line}\n")
    try:
        found = str(getattr(House(copy), rule)())
    finally:
        (copy / file).write_text(before)
    assert file in found


def test_every_folder_is_a_package_of_one_sentence_and_is_listed() -> None:
    house = House(ROOT)
    assert set(PROJECT["packages"]) == house.folders()
    for package in house.folders():
        init = (ROOT / package.removeprefix("vitdex.").replace(".", "/") / "__init__.py").read_text()
        assert init.startswith('"""')
        if package not in ("vitdex.query", "vitdex.indexer"):  # these two hand on their public names
            assert init.strip().count("\n") == 0, package


def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    there = [file for file in listed if file and (ROOT / file).is_file()]
    for file in there:
        (tmp_path / "tree" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / "tree" / file)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=tmp_path / "tree", check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"vitdex/{file}" for file in there if file.split("/")[0] in ROOMS} <= held


@pytest.mark.parametrize(
    "code",
    [
        "import vitdex.query",
        "import vitdex.indexer",
        "from click.testing import CliRunner; from vitdex.query.commands.main import cli; "
        "assert 'index' in CliRunner().invoke(cli, ['--help']).output",
        "from click.testing import CliRunner; from vitdex.query.commands.main import cli; "
        "assert '--maps' in CliRunner().invoke(cli, ['index', '--help']).output",
        "from click.testing import CliRunner; from vitdex.query.commands.main import cli; "
        "assert all(CliRunner().invoke(cli, [name, '--help']).exit_code == 0 for name in cli.list_commands(None))",
    ],
)
def test_looking_up_and_help_load_no_torch(code: str) -> None:
    heavy = "import sys; heavy = {'torch', 'timm', 'torchvision', 'zarr'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=True)


def test_stored_look_ups_load_no_torch(sample_path: Path) -> None:
    code = (
        "import sys; from vitdex.query import Index; i = Index(sys.argv[1]); i.map('blocks.0.mlp.fc1', 0, 0); "
        "i.exemplars('blocks.0.mlp.fc1', 0); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(sample_path)], check=True)


def test_first_words_load_neither_arrays_nor_tables(sample_path: Path) -> None:
    """The list of commands comes at once; what an index is, without what makes tables and pictures."""
    run = "import sys; from vitdex.query.commands.main import cli; cli(sys.argv[2:], standalone_mode=False); "
    for words, heavy in ((["--help"], {"numpy", "duckdb"}), (["info", str(sample_path)], {"pandas", "tqdm", "scipy"})):
        code = f"{run}loaded = {heavy} & set(sys.modules); assert not loaded, loaded"
        subprocess.run([sys.executable, "-c", code, "-", *words], check=True)


def test_the_list_of_commands_is_whole_and_fits_a_terminal() -> None:
    context = click.Context(cli, info_name="vitdex")
    for name, (_, line) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert f"{name.ljust(max(map(len, COMMANDS)))}  {line}" in cli.get_help(context)
