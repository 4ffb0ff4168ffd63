"""Which room may import which, what stays light, and that every folder ships."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"schemas": set(), "data": {"schemas"}, "indexer": {"schemas", "data"}, "query": {"schemas"}}


def rooms_imported_by(file: Path) -> set[str]:
    """Other rooms that a file's relative imports reach."""
    tree = ast.parse(file.read_text())
    return {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 2
    }


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for file in (ROOT / room).glob("*.py"):
        assert rooms_imported_by(file) <= MAY_IMPORT[room], file.name
        assert f"from vitdex.{room}" not in file.read_text(), "cross rooms with relative imports"


@pytest.mark.parametrize(
    "code",
    [
        "import vitdex.query",
        "from click.testing import CliRunner; from vitdex.query.commands.main import cli; "
        "assert 'index' in CliRunner().invoke(cli, ['--help']).output",
        "from click.testing import CliRunner; from vitdex.query.commands.main import cli; "
        "assert '--maps' in CliRunner().invoke(cli, ['index', '--help']).output",
        "from click.testing import CliRunner; from vitdex.query.commands.main import cli; "
        "assert all(CliRunner().invoke(cli, [name, '--help']).exit_code == 0 for name in cli.list_commands(None))",
    ],
)
def test_looking_up_and_help_load_no_torch(code: str) -> None:
    heavy = "import sys; heavy = {'torch', 'timm', 'torchvision'} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=True)


def test_stored_look_ups_load_no_torch(sample_path: Path) -> None:
    code = (
        "import sys; from vitdex.query.index import Index; i = Index(sys.argv[1]); i.map('blocks.0.mlp.fc1', 0, 0); "
        "i.exemplars('blocks.0.mlp.fc1', 0); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(sample_path)], check=True)


def test_every_room_is_flat_and_ships() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(project["packages"]) == {f"vitdex.{room}" for room in MAY_IMPORT}
    for room in MAY_IMPORT:
        below = [p for p in (ROOT / room).rglob("*.py") if p.parent != ROOT / room]
        assert not below, "a subpackage would be missing from the wheel"
    shipped = set()
    for room in MAY_IMPORT:
        for pattern in project["package-data"][f"vitdex.{room}"]:
            shipped |= set((ROOT / room).glob(pattern))
    others = {
        p
        for room in MAY_IMPORT
        for p in (ROOT / room).rglob("*")
        if p.is_file() and p.suffix != ".py" and "__pycache__" not in p.parts
    }
    assert others <= shipped
