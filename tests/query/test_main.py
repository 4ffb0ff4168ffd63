"""What the command line says of errors and warnings that are not its own."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from vitdex.query.commands import main as module
from vitdex.schemas.errors import VitdexWarning


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_a_line(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(words: list[str], standalone_mode: bool) -> None:
        raise error

    monkeypatch.setattr(module, "cli", fails)
    with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
        module.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    assert said.endswith("A smaller --batch-size needs less.")


def test_other_errors_of_torch_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(words: list[str], standalone_mode: bool) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(module, "cli", fails)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), warnings.catch_warnings():
        module.main()


def test_our_own_warnings_are_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def warns(words: list[str], standalone_mode: bool) -> None:
        print(warnings.formatwarning("batches are \x1b slow", VitdexWarning, "a.py", 1), end="", file=sys.stderr)

    monkeypatch.setattr(module, "cli", warns)
    with warnings.catch_warnings():
        module.main()
    assert capsys.readouterr().err == "Warning: batches are \\x1b slow.\n"
