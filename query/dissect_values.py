"""The subcommands of vitdex dissect about value vectors and tokens: agreement, composition, sums, fires."""

from __future__ import annotations

from pathlib import Path

import click

from . import sums
from .agreement import class_value_agreement, key_value_agreement
from .console import OUT, form_options
from .dissect_options import CLASS, LAYER, MEASURE, WEIGHTS, finish
from .fires import fires
from .index import Index

CANDIDATES = click.option("--candidates", default=300, show_default=True, help="Neurons of which all pairs are tried.")


@click.command()
@OUT
@form_options
def agreement(out: Path, form: str | None, picture: Path | None) -> None:
    """How often keys and values agree on a class, and how near value vectors come to the head's rows."""
    labels = {"agreement": "key-value agreement", "class_value": "class-value agreement"}
    with Index(out) as index:
        values = class_value_agreement(index).rename(columns={"agreement": "class_value"})
        table = key_value_agreement(index).merge(values, on=["layer", "block"])
        finish(table, form, picture, lambda f: f.lines_figure(table, labels))


@click.command()
@OUT
@WEIGHTS
@click.option("--device", default="cpu", show_default=True)
@form_options
def composition(out: Path, weights: str | None, device: str, form: str | None, picture: Path | None) -> None:
    """How classes come about: by single neurons or by sums of them, and from which block on. Runs the model."""
    from .composition import composition as measure

    labels = {"compositional": "compositional share", "identifiability": "class identifiability"}
    with Index(out) as index:
        table = measure(index, weights, device)
        finish(table, form, picture, lambda f: f.lines_figure(table, labels))


@click.command()
@OUT
@CLASS
@MEASURE
@CANDIDATES
@click.option("-k", default=20, show_default=True, help="Pairs to show.")
@form_options
def pairs(out: Path, class_: str, by: str, candidates: int, k: int, form: str | None, picture: Path | None) -> None:
    """Pairs of neurons whose summed value vectors say a class better than each alone."""
    with Index(out) as index:
        table = sums.pairs(index, class_, by, candidates, k)
        finish(table, form, picture, lambda f: f.sums_figure(table, class_, by))


@click.command()
@OUT
@CLASS
@MEASURE
@CANDIDATES
@click.option("--size", default=4, show_default=True, help="Neurons of a set.")
@form_options
def sets(out: Path, class_: str, by: str, candidates: int, size: int, form: str | None, picture: Path | None) -> None:
    """Small sets of neurons, grown from a class's best pairs."""
    with Index(out) as index:
        table = sums.sets(index, class_, size, by, candidates)
        finish(table, form, picture, lambda f: f.sets_figure(table, class_, by))


@click.command()
@OUT
@MEASURE
@CANDIDATES
@form_options
def composed(out: Path, by: str, candidates: int, form: str | None, picture: Path | None) -> None:
    """Classes composed of others: two neurons of other classes whose sum says this one."""
    with Index(out) as index:
        table = sums.composed(index, by, candidates)
        finish(table, form, picture, lambda f: f.sums_figure(table[table.pairs > 0], "the class", by))


@click.command(name="fires")
@OUT
@click.argument("image")
@click.option("--patch", help="One patch by its number, or 'cls'; else all tokens.")
@LAYER
@form_options
def fires_command(
    out: Path, image: str, patch: str | None, layer: str | None, form: str | None, picture: Path | None
) -> None:
    """From an image to its neurons: which are a token's five largest, and what they say of its class."""
    with Index(out) as index:
        table = fires(index, image, patch, layer)
        finish(table, form, picture, lambda f: f.fires_figure(table, image))


COMMANDS = (agreement, composition, pairs, sets, composed, fires_command)
