"""`vitdex dissect`: a subcommand for every analysis of the catalogue, its options out of the analysis's parameters."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from ..dissect.catalogue import ANALYSES, Analysis
from ..index import Index
from .analysis_options import ANALYSIS_OPTIONS
from .classes import chosen_class
from .options import INDEX, OUTPUT, model_options, shown_options
from .output import answer
from .terminal import progress_bar


@click.group("dissect")
def dissect_group() -> None:
    """Classes and neurons taken apart: blocks, regions, concepts, agreement, sums."""


def _command(analysis: Analysis) -> click.Command:
    parameters = inspect.signature(analysis.ask).parameters

    def run(index_path: Path, outputs: tuple[Path, ...], form: str, **options: Any) -> None:
        with Index(index_path) as index, progress_bar(analysis.name) as progress:
            if "class_" in parameters:
                options["class_"] = chosen_class(index, options["class_"])
            if "progress" in parameters:
                options["progress"] = progress
            found = analysis.ask(index, **options)
            answer(found.table, form, outputs, found.draw, question=analysis.name, caption=found.caption)

    command = shown_options(OUTPUT(run))
    if "weights" in parameters:
        command = model_options(command)
    for name, parameter in reversed(list(parameters.items())):
        if name in ANALYSIS_OPTIONS:
            command = ANALYSIS_OPTIONS[name](parameter.default)(command)
    return click.command(analysis.name, help=analysis.question)(INDEX(command))


for _analysis in ANALYSES:
    dissect_group.add_command(_command(_analysis))
