"""The figure of whether neurons look at the object: a row a class, or of many classes the extremes and all as dots."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .colours import COLOURS, GREY
from .figure_style import CAPTION, LABEL, MANY, TICK, ends, new_axes, new_figure, plain, short

INTERVAL = 1.96  # standard errors: 95%


def focus_figure(focus: pd.DataFrame, by: str, caption: str = "") -> Figure:
    """Energy inside the object: the first neuron, random neurons of its block, the mask's share, and chance."""
    if len(focus) <= MANY:
        figure, (axis,) = new_axes(7.2, 0.27 * len(focus) + 1.3, caption)
        _rows(axis, focus, by)
    else:
        figure = _many(focus, by, caption)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2, fontsize=LABEL)
    return figure


def _many(focus: pd.DataFrame, by: str, caption: str) -> Figure:
    """The classes furthest above and below random neurons, and how all of them lie."""
    over = (focus.energy - focus.random_energy).rename("over")
    ranked = focus.assign(over=over).sort_values("over", ascending=False, ignore_index=True)
    places = ends(int(ranked.over.notna().sum()))
    figure = new_figure(11, 7.2, caption)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    left, dots, bars = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
    _rows(left, ranked.iloc[places], by)
    left.set_title(f"the {len(places) // 2} classes furthest above and below random neurons", fontsize=CAPTION)
    left.axhline(len(places) / 2 - 0.5, color="black", lw=1)
    for passes, colour in ((False, GREY), (True, COLOURS[0])):
        one = ranked[ranked.passes == passes]
        label = f"{'passes' if passes else 'does not pass'} ({len(one):,})"
        dots.plot(one.random_energy, one.energy, "o", ms=3, alpha=0.5, mew=0, color=colour, label=label)
    dots.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--", label="as random neurons")
    dots.set(xlim=(0, 1), ylim=(0, 1), xlabel="energy of random neurons", ylabel="energy of the first neuron")
    dots.legend(frameon=False, fontsize=TICK, loc="upper left")
    bars.hist(ranked.over.dropna(), bins=40, color=COLOURS[0])
    bars.axvline(0, color="black", lw=0.8, ls="--")
    median = ranked.over.median()
    bars.axvline(median, color=COLOURS[5], lw=1.2, label=f"median {median:.2f}")
    bars.set(xlabel="energy - energy of random neurons", ylabel="classes")
    bars.legend(frameon=False, fontsize=TICK)
    for axis in (dots, bars):
        axis.set_title(f"all {len(ranked):,} classes", fontsize=CAPTION)
        plain(axis)
    plain(left)
    left.tick_params(axis="y", labelsize=TICK)
    return figure


def _rows(axis: Axes, focus: pd.DataFrame, by: str) -> None:
    """A row a class: dots with their intervals."""
    place = np.arange(len(focus))
    axis.hlines(place, focus.random_05, focus.random_95, color=COLOURS[1], lw=5, alpha=0.3,
                label="90% of the random neurons")  # fmt: skip
    axis.plot(focus.random_energy, place, "o", color=COLOURS[1], ms=5, label="random neurons of its block, mean")
    axis.plot(focus.mask_share, place, "|", color="black", ms=10, mew=1.5, label="mask's share of the image")
    axis.plot(focus.chance, place, "|", color=COLOURS[5], ms=10, mew=1.5, label="chance, passed once in 20")
    error = INTERVAL * focus.energy_se.to_numpy()
    axis.hlines(place, focus.energy - error, focus.energy + error, color=COLOURS[0], lw=1.3)
    label = f"first key neuron by {by}, mean and 95% interval"
    passes = focus.passes.to_numpy(bool)
    axis.plot(focus.energy[passes], place[passes], "D", color=COLOURS[0], ms=5, label=label)
    axis.plot(focus.energy[~passes], place[~passes], "D", color=COLOURS[0], ms=5, mfc="white",
              label="the same: does not pass chance and the mask's share")  # fmt: skip
    counts = (focus.images - focus.no_energy).astype(int)
    rows = zip(focus["class"], focus.block, focus.unit, counts, strict=True)
    axis.set_yticks(place, [f"{short(name)}  {block}:{unit}  (n = {n})" for name, block, unit, n in rows])
    axis.set_ylim(len(focus) - 0.4, -0.6)
    axis.set(xlim=(-0.02, 1.02), xlabel="energy: share of positive activation inside the object's mask")
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)
