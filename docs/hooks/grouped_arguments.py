"""Docstrings that say one thing of several arguments ("weights, device: as for open_model"), taken apart.

Each argument gets the words of its group, so that each is found, and one that the function does not have is an error.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

GROUP = re.compile(r"^    (\w+(?:, \w+)+): (.*(?:\n {8}.*)*)", re.MULTILINE)
BESIDE = re.compile(r"^(    \w+: [^\n:;]*); ([a-z_]+): ", re.MULTILINE)  # "layer: such as ...; unit: the neuron in it."
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)  # shown as code under this name


def separated(docstring: str) -> str:
    """The docstring with a line for each argument, and its example as code."""
    apart = BESIDE.sub(r"\1.\n    \2: ", docstring)
    apart = EXAMPLE.sub("Examples:", apart)
    return GROUP.sub(lambda group: "\n".join(f"    {name}: {group[2]}" for name in group[1].split(", ")), apart)


class GroupedArguments(griffe.Extension):
    """What the reference loads functions with."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        if func.docstring:
            func.docstring.value = separated(func.docstring.value)
