"""Figures of classes' shares: a row a class; of many classes the extremes as rows, all as dots, and how they spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .colours import COLOURS, GREY
from .figure_style import CAPTION, LABEL, MANY, TICK, ends, new_axes, new_figure, plain


@dataclass(frozen=True)
class Against:
    """Two columns of shares that a figure compares, what they are called, and the column that says what is marked."""

    value: str
    reference: str
    value_label: str
    reference_label: str
    marked: str
    is_marked: str
    is_not: str


Rows = Callable[[Axes, pd.DataFrame], None]  # draws some classes, a row each


def classes_figure(table: pd.DataFrame, of: Against, rows: Rows, caption: str, width: float, room: float) -> Figure:
    """A figure of all classes, its legend below.

    width, room: inches of a figure of few classes, and of its height what the rows do not take.
    """
    if len(table) <= MANY:
        figure, (axis,) = new_axes(width, 0.27 * len(table) + room, caption)
        rows(axis, table)
    else:
        figure = _many_classes(table, of, rows, caption)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2, fontsize=LABEL)
    return figure


def name_rows(axis: Axes, names: Sequence[str], xlabel: str) -> None:
    """Names of the rows, the first above, and below them the axis of shares."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set(xlim=(-0.02, 1.02), xlabel=xlabel)
    axis.grid(axis="y", color="#eeeeee")
    axis.set_axisbelow(True)


def _many_classes(table: pd.DataFrame, of: Against, rows: Rows, caption: str) -> Figure:
    """Left, `rows` draws the classes whose value lies furthest above and below the reference; right, all of them."""
    over = (table[of.value] - table[of.reference]).rename("over")
    ranked = table.assign(over=over).sort_values("over", ascending=False, ignore_index=True)
    places = ends(int(ranked.over.notna().sum()))
    figure = new_figure(11, 7.2, caption)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.5, 1))
    left, dots, bars = (figure.add_subplot(part) for part in (grid[:, 0], grid[0, 1], grid[1, 1]))
    rows(left, ranked.iloc[places])
    left.set_title(
        f"the {len(places) // 2} classes furthest above and below {of.reference_label}, of {len(ranked):,}",
        fontsize=CAPTION,
    )
    left.axhline(len(places) / 2 - 0.5, color="black", lw=1)
    for marked, colour in ((False, GREY), (True, COLOURS[0])):
        one = ranked[ranked[of.marked] == marked]
        label = f"{of.is_marked if marked else of.is_not} ({len(one):,})"
        dots.plot(one[of.reference], one[of.value], "o", ms=3, alpha=0.5, mew=0, color=colour, label=label)
    dots.plot([0, 1], [0, 1], color="black", lw=0.8, ls="--", label="alike")
    dots.set(xlim=(0, 1), ylim=(0, 1), xlabel=of.reference_label, ylabel=of.value_label)
    dots.legend(frameon=False, fontsize=TICK, loc="upper left")
    bars.hist(ranked.over.dropna(), bins=40, color=COLOURS[0])
    bars.axvline(0, color="black", lw=0.8, ls="--")
    median = ranked.over.median()
    bars.axvline(median, color=COLOURS[5], lw=1.2, label=f"median {median:.2f}")
    bars.set(xlabel=f"{of.value_label} - {of.reference_label}", ylabel="classes")
    bars.legend(frameon=False, fontsize=TICK)
    for axis in (dots, bars):
        axis.set_title(f"all {len(ranked):,} classes", fontsize=CAPTION)
        plain(axis)
    plain(left)
    left.tick_params(axis="y", labelsize=TICK)
    return figure
