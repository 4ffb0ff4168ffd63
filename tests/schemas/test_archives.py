"""An index of every format that was ever released stays readable, and gives the answers that it gave."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from vitdex.query import Index
from vitdex.schemas.run_spec import FORMAT_VERSION

ARCHIVES = Path(__file__).parents[1] / "archives"


def answers(index: Index) -> dict[str, Any]:
    """What make.py asked when the archive was made."""
    spec = importlib.util.spec_from_file_location("make_archive", ARCHIVES / "make.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    found: dict[str, Any] = made.answers(index)
    return found


def test_every_format_has_an_archive() -> None:
    assert {path.name for path in ARCHIVES.glob("v*")} == {f"v{n}" for n in range(1, FORMAT_VERSION + 1)}


@pytest.mark.parametrize("version", [f"v{n}" for n in range(1, FORMAT_VERSION + 1)])
def test_an_archive_answers_as_ever(version: str, tmp_path: Path) -> None:
    copy = shutil.copytree(ARCHIVES / version / "tiny", tmp_path / "tiny")
    with Index(copy) as index:
        assert index.verify() == []
        assert answers(index) == json.loads((ARCHIVES / version / "answers.json").read_text())
        assert index.manifest["run"]["images"] == 12
        whole = index.reader.whole("features")
        assert whole.shape == (12, 24)
