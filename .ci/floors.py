"""Print the lower bounds of pyproject's dependencies as pip's constraints: `duckdb>=1.3` becomes `duckdb==1.3`.

torch and torchvision stay as pip resolves them: gigabytes, and older ones have no wheels for newer drivers.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

FREE = {"torch", "torchvision"}
EXTRAS = ("hf", "test")  # what the suite needs


def floors(project: dict[str, object]) -> list[str]:
    """'name==version' of every dependency of the suite. Raises ValueError for one without a lower bound."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    words = [*project["dependencies"], *(word for extra in EXTRAS for word in extras[extra])]  # type: ignore[misc]
    out = []
    for word in words:
        if word.startswith(f"{project['name']}["):
            continue
        bound = re.match(r"([A-Za-z0-9_.-]+)(?:\[.*\])?\s*>=\s*([0-9.]+)", word)
        if bound is None:
            raise ValueError(f"'{word}' in pyproject.toml has no lower bound")
        if bound[1] not in FREE:
            out.append(f"{bound[1]}=={bound[2]}")
    return out


if __name__ == "__main__":
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    print("\n".join(floors(tomllib.loads(pyproject.read_text())["project"])))
