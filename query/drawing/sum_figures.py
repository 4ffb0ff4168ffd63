"""Figures of sums of value vectors. See figure_style for what all figures have in common."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .colours import COLOURS, GREY
from .figure_style import CAPTION, LABEL, MANY, TICK, new_axes, new_figure, plain, short

MOST = 24  # rows of many


def sums_figure(pairs: pd.DataFrame, name: str, by: str, caption: str = "") -> Figure:
    """Each pair's two parts and their sum, hollow where chance gains as much; at most MANY pairs, the first."""
    shown = pairs.head(MANY)
    figure, (axis,) = new_axes(7.2, 0.25 * max(len(shown), 2) + 1.2, caption)
    units = zip(shown.layer_a, shown.unit_a, shown.layer_b, shown.unit_b, strict=True)
    _rows(axis, shown, [f"{block_number(at)}:{a} + {block_number(bt)}:{b}" for at, a, bt, b in units])
    axis.set_xlabel(f"{by} of {short(name)}")
    _legend(figure)
    return figure


def composed_figure(composed: pd.DataFrame, by: str, caption: str = "") -> Figure:
    """Every class with its best pair of neurons of other classes; of many the first MOST, and all as histograms."""
    some = composed[composed.pairs > 0]
    if len(some) <= MANY:
        figure, (left,) = new_axes(8, 0.25 * max(len(some), 2) + 1.2, caption)
        _rows(left, some, _named(some))
    else:
        first = some.sort_values("sum", ascending=False).head(MOST)
        figure = new_figure(11, 0.25 * MOST + 1.2, caption)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
        left, sums, counts = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
        _rows(left, first, _named(first))
        left.set_title(f"the {MOST} largest sums of {len(some):,} classes", fontsize=CAPTION)
        sums.hist(some["sum"] - some[["a", "b"]].max(axis=1), bins=40, color=COLOURS[0])
        sums.set(xlabel=f"{by}: the sum - the better part", ylabel="classes")
        counts.hist(np.log10(composed.pairs.clip(lower=0.5)), bins=40, color=COLOURS[0])
        ticks = [t for t in range(-1, 6) if t <= np.log10(composed.pairs.max()) + 1]
        counts.set_xticks([np.log10(0.5), *ticks[1:]], ["0", *(f"{10**t:,}" for t in ticks[1:])])
        counts.set(xlabel="pairs of other classes that sum to the class", ylabel="classes")
        for axis in (left, sums, counts):
            plain(axis)
        left.tick_params(axis="y", labelsize=TICK)
        for axis in (sums, counts):
            axis.set_title(f"all {len(some if axis is sums else composed):,} classes", fontsize=CAPTION)
    left.set_xlabel(f"{by} of the class")
    _legend(figure)
    return figure


def _named(composed: pd.DataFrame) -> list[str]:
    parts = zip(composed.class_a, composed.class_b, composed["class"], strict=True)
    return [f"{short(a, 18)} + {short(b, 18)} = {short(whole, 18)}" for a, b, whole in parts]


def _rows(axis: Axes, pairs: pd.DataFrame, names: list[str]) -> None:
    place = np.arange(len(pairs))
    axis.hlines(place, pairs[["a", "b"]].max(axis=1), pairs["sum"], color=GREY, lw=1)
    axis.plot(pairs.a, place, "o", ms=5, color=COLOURS[4], label="one alone")
    axis.plot(pairs.b, place, "o", ms=5, mfc="none", color=COLOURS[4], label="the other alone")
    passes = pairs.passes.to_numpy(bool)
    for some, face, label in ((passes, COLOURS[0], "their sum"), (~passes, "white", "their sum, not above chance")):
        if some.any():
            axis.plot(pairs["sum"][some], place[some], "D", ms=5, color=COLOURS[0], mfc=face, label=label)
    axis.set_yticks(place, names, fontsize=LABEL)
    axis.set_ylim(max(len(pairs), 2) - 0.4, -0.6)
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=3, fontsize=LABEL)


def sets_figure(sets: pd.DataFrame, name: str, by: str, caption: str = "") -> Figure:
    """How the value grows with every neuron that joins, against as many neurons with the largest scores."""
    figure, (axis,) = new_axes(7.2, 3.8, caption)
    for i, (_, one) in enumerate(sets.groupby("set")):
        units = ", ".join(f"{block_number(layer)}:{unit}" for layer, unit in zip(one.layer, one.unit, strict=True))
        axis.plot(one["size"], one.value, "o-", ms=4, color=COLOURS[i % len(COLOURS)], label=short(units, 40))
    longest = sets[sets.set == sets.groupby("set").size().idxmax()]
    axis.plot(longest["size"], longest.by_score, "--", color="black", lw=1.5, label="largest scores")
    axis.plot(longest["size"], longest.chance, ":", color=GREY, lw=1.5, label="chance")
    axis.set_xticks(longest["size"])
    axis.set(xlabel="neurons summed", ylabel=f"{by} of {short(name)}")
    figure.legend(frameon=False, fontsize=TICK, loc="outside right center", title="block:unit", title_fontsize=LABEL)
    return figure


def block_number(layer: str) -> str:
    """The block's number in a layer's name."""
    number: str = next(part for part in layer.split(".") if part.isdecimal())
    return number
