"""Who imports whom, read from the code: the rules of docs/project/architecture.md as functions of a tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOMS = {"schemas": set(), "data": {"schemas"}, "indexer": {"schemas", "data"}, "query": {"schemas"}}
READS_DATA = ("query/model/", "query/dissect/masks.py")  # the parts of query that run a model or open the sample
BELOW = {"lookups", "model", "stored", "notes", "drawing"}
WINGS: dict[str, set[str]] = {
    "drawing": set(),
    "notes": set(),
    "stored": {"notes"},
    "console": {"stored"},
    "lookups": {"stored"},
    "model": {"stored"},
    "dissect": BELOW,
    "causal": BELOW,
    "heatmaps": BELOW,
    "generate": BELOW,
    "export": BELOW,
    "atlas": {*BELOW, "console"},
}
TOPS = {"index.py", "__init__.py", "__main__.py", "commands"}  # of query, above all its wings
HEAVY = {"torch", "timm", "torchvision", "matplotlib", "PIL", "zarr", "numba", "starlette", "uvicorn"}
SPEAKING = {"tqdm", "click"}  # what only the command line imports
SPEAKERS = ("query/commands/", "indexer/command.py", "data/sample_recipe/")


@dataclass(frozen=True)
class Import:
    """One import: the file, the module it names (`vitdex.query.index`, `torch`), the line.

    `inside` a function, or `for_types` alone: then it does not run when its file is imported.
    """

    file: str
    module: str
    line: int
    inside: bool
    for_types: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


class House:
    """The rooms below a root. Modules are files by their path: 'query/stored/names.py'."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(p.relative_to(root).as_posix() for room in ROOMS for p in (root / room).rglob("*.py"))

    @cached_property
    def imports(self) -> list[Import]:
        return [one for file in self.files for one in self._of_file(file)]

    def _of_file(self, file: str) -> Iterator[Import]:
        tree = ast.parse((self.root / file).read_text())
        package = ["vitdex", *file.split("/")[:-1]]
        types = {
            child
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for child in ast.walk(node)
        }
        for node, inside in _walk(tree, False):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(file, alias.name, node.lineno, inside, node in types)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                for alias in node.names:
                    is_module = self.file_of(f"{base}.{alias.name}") is not None
                    yield Import(
                        file, f"{base}.{alias.name}" if is_module else base, node.lineno, inside, node in types
                    )
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("files", "import_module"):
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and str(argument.value).startswith("vitdex."):
                        yield Import(file, str(argument.value), node.lineno, False)

    def file_of(self, module: str) -> str | None:
        """The file of one of our modules; None for other libraries."""
        path = module.removeprefix("vitdex.").replace(".", "/")
        return next((f for f in (f"{path}.py", f"{path}/__init__.py") if f in self.files), None)

    def ours(self) -> Iterator[tuple[Import, str]]:
        """Imports of our own files, and those files."""
        for one in self.imports:
            target = self.file_of(one.module)
            if target is not None and target != one.file:
                yield one, target
            elif one.module.startswith("vitdex."):  # a folder of data, as files("vitdex.data") names it
                yield one, one.module.removeprefix("vitdex.").replace(".", "/") + "/"

    def wrong_rooms(self) -> list[str]:
        """Imports across rooms that the rules do not allow."""
        wrong = []
        for one, target in self.ours():
            room, there = one.file.split("/")[0], target.split("/")[0]
            allowed = ROOMS[room] | {room}
            if one.file.startswith(READS_DATA):
                allowed = allowed | {"data"}
            if there not in allowed:
                wrong.append(str(one))
        return wrong

    def wrong_wings(self) -> list[str]:
        """Imports between the wings of query that the rules do not allow."""
        wrong = []
        for one, target in self.ours():
            if not (one.file.startswith("query/") and target.startswith("query/")):
                continue
            wing, there = one.file.split("/")[1], target.split("/")[1]
            if wing in TOPS:
                wrong += [str(one)] if there == "commands" and wing not in ("commands", "__main__.py") else []
            elif there != wing and there not in WINGS.get(wing, set()):
                wrong.append(str(one))
        return wrong

    def circles(self) -> list[list[str]]:
        """Files that import each other in a loop, imports inside functions included."""
        arrows: dict[str, set[str]] = {file: set() for file in self.files}
        for one, target in self.ours():
            if target in arrows and not target.endswith("__init__.py"):
                arrows[one.file].add(target)
        return [sorted(group) for group in _loops(arrows)]

    def needless_inside(self) -> list[str]:
        """Imports of ours inside a function though they keep nothing heavy out."""
        direct: dict[str, set[str]] = {file: set() for file in self.files}
        for one in self.imports:
            if not one.inside and not one.for_types:
                direct[one.file].add(self.file_of(one.module) or one.module.split(".")[0])
        return [str(o) for o, t in self.ours() if o.inside and t in direct and not HEAVY & _reach(direct, t)]

    def speaking(self) -> list[str]:
        """What prints or draws bars outside the command line."""
        wrong = [
            str(one)
            for one in self.imports
            if one.module.split(".")[0] in SPEAKING and not one.file.startswith(SPEAKERS)
        ]
        for file in self.files:
            calls = (n for n in ast.walk(ast.parse((self.root / file).read_text())) if isinstance(n, ast.Call))
            if not file.startswith(SPEAKERS) and any(ast.unparse(call.func) == "print" for call in calls):
                wrong.append(f"{file} prints")
        return wrong

    def folders(self) -> set[str]:
        """Every folder with a .py file, as the package it is."""
        return {".".join(["vitdex", *Path(file).parts[:-1]]) for file in self.files}


def _walk(node: ast.AST, inside: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        yield child, inside
        yield from _walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def _reach(arrows: dict[str, set[str]], start: str) -> set[str]:
    """Everything that `start` leads to."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        here = waiting.pop()
        waiting += [there for there in arrows.get(here, ()) if there not in seen]
        seen |= arrows.get(here, set())
    return seen


def _loops(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Groups of two or more that reach each other, and those that reach themselves."""
    reach = {file: _reach(arrows, file) for file in arrows}
    groups: list[set[str]] = []
    for file in arrows:
        group = {other for other in reach[file] if file in reach.get(other, set())}
        if group and group not in groups:
            groups.append(group)
    return groups
