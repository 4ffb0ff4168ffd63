"""Blocks of code in a markdown page, and how each is run: on a copy of the sample, as a reader would.

    page = Page(folder)                     # a folder that holds sample.vitdex; it becomes the current one
    for block in blocks(text):
        page.run(block)                     # AssertionError, with the block's line, where it does not run

Python blocks of a page share their names, and `index` is the sample, open. Every query of an SQL block has an answer.
A command ends with exit status 0 and writes what `-o` names.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from vitdex.query import Index
from vitdex.query.commands.main import cli

PROSE = "text"  # a fence that holds no code
EXCUSE = re.compile(r"<!-- not run: (\S.*) -->")
SHORTER = {  # the same command with less to do
    "generate": ["--snapshot", "2"],
    "index": ["--limit", "24", "--workers", "0", "--overwrite"],
    "rankings": ["--images", "1", "--random", "1", "--limit", "2", "--by", "score", "--by", "contribution"],
    "ablate": ["--images", "4", "--random", "1"],
    "dissect concepts": ["--layer", "blocks.5.mlp.fc1"],
}


@dataclass(frozen=True)
class Block:
    """One block: the line that it begins at, its language, its text, and why it is not run ('' where it is)."""

    line: int
    language: str
    text: str
    excuse: str


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, and its indented lines that are commands. An excuse stands on a line before."""
    lines = page.splitlines()
    excuse, at = "", 0
    while at < len(lines):
        line, start = lines[at], at + 1
        at += 1
        if found := EXCUSE.fullmatch(line):
            excuse = found[1]
        elif line.startswith("```"):
            end = next(i for i in range(at, len(lines)) if lines[i].startswith("```"))
            yield Block(start, line[3:].strip(), "\n".join(lines[at:end]), excuse)
            excuse, at = "", end + 1
        elif line.startswith("    vitdex "):
            yield Block(start, "sh", line.strip(), excuse)
        elif line.strip():
            assert not excuse, f"line {start}: an excuse without a block"


@dataclass
class Page:
    """Where the blocks of one page run."""

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)

    def run(self, block: Block) -> None:
        """Run a block; AssertionError where it fails, is of no known language, or names no command of ours."""
        if block.language == PROSE or block.excuse:
            return
        run = {"python": self._python, "sql": self._sql, "sh": self._sh}.get(block.language)
        assert run, f"line {block.line}: a block of '{block.language}' is neither run nor excused"
        try:
            run(block.text)
        except Exception as error:
            raise AssertionError(f"line {block.line}: {block.text}\n{type(error).__name__}: {error}") from error

    def close(self) -> None:
        if "index" in self.names:
            self.names["index"].close()

    @property
    def index(self) -> Index:
        if "index" not in self.names:
            self.names["index"] = Index(self.folder / "sample.vitdex")
        index: Index = self.names["index"]
        return index

    def _python(self, text: str) -> None:
        assert self.index
        exec(compile(text, "page", "exec"), self.names)

    def _sql(self, text: str) -> None:
        for query in re.sub(r"--.*", "", text).split(";"):
            if query.strip():
                assert len(self.index.sql(query)), f"no rows: {query.strip()}"

    def _sh(self, text: str) -> None:
        for line in text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                self._command(words)

    def _command(self, words: list[str]) -> None:
        assert words[0] == "vitdex", f"'{words[0]}' is no command of ours"
        verb, *rest = words[1:]
        if verb == "index":
            rest[0] = f"made-{rest[0]}"
        shorter = SHORTER.get(verb) or SHORTER.get(" ".join([verb, *rest[:1]]), [])
        result = CliRunner().invoke(cli, [verb, *rest, *shorter])
        assert result.exit_code == 0, f"{' '.join(words)}\n{result.output}\n{result.exception}"
        written = [rest[i + 1] for i, word in enumerate(rest) if word == "-o"]
        assert all(Path(file).stat().st_size for file in written)
