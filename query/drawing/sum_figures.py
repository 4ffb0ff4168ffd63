"""Figures of sums of value vectors: a table in, a matplotlib Figure out."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .colours import COLOURS, GREY
from .figure_style import new_axes


def sums_figure(pairs: pd.DataFrame, title: str, by: str) -> Figure:
    """Each pair's two parts and their sum."""
    figure, (axis,) = new_axes(6.4, 0.3 * len(pairs) + 1.5)
    place = np.arange(len(pairs))
    axis.hlines(place, pairs[["a", "b"]].max(axis=1), pairs["sum"], color=GREY, lw=1)
    axis.plot(pairs.a, place, "o", ms=5, color=COLOURS[4], label="one alone")
    axis.plot(pairs.b, place, "o", ms=5, mfc="none", color=COLOURS[4], label="the other alone")
    axis.plot(pairs["sum"], place, "D", ms=5, color=COLOURS[0], label="their sum")
    units = zip(pairs.layer_a, pairs.unit_a, pairs.layer_b, pairs.unit_b, strict=True)
    names = [f"{block_number(layer_a)}:{a} + {block_number(layer_b)}:{b}" for layer_a, a, layer_b, b in units]
    if "class" in pairs:
        parts = zip(pairs.class_a, pairs.class_b, pairs["class"], strict=True)
        names = [f"{a} + {b} = {whole}" for a, b, whole in parts]
    axis.set_yticks(place, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(f"{by} of {title}")
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
    return figure


def sets_figure(sets: pd.DataFrame, title: str, by: str) -> Figure:
    """How the value grows with every neuron that joins, against as many neurons with the largest scores."""
    figure, (axis,) = new_axes(5, 3.4)
    for i, (_, one) in enumerate(sets.groupby("set")):
        axis.plot(one["size"], one.value, "o-", ms=4, color=COLOURS[i % len(COLOURS)], label=f"from pair {i + 1}")
    longest = sets[sets.set == sets.groupby("set").size().idxmax()]
    axis.plot(longest["size"], longest.by_score, "--", color="black", lw=1.5, label="largest scores")
    axis.set_xticks(longest["size"])
    axis.set(xlabel="neurons summed", ylabel=f"{by} of {title}")
    axis.legend(frameon=False, fontsize=8)
    return figure


def block_number(layer: str) -> str:
    """The block's number in a layer's name."""
    number: str = next(part for part in layer.split(".") if part.isdecimal())
    return number
